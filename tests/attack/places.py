"""Places: a connection that only claims a peer's name takes nothing that belongs to the peer."""

from __future__ import annotations

import asyncio
import contextlib
import time

from tests.attack.crowd import addresses, keep_open
from tests.attack.honest import connect
from tests.attack.world import INSIDE, AttackWorld, attack_world
from tests.lab.peer import PeerError, Stream, header, stream_error
from tests.lab.scenario import Stage, check, expect, step

stage = Stage("places under attack", attack_world)
CLAIMED = "claimed.example"


def claims(port: int, name: str, number: int, sources: int, seconds: float) -> None:
    """Hold connections that claim to be `name`, and never prove it."""
    keep_open(port, addresses("127.3.", sources), number, seconds, header(INSIDE, name), per_second=400)


async def _admitted(at: AttackWorld, domain: str, source: str) -> Stream:
    certificate = at.certificate(domain)
    began = time.monotonic()
    stream = await asyncio.to_thread(connect, at.port, source, INSIDE, domain, certificate, 20.0)
    step(f"{domain} admitted after {time.monotonic() - began:.2f} s")
    return stream


async def _refused(at: AttackWorld, domain: str, source: str) -> str:
    """Connect again as `domain`; return the stream error."""
    try:
        stream = await asyncio.to_thread(connect, at.port, source, INSIDE, domain, at.certificate(domain), 20.0)
    except PeerError as problem:
        return str(problem)
    element = await asyncio.to_thread(stream.next, 20.0)
    return "admitted" if element is None else stream_error(element)[0]


@stage.scenario("claims of a peer's name from many addresses do not keep the peer out; its fifth proven stream is refused", 240, quick=True)
async def _claims(at: AttackWorld) -> None:
    async with at.under(claims, 8, patient=True, name=CLAIMED, number=300, sources=60):
        await asyncio.sleep(3)
        streams = [await _admitted(at, CLAIMED, f"127.4.0.{number}") for number in range(1, 5)]
        check("resource-constraint" in await _refused(at, CLAIMED, "127.4.0.9"), "the fifth proven stream was not refused")
        for stream in streams:
            stream.close()
        rows = [row for row in at.gateway.asked("refusals", CLAIMED) if row["cause"] == "too-many-streams"]
        check(rows and "all of them proven" in rows[-1]["detail"], f"the record does not say which streams were counted: {rows}")
        await at.felt(lambda: at.limit_hits("unproven_per_name") > 0, "the claims of one name were not limited")


@stage.scenario("a peer at its limit whose machine has lost its streams is admitted", 60, quick=True)
async def _forgotten(at: AttackWorld) -> None:
    streams = [await _admitted(at, "rebooted.example", "127.5.0.1") for _ in range(4)]
    for stream in streams:  # the peer's machine has lost these streams: it answers data with a reset
        stream.raw.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0
        stream.close()
    await asyncio.sleep(0.2)
    stream = await _admitted(at, "rebooted.example", "127.5.0.1")
    stream.close()


def silent(port: int, prefix: str, sources: int, number: int, seconds: float) -> None:
    """Hold connections that send nothing."""
    keep_open(port, addresses(prefix, sources), number, seconds)


@stage.scenario("5,000 silent connections from 30 addresses of one network, opened again as they are closed", 120)
async def _silent(at: AttackWorld) -> None:
    async with at.under(silent, 10, prefix="127.6.0.", sources=30, number=5000):
        await asyncio.sleep(6)
        step(f"unproven {at.connections('unproven'):.0f}, descriptors {at.metrics()['s2sgw_descriptors']:.0f}")
        check(at.connections("unproven") <= 250, "one network has more unproven connections than it may")
    check(at.limit_hits("unproven_per_site") > 0, "the network was not limited")
    rows = at.gateway.asked("refusals")
    check(any(row["cause"] == "too-many-connections" and row["address"].startswith("127.6.0.") for row in rows), "not recorded")


@stage.scenario("silent connections from ten thousand networks, opened again as they are closed", 120)
async def _many_networks(at: AttackWorld) -> None:
    async with at.under(silent, 10, prefix="127.", sources=10_000, number=10_000):
        await asyncio.sleep(6)
        step(f"unproven {at.connections('unproven'):.0f}, descriptors {at.metrics()['s2sgw_descriptors']:.0f}")
    check(at.limit_hits("unproven") > 0, "the unproven connections were not limited in total")


@stage.scenario("a connection that is closed before its first byte is not a refusal", 30, quick=True)
async def _health_checks(at: AttackWorld) -> None:
    before = at.gateway.asked("refusals")
    for _ in range(50):
        with contextlib.closing(await asyncio.to_thread(Stream.dial, at.port)):
            pass
    await asyncio.sleep(0.5)
    expect(at.gateway.asked("refusals"), before, "the record")
