"""The lives of the gateway: how each is begun, what it meets, and how it ends; and what proves that it ended there."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence

from tests.durability.account import End
from tests.durability.arena import Arena
from tests.lab.place import Process

#: How often each kind comes. "mute" takes half a minute, and comes once in so many cycles.
KINDS: dict[End, int] = {
    "inbound": 2, "outbound": 2, "flow": 4, "spool": 3, "commit": 4, "start": 2, "restore": 3, "drain": 4, "stop": 4,
}
MUTE_EVERY = 100
#: What each kind is, for the account; and what is counted as a hit beside the end itself.
WORDS: dict[End, str] = {
    "inbound": "killed while stanzas were on their way in",
    "outbound": "killed while stanzas were on their way out",
    "flow": "killed while stanzas were on their way in and out",
    "spool": "killed while what next servers did not take was spooled",
    "commit": "killed before, during or right after a commit, nobody having heard of it",
    "start": "killed before it was ready, or in its first second",
    "restore": "killed while it read the spool back",
    "drain": "killed after SIGTERM, before its end",
    "mute": "killed after it had given up asking a next server that confirms nothing",
    "stop": "stopped in order: exit status 0",
}
#: Seconds: for a trap to spring, for stanzas to be on their way, and what "mute" lives (a ping is given 20 s).
TRAP, MOMENT, MUTE = 4.0, 0.5, (22.0, 25.0)


class Lives:
    """Lives one life after the other, and keeps count."""

    def __init__(self, arena: Arena, chance: random.Random, only: Sequence[str] = ()) -> None:
        self.times = arena.times
        self.kinds: Counter[End] = Counter()
        self.hits: Counter[End] = Counter()
        self._arena = arena
        self._chance = chance
        self._only = [each for each in WORDS if each in only] or list(KINDS)

    def kind(self, number: int) -> End:
        """Of the cycle of this number."""
        if not (number + 1) % MUTE_EVERY:
            return "mute"
        (kind,) = self._chance.choices(self._only, [KINDS.get(each, 1) for each in self._only])
        return kind

    async def live(self, kind: End) -> None:
        """One cycle."""
        self.kinds[kind] += 1
        self._arena.silence(kind == "mute" or self._chance.random() < 0.25)
        self._arena.direct(inward=kind != "outbound", outward=kind != "inbound")
        if kind == "restore":
            await self._fill()
        trap = self._trap(kind)
        process = self._arena.begin(trap)
        if kind == "start":
            await asyncio.sleep(self._chance.uniform(0.2, 1.6))
        elif kind != "restore":
            await self._work(kind)
        await self._end(kind, process, trap)
        self._arena.open()
        self._arena.direct(inward=True, outward=True)

    async def _fill(self) -> None:
        """A life before this one that leaves something in the spool."""
        self._arena.begin()
        await self._arena.ready()
        self._arena.shut(self._chance, 1.0)
        await asyncio.sleep(self._chance.uniform(0.4, 1.0))
        process = self._arena.process
        await self._kill("spool", process)
        self._arena.open()

    async def _work(self, kind: End) -> None:
        await self._arena.ready()
        if kind in ("spool", "commit", "drain"):
            self._arena.shut(self._chance, 0.0 if kind == "drain" and self._chance.random() < 0.5 else 0.6)
        await asyncio.sleep(self._chance.uniform(*(MUTE if kind == "mute" else self._arena.work)))

    def _trap(self, kind: End) -> str:
        """See `tests.durability.trap`; "" where there is none."""
        if kind not in ("commit", "restore", "drain") or (kind == "drain" and self._chance.random() < 0.5):
            return ""
        number = int(self._chance.choice((1, 1, 2, 3, 5, 8)) if kind != "commit" else self._chance.uniform(1, 30))
        return f"{kind}:{number}:{self._chance.choice(('before', 'during', 'after'))}"

    # --- ends ---

    async def _end(self, kind: End, process: Process, trap: str) -> None:
        if kind in ("drain", "stop"):
            process.signal(signal.SIGTERM)
        if kind == "stop":
            await self._arena.ended(process)
            self.hits[kind] += process.status == 0
            self.times.ends.append((time.time(), kind))
        elif trap and await self._caught(process):
            self.hits[kind] += 1
            self.times.ends.append((self._arena.sprung(), kind))
            await self._arena.ended(process)
        else:
            if kind == "drain":
                await asyncio.sleep(self._chance.uniform(0.0, 0.6))
            self.hits[kind] += not trap and await self._hit(kind, process)
            await self._kill(kind, process)

    async def _caught(self, process: Process) -> bool:
        deadline = time.monotonic() + TRAP
        while process.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return not process.alive and process.status == -signal.SIGKILL

    async def _hit(self, kind: End, process: Process) -> bool:
        """Wait for the moment at which there is on its way what should be. Whether there is."""
        wanted = (kind in ("inbound", "flow"), kind in ("outbound", "flow"))
        if not any(wanted):
            return process.alive
        deadline = time.monotonic() + MOMENT
        while time.monotonic() < deadline:
            if all(there for there, want in zip(self._arena.under_way(), wanted, strict=True) if want):
                return True
            await asyncio.sleep(0)
        return False

    async def _kill(self, kind: End, process: Process) -> None:
        self.times.ends.append((time.time(), kind))
        process.signal(signal.SIGKILL)
        await self._arena.ended(process)

    def text(self) -> str:
        """What was lived."""
        return "\n".join(
            f"{self.kinds[kind]:>5} × {kind:<9}{self.hits[kind]:>5} hit: {words}"
            for kind, words in WORDS.items() if self.kinds[kind]
        )
