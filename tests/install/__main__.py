"""`make readme`: the README's steps, typed into a scratch machine with systemd and Prosody; last line `N passed, N failed`.

The machine has a Prosody for example.org and rooms.example.org, as Debian configures it. On its network are a name server and another
Prosody, for far.example. A message passes in both directions before the switch, behind the gateway, and after the way back.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.install.prosody import Evening
from tests.lab import scratch_machine
from tests.lab.lab import LabError
from tests.lab.scenario import Failed


def main() -> int:
    """Play all; return the exit status."""
    lacking = scratch_machine.missing()
    if lacking:
        print(f"skipped: a scratch machine needs {lacking}")
        return 0
    good = bad = 0
    with tempfile.TemporaryDirectory(prefix="s2sgw-readme-") as folder, scratch_machine.ScratchMachine(Path(folder)) as machine:
        evening = Evening(machine)
        for title, play in evening.scenarios():
            if played(title, play):
                good += 1
            else:
                bad += 1
                print(evening.logs())
                break
    print(f"{good} passed, {bad} failed")
    return 1 if bad else 0


def played(title: str, play: Callable[[], None]) -> bool:
    """Run one scenario and say how it went."""
    start = time.monotonic()
    try:
        play()
    except (Failed, LabError) as problem:
        print(f"  FAILED {title}\n{problem}", flush=True)
        return False
    except Exception:
        print(f"  FAILED {title}\n{traceback.format_exc()}", flush=True)
        return False
    print(f"  ok     {title}  ({time.monotonic() - start:.1f} s)", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
