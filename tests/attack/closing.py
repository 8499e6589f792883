"""Thousands of short connections cost little: no long turn, no flood of lines or rows, and memory is released."""

from __future__ import annotations

import time
from functools import partial

from tests.attack.crowd import Crowd, addresses
from tests.attack.world import INSIDE, LONGEST_TURN, AttackWorld, attack_world
from tests.lab.peer import header
from tests.lab.scenario import Stage, check, step

#: Without these limits, which would end most of the connections before the attacker does.
_UNBOUNDED = {"limits": {"unproven": "100%", "unproven_per_site": 0, "unproven_per_name": 0, "connections_per_address": 0}}
stage = Stage("connections that come and go", partial(attack_world, changes=_UNBOUNDED))

SILENT = 10_000
#: Seconds of CPU for each connection that sends nothing, from its beginning to its end.
SILENT_SECONDS = 100e-6
#: A heap that held 2,500 streams keeps this much memory for the next ones.
HEAP_BYTES = 100_000_000


def at_once(port: int, number: int, seconds: float, say: str = "", rounds: int = 1, prefix: str = "127.8.") -> None:
    """Open connections that send the same data, hold them for some seconds, and close all at once; do so `times` times."""
    sources = addresses(prefix, number)
    for _ in range(rounds):
        crowd = Crowd(port)
        for source in sources:
            crowd.connect(source, say.encode())
        time.sleep(seconds / rounds / 2)
        crowd.close_all()
        time.sleep(seconds / rounds / 4)


@stage.scenario("10,000 silent connections, opened and closed at once", 120)
async def _silent(at: AttackWorld) -> None:
    await at.measure_quiet()
    before, lines = at.process.cpu_seconds(), at.gateway.logged().count("\n")
    began = time.monotonic()
    async with at.under(at_once, 8, number=SILENT, prefix="127."):
        pass
    quiet = (time.monotonic() - began) * at.quiet_cpu
    each = (at.process.cpu_seconds() - before - quiet) / SILENT
    step(f"{each * 1e6:.0f} µs of CPU for each connection, {at.gateway.logged().count(chr(10)) - lines} lines in the log")
    check(each <= SILENT_SECONDS, f"a silent connection costs {each * 1e6:.0f} µs")


@stage.scenario("4,000 headers for a domain that is not served, closed at once", 120)
async def _not_served(at: AttackWorld) -> None:
    lines = at.gateway.logged().count("\n")
    async with at.under(at_once, 8, number=4000, say=header("elsewhere.example", "friend.example").decode()):
        pass
    written = at.gateway.logged().count("\n") - lines
    step(f"{written} lines in the log; turns above {LONGEST_TURN} s: none")
    check(written <= 100 * 30, "more lines than the limit of the log")


@stage.scenario("2,000 headers and the ends of their connections, during the look-ups", 120)
async def _claims(at: AttackWorld) -> None:
    async with at.under(at_once, 8, number=2000, say=header(INSIDE, "gone.fresh.example").decode()):
        pass


@stage.scenario("100,000 connections that came and went leave no memory", 400)
async def _memory(at: AttackWorld) -> None:
    say = header("elsewhere.example", "friend.example").decode()
    async with at.under(at_once, 16, number=2500, rounds=4, say=say, left=HEAP_BYTES):
        pass
    before = at.process.resident_bytes()
    async with at.under(at_once, 126, number=2500, rounds=36, say=say):
        pass
    grown = at.process.resident_bytes() - before
    step(f"memory after 10,000: {before / 1e6:.1f} MB, after 100,000: {grown / 1e6:+.1f} MB")
    check(grown <= 10_000_000, f"{grown / 1e6:.1f} MB more than after 10,000")
