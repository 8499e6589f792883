"""Few file descriptors: strangers take none that look-ups, outgoing streams and proven peers need."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

from tests.attack.crowd import keep_open
from tests.attack.honest import connect
from tests.attack.places import silent
from tests.attack.world import INSIDE, AttackWorld, attack_world
from tests.lab.certificates import Certificate
from tests.lab.peer import PeerError, Stream
from tests.lab.scenario import Stage, check, step

DESCRIPTORS = 1024
#: The connections that there are room for, and those of honest peers.
CONNECTIONS, OTHERS = 384, 10
#: The peer with many names, and the connections that it opens at a time.
GREEDY, OPENERS = "greedy.example", 4
stage = Stage("1,024 file descriptors", partial(attack_world, descriptors=DESCRIPTORS))


@stage.scenario("the log says how many connections there are room for", 30)
async def _said(at: AttackWorld) -> None:
    lines = [line for line in at.gateway.logged().splitlines() if "too few open files" in line]
    check(len(lines) == 2 and f"possible={CONNECTIONS}" in lines[0], f"{lines}")


def silent_site(port: int, proxied_port: int, number: int, seconds: float) -> None:
    """Hold connections that send nothing, from as many networks (/64) of one IPv6 site (/48)."""
    sources = [f"2001:db8:1:{at:x}::1" for at in range(number)]
    keep_open(proxied_port, sources, number, seconds, proxied=True)


@stage.scenario("5,000 silent connections of one IPv6 /48, each from a /64 of its own", 120)
async def _site(at: AttackWorld) -> None:
    async with at.under(silent_site, 10, proxied_port=at.proxied_port, number=5000):
        await asyncio.sleep(6)
        step(f"unproven {at.connections('unproven'):.0f}, descriptors {at.metrics()['s2sgw_descriptors']:.0f}")
        check(at.metrics()["s2sgw_descriptors"] < 800, "connections use more descriptors than they may")
    check(at.limit_hits("unproven") + at.limit_hits("unproven_per_site") > 0, "the limit was not reached")


@stage.scenario("a thousand networks of one IPv6 /48 connect while the limits are reloaded again and again", 120)
async def _reloaded(at: AttackWorld) -> None:
    config = at.gateway.config
    written = config.read_text()
    try:
        async with at.under(silent_site, 8, proxied_port=at.proxied_port, number=1000):
            for number in range(8):
                await asyncio.sleep(1)
                least = number % 2 == 0
                limits = f"connections = {200 if least else CONNECTIONS}\nunproven_per_site = {5 if least else 100}"
                config.write_text(f'{written}\n[limits]\n{limits}\nnegotiation = "{5 if least else 30}s"\n')
                at.process.signal(signal.SIGHUP)
            step(f"unproven {at.connections('unproven'):.0f}")
    finally:
        config.write_text(written)
        at.process.signal(signal.SIGHUP)
        await asyncio.sleep(1)


@stage.scenario("5,000 silent connections take no descriptor that is needed", 120)
async def _silent(at: AttackWorld) -> None:
    async with at.under(silent, 10, prefix="127.7.", sources=5000, number=5000):
        await asyncio.sleep(6)
        metrics = at.metrics()
        step(f"descriptors {metrics['s2sgw_descriptors']:.0f} of {metrics['s2sgw_descriptors_limit']:.0f}")
        check(metrics["s2sgw_descriptors_limit"] == DESCRIPTORS, "the limit is not the one that was set")
        check(metrics["s2sgw_descriptors"] < 600, "connections use more descriptors than they may")
    check("EMFILE" not in at.gateway.logged() and "Too many open files" not in at.gateway.logged(), "there were no descriptors left")


def proven(port: int, files: list[str], name: str, local: str, number: int, seconds: float) -> None:
    """Hold connections that have each proven another sub-domain of one name, from other addresses; try again what is refused."""
    end = time.monotonic() + seconds
    certificate, parts = Certificate(*map(Path, files)), [range(part, number, OPENERS) for part in range(OPENERS)]
    threads = [threading.Thread(target=_proven, args=(port, certificate, name, local, part, end), daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _proven(port: int, certificate: Certificate, name: str, local: str, numbers: range, end: float) -> None:
    held: list[Stream] = []
    for number in numbers:
        if time.monotonic() > end:
            break
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            held.append(connect(port, f"127.40.{number % 200}.1", local, f"n{number}.{name}", certificate, 10.0))
    time.sleep(max(0.0, end - time.monotonic()))


@stage.scenario("a peer that proves more sub-domains than there are connections, each on one of its own: others are admitted", 120)
async def _sub_domains(at: AttackWorld) -> None:
    certificate = at.certificate(GREEDY, f"*.{GREEDY}")
    files, number = (str(certificate.chain), str(certificate.key)), 2 * CONNECTIONS
    async with at.under(proven, 14, patient=True, files=files, name=GREEDY, local=INSIDE, number=number):
        await at.felt(lambda: at.limit_hits("connections") > 0, "the peer was not limited")
        await asyncio.sleep(3)
        step(f"proven {at.connections('proven'):.0f}, descriptors {at.metrics()['s2sgw_descriptors']:.0f}")
        check(at.connections("proven") <= CONNECTIONS // 4 + OTHERS, "the peer has more connections than its share")
    rows = at.gateway.asked("refusals")
    check(any(f"of {GREEDY}, with all its sub-domains," in row["detail"] for row in rows), "the record does not say why")
