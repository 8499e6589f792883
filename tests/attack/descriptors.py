"""Few file descriptors: strangers take none that look-ups, outgoing streams and proven peers need."""

from __future__ import annotations

import asyncio
from functools import partial

from tests.attack.crowd import keep_open
from tests.attack.places import silent
from tests.attack.world import AttackWorld, attack_world
from tests.lab.scenario import Stage, check, step

DESCRIPTORS = 1024
stage = Stage("1,024 file descriptors", partial(attack_world, descriptors=DESCRIPTORS))


@stage.scenario("the log says how many connections there are room for", 30)
async def _said(at: AttackWorld) -> None:
    lines = [line for line in at.gateway.logged().splitlines() if "too few open files" in line]
    check(len(lines) == 2 and "possible=384" in lines[0], f"{lines}")


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


@stage.scenario("5,000 silent connections take no descriptor that is needed", 120)
async def _silent(at: AttackWorld) -> None:
    async with at.under(silent, 10, prefix="127.7.", sources=5000, number=5000):
        await asyncio.sleep(6)
        metrics = at.metrics()
        step(f"descriptors {metrics['s2sgw_descriptors']:.0f} of {metrics['s2sgw_descriptors_limit']:.0f}")
        check(metrics["s2sgw_descriptors_limit"] == DESCRIPTORS, "the limit is not the one that was set")
        check(metrics["s2sgw_descriptors"] < 600, "connections use more descriptors than they may")
    check("EMFILE" not in at.gateway.logged() and "Too many open files" not in at.gateway.logged(), "there were no descriptors left")
