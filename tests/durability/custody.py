"""`make custody`: does the gateway lose stanzas when something fails? (docs/durability.md)

Each scenario runs its own gateway, on a real disk and real sockets that fail on demand. A stanza is lost if the gateway has
acknowledged it to its server, and it was neither delivered nor bounced nor is held in the queue. No scenario
may lose a stanza. One line is printed for each, then `N passed, N failed`; the exit status is 0 if none failed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.durability import scenarios
from tests.durability.crash import silence_asyncio
from tests.durability.scenario import SCENARIOS, Scenario, ScenarioContext
from tests.durability.xml_stream import XMLStreamError
from tests.lab.lab import PORTS, Lab, LabError

#: Scenarios at a time: most of their time they wait.
JOBS = 3
#: Seconds for the start and the end of a scenario, in addition to its own.
OVERHEAD_SECONDS = 30.0
#: Ports that a scenario may use.
PORTS_EACH = 300


def load() -> list[Scenario]:
    """Import all scenarios, and return them in their order."""
    for module in pkgutil.iter_modules(scenarios.__path__):
        importlib.import_module(f"{scenarios.__name__}.{module.name}")
    return SCENARIOS


# --- one scenario, in this process -----------------------------------------------------------------------------------


async def play(scenario: Scenario, lab: Lab) -> tuple[bool, list[str]]:
    """Run one scenario; return whether it passed, and the lines to print."""
    context, began, problems = ScenarioContext(lab), time.monotonic(), list[str]()
    try:
        async with asyncio.timeout(scenario.seconds):
            await scenario.run(context)
    except TimeoutError:
        problems.append(f"stopped after {scenario.seconds:g} s")
    except (LabError, XMLStreamError, OSError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    except Exception:
        problems.append(traceback.format_exc())
    account = "there is no account"
    if (bed := context.bed) is not None:
        try:
            async with asyncio.timeout(OVERHEAD_SECONDS - 5):
                account = (await bed.finish()).text()
        except (TimeoutError, LabError, OSError, AttributeError) as error:
            problems.append(f"the end: {type(error).__name__}: {error}")
        problems += bed.problems
    seconds = time.monotonic() - began
    notes = "" if bed is None else "".join(f"; {note}" for note in bed.notes)
    head = f"{'FAIL' if problems else 'ok  '} {scenario.name} ({seconds:.1f} s): {account}{notes}"
    return not problems, [head, *(f"       {line}" for problem in problems for line in problem.splitlines())]


def run_one(name: str, first_port: int, keep: bool) -> int:
    """Run one scenario and print its lines; return the exit status."""
    chosen = next(each for each in load() if each.name == name)
    silence_asyncio()
    with Lab(keep, first_port) as lab:
        passed, lines = asyncio.run(play(chosen, lab))
        if keep:
            lines.append(f"       kept: {lab.folder}")
    print("\n".join(lines), flush=True)
    return 0 if passed else 1


# --- all scenarios, each in a separate process -----------------------------------------------------------------------


def run_apart(scenario: Scenario, slot: int, keep: bool) -> tuple[bool, str]:
    """Run a scenario in a process; return whether it passed, and its output."""
    first_port = PORTS[(os.getpid() * 997 + slot * PORTS_EACH) % len(PORTS)]
    argv = [sys.executable, "-m", "tests.durability.custody", "--one", scenario.name, "--first-port", str(first_port)]
    process = subprocess.Popen(argv + ["--keep"] * keep, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=scenario.seconds + OVERHEAD_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # the gateway dies with it
        output, _ = process.communicate()
        return False, f"FAIL {scenario.name}: it hung and was killed\n{output}"
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode == 0, output or f"FAIL {scenario.name}: no output"


def run_all(chosen: Sequence[Scenario], jobs: int, keep: bool) -> int:
    """Run scenarios, `jobs` at a time, and print the output of each; return the exit status."""
    passed = 0
    with ThreadPoolExecutor(jobs) as pool:
        results = [pool.submit(run_apart, scenario, number, keep) for number, scenario in enumerate(chosen)]
        for scenario, result in zip(chosen, results, strict=True):
            ok, output = result.result()
            passed += ok
            print(f"{scenario.title}\n  {output.rstrip()}", flush=True)
    print(f"{passed} passed, {len(chosen) - passed} failed")
    return 0 if passed == len(chosen) else 1


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.durability.custody", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only scenarios whose name contains one of these")
    parser.add_argument("--list", action="store_true", help="print the names and titles")
    parser.add_argument("--jobs", type=int, default=JOBS, help="scenarios at a time")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folders")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--first-port", type=int, default=PORTS[0], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return run_one(arguments.one, arguments.first_port, arguments.keep)
    chosen = [each for each in load() if not arguments.words or any(word in each.name for word in arguments.words)]
    if arguments.list:
        for each in chosen:
            print(f"{each.name:<40} {each.title}")
        return 0
    return run_all(chosen, arguments.jobs, arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
