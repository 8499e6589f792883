"""The form of stored times. They stay valid over restarts and changes of the wall clock.

In memory, times are seconds of the monotonic clock, which changes of the wall clock do not affect. It starts at zero with the
machine, so its numbers are not valid after a reboot. On the disk, times are microseconds since the epoch, made from the monotonic
clock by one offset for each start of the gateway.

- Restarted on the same boot of the machine: the monotonic clock went on, so the stored offset is used again. The wall clock does
not
  matter.
- Restarted after a reboot: the wall clock shows how long the machine was off. If it is behind the newest stored time, it was set
  back, and no time is counted: nothing is older than it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

#: The file with the id of this boot (Linux).
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class StoredClock:
    """The stored facts about the clock: the machine's boot, and the microseconds from its monotonic clock to the epoch."""

    boot: str
    offset: int

    def to_json(self) -> str:
        return json.dumps({"boot": self.boot, "offset": self.offset})

    @classmethod
    def from_json(cls, text: str) -> StoredClock:
        """Parse the result of `to_json`. Raises `ValueError`."""
        try:
            row = json.loads(text)
            return cls(str(row["boot"]), int(row["offset"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no stored clock: {error}") from None


def boot_id(path: Path = BOOT_ID) -> str:
    """Return the name of this boot of the machine; "": unknown."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def clock_now(stored: StoredClock | None, boot: str, monotonic: float, wall: float, newest: int) -> StoredClock:
    """Return the clock for storing times from now on.

    `monotonic` and `wall` are the present seconds of the two clocks. `newest` is the newest stored time, in microseconds.
    """
    if stored is not None and boot and stored.boot == boot:
        return stored
    return StoredClock(boot, max(round(wall * 1e6), newest) - round(monotonic * 1e6))
