"""The cycles of `make crash`: the start, the load, and the end of each run of the gateway.

Each kind of end has a condition that proves that the gateway was really in that situation (a hit). The report has the numbers.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence

from tests.durability.crash_account import End
from tests.durability.crash_testbed import CrashTestbed
from tests.lab.lab import Process

#: The frequency of each kind. "unanswered" takes half a minute, and happens once in this many cycles.
WEIGHTS: dict[End, int] = {
    "inbound": 2, "outbound": 2, "both": 4, "spool": 3, "commit": 4, "start": 2, "restore": 3, "shutdown": 4, "stop": 4,
}
UNANSWERED_EVERY = 100
#: The text of each kind, for the report.
DESCRIPTIONS: dict[End, str] = {
    "inbound": "killed while stanzas were on their way in",
    "outbound": "killed while stanzas were on their way out",
    "both": "killed while stanzas were on their way in and out",
    "spool": "killed while stanzas were spooled because servers refused connections",
    "commit": "killed before, during or right after a commit, before anything was acknowledged for it",
    "start": "killed before it was ready, or in its first second",
    "restore": "killed while it read the spool back",
    "shutdown": "killed after SIGTERM, before it had ended",
    "unanswered": "killed after a server had left a ping unanswered for 20 s",
    "stop": "stopped normally: exit status 0",
}
#: Seconds to reach a crash point, to have stanzas under way, and for an "unanswered" run (a ping has 20 s).
CRASH_POINT_SECONDS, UNDER_WAY_SECONDS, UNANSWERED_SECONDS = 4.0, 0.5, (22.0, 25.0)
#: The kinds that end at a crash point (`tests.durability.crash_points`), "shutdown" in half of the cases.
AT_CRASH_POINT = "commit", "restore", "shutdown"


class CrashCycles:
    """A runner of cycles that counts."""

    def __init__(self, testbed: CrashTestbed, chance: random.Random, only: Sequence[str] = ()) -> None:
        self.kinds: Counter[End] = Counter()
        self.hits: Counter[End] = Counter()
        self._testbed = testbed
        self._runner = testbed.runner
        self._ends = testbed.runs.ends
        self._chance = chance
        self._only = [each for each in DESCRIPTIONS if each in only] or list(WEIGHTS)

    def kind(self, number: int) -> End:
        """Return the kind of the cycle of this number."""
        if not (number + 1) % UNANSWERED_EVERY:
            return "unanswered"
        (kind,) = self._chance.choices(self._only, [WEIGHTS.get(each, 1) for each in self._only])
        return kind

    async def run(self, kind: End) -> None:
        """Run one cycle."""
        self.kinds[kind] += 1
        testbed = self._testbed
        testbed.answer_pings(kind != "unanswered" and self._chance.random() >= 0.25)
        testbed.send(inbound=kind != "outbound", outbound=kind != "inbound")
        if kind == "restore":
            await self._fill_spool()
        crash_point = self._crash_point(kind)
        process = testbed.begin(crash_point)
        if kind == "start":
            await asyncio.sleep(self._chance.uniform(0.2, 1.6))
        elif kind != "restore":
            await self._load(kind)
        await self._end(kind, process, bool(crash_point))
        testbed.accept_all()
        testbed.send(inbound=True, outbound=True)

    async def _fill_spool(self) -> None:
        """Run the gateway once before, so that something is in the spool."""
        self._testbed.begin()
        await self._runner.ready()
        self._testbed.refuse_some(self._chance, 1.0)
        await asyncio.sleep(self._chance.uniform(0.4, 1.0))
        await self._kill("spool")
        self._testbed.accept_all()

    async def _load(self, kind: End) -> None:
        await self._runner.ready()
        if kind in ("spool", "commit", "shutdown"):
            share = 0.0 if kind == "shutdown" and self._chance.random() < 0.5 else 0.6
            self._testbed.refuse_some(self._chance, share)
        await asyncio.sleep(self._chance.uniform(*(UNANSWERED_SECONDS if kind == "unanswered" else self._testbed.load_seconds)))

    def _crash_point(self, kind: End) -> str:
        """Return a crash point (`tests.durability.crash_points`), or "" if the kill comes from outside."""
        if kind not in AT_CRASH_POINT or (kind == "shutdown" and self._chance.random() < 0.5):
            return ""
        number = int(self._chance.choice((1, 1, 2, 3, 5, 8)) if kind != "commit" else self._chance.uniform(1, 30))
        return f"{kind}:{number}:{self._chance.choice(('before', 'during', 'after'))}"

    # --- ends ---

    async def _end(self, kind: End, process: Process, at_crash_point: bool) -> None:
        if kind in ("shutdown", "stop"):
            process.signal(signal.SIGTERM)
        if kind == "stop":
            self.hits[kind] += await self._runner.ended() == 0
            self._ends.append((time.time(), kind))
        elif at_crash_point and await self._killed_itself(process):
            self.hits[kind] += 1
            self._ends.append((self._testbed.crash_time(), kind))
            await self._runner.ended()
        else:
            if kind == "shutdown":
                await asyncio.sleep(self._chance.uniform(0.0, 0.6))
            self.hits[kind] += not at_crash_point and await self._hit(kind, process)
            await self._kill(kind)

    async def _killed_itself(self, process: Process) -> bool:
        deadline = time.monotonic() + CRASH_POINT_SECONDS
        while process.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return not process.alive and process.status == -signal.SIGKILL

    async def _hit(self, kind: End, process: Process) -> bool:
        """Wait until stanzas are under way in the directions of `kind`; return whether they are."""
        wanted = (kind in ("inbound", "both"), kind in ("outbound", "both"))
        if not any(wanted):
            return process.alive
        deadline = time.monotonic() + UNDER_WAY_SECONDS
        while time.monotonic() < deadline:
            if all(there for there, want in zip(self._testbed.under_way(), wanted, strict=True) if want):
                return True
            await asyncio.sleep(0)
        return False

    async def _kill(self, kind: End) -> None:
        self._ends.append((time.time(), kind))
        await self._runner.kill()

    def text(self) -> str:
        """Return how often each kind was run and hit."""
        return "\n".join(
            f"{self.kinds[kind]:>5} × {kind:<11}{self.hits[kind]:>5} hit: {description}"
            for kind, description in DESCRIPTIONS.items() if self.kinds[kind]
        )
