"""`make readme`: run the documentation's steps on scratch machines with systemd and a server. The last line is `N passed, N failed`.

    python -m tests.install [prosody] [ejabberd]

Each machine has a server for example.org and rooms.example.org, as Debian configures it. On its network are a name server and another
Prosody, for far.example. A message passes in both directions before the switch, behind the gateway, and after the way back.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.install.ejabberd import EjabberdEvening
from tests.install.evening import Evening
from tests.install.prosody import ProsodyEvening
from tests.lab import scratch_machine
from tests.lab.lab import LabError
from tests.lab.scenario import Failed

EVENINGS: dict[str, type[Evening]] = {"prosody": ProsodyEvening, "ejabberd": EjabberdEvening}


def main(names: Sequence[str]) -> int:
    """Run the steps for the servers `names`; return the exit status. SIGTERM ends the scratch machine too."""
    signal.signal(signal.SIGTERM, _exit)
    lacking = scratch_machine.missing()
    if lacking:
        print(f"skipped: a scratch machine needs {lacking}")
        return 0
    outcomes = [outcome for name in names for outcome in play(EVENINGS[name])]
    good = sum(outcomes)
    print(f"{good} passed, {len(outcomes) - good} failed")
    return 0 if all(outcomes) else 1


def _exit(*_: object) -> None:
    sys.exit(1)


def play(kind: type[Evening]) -> list[bool]:
    """Run the steps of one server until one fails; return the result of each scenario."""
    outcomes: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="s2sgw-readme-") as folder, scratch_machine.ScratchMachine(Path(folder)) as machine:
        evening = kind(machine)
        for title, scenario in evening.scenarios():
            outcomes.append(played(title, scenario))
            if not outcomes[-1]:
                print(evening.logs())
                break
    return outcomes


def played(title: str, scenario: Callable[[], None]) -> bool:
    """Run one scenario and print its result."""
    start = time.monotonic()
    try:
        scenario()
    except (Failed, LabError) as problem:
        print(f"  FAILED {title}\n{problem}", flush=True)
        return False
    except Exception:
        print(f"  FAILED {title}\n{traceback.format_exc()}", flush=True)
        return False
    print(f"  ok     {title}  ({time.monotonic() - start:.1f} s)", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(EVENINGS)))
