"""How times are stored so that they stay meaningful over restarts and steps of the wall clock.

In memory, times are seconds of the monotonic clock, which no step of the wall clock touches. It starts at zero with the machine,
so that a number of it means nothing after a reboot. On the disk, times are microseconds since the epoch, made from the monotonic
clock by one offset for each start of the gateway.

- Restarted on the same boot of the machine: the monotonic clock went on, so the stored offset is used again, whatever the wall
  clock says by now.
- Restarted after a reboot: the wall clock says how long the machine was off. Where it is behind the newest stored time, it was
  set back, and no time is counted at all: nothing is older than it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

#: Where Linux says which boot of the machine this is.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class StoredClock:
    """What was stored of the clock: the machine's boot, and the microseconds from its monotonic clock to the epoch."""

    boot: str
    offset: int

    def to_json(self) -> str:
        return json.dumps({"boot": self.boot, "offset": self.offset})

    @classmethod
    def from_json(cls, text: str) -> StoredClock:
        """The reverse of `to_json`. Raises `ValueError`."""
        try:
            row = json.loads(text)
            return cls(str(row["boot"]), int(row["offset"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no stored clock: {error}") from None


def boot_id(path: Path = BOOT_ID) -> str:
    """Return the name of this boot of the machine, or "" where it is not known."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def clock_now(stored: StoredClock | None, boot: str, monotonic: float, wall: float, newest: int) -> StoredClock:
    """Return the clock to store times by from now on.

    `monotonic` and `wall` are the seconds of the two clocks now. `newest` is the newest time that is stored, in microseconds.
    """
    if stored is not None and boot and stored.boot == boot:
        return stored
    return StoredClock(boot, max(round(wall * 1e6), newest) - round(monotonic * 1e6))
