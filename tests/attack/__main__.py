"""`python -m tests.attack [word …]`: play every attack. The last line is `N passed, N failed`; the exit status is 1 if any failed."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import signal
import sys
import time

from tests.attack.stages import STAGES
from tests.lab.lab import Lab, LabError
from tests.lab.scenario import REPLAYS, Tally, play

#: The number of scenarios that `--again` plays again. If more of them fail, the cause is not temporary.
AGAIN = 1
#: The whole run ends after this many seconds in any case.
RUN_SECONDS = 3600


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description="hostile scripts against a live gateway, on loopback")
    parser.add_argument("words", nargs="*", help="play only scenarios whose title contains one of these")
    parser.add_argument("--stage", action="append", default=[], help="play only stages whose name contains this")
    parser.add_argument("--quick", action="store_true", help="play the quick half")
    parser.add_argument("--again", action="store_true", help=f"play the first failing scenario {REPLAYS} more times; all must pass, and it is reported")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder (configurations and logs)")
    parser.add_argument("--list", action="store_true", help="list stages and scenarios, those of the quick half with *")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, lab: Lab, tally: Tally) -> None:
    async with asyncio.timeout(RUN_SECONDS):
        for stage in STAGES:
            if not arguments.stage or any(word in stage.name for word in arguments.stage):
                await play(stage, lab, tally, arguments.words, quick=arguments.quick)


def _list() -> None:
    for stage in STAGES:
        print(stage.name)
        for scenario in stage.scenarios:
            print(f"  {'*' if scenario.quick else ' '} {scenario.title}")


def main() -> int:
    """Play, clean up, print the result."""
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = _arguments()
    if arguments.list:
        _list()
        return 0
    tally, start = Tally(replayed=AGAIN if arguments.again else 0), time.monotonic()
    try:
        with Lab(arguments.keep) as lab:
            if arguments.keep:
                print(f"folder: {lab.folder}", flush=True)
            asyncio.run(_run(arguments, lab, tally))
    except (LabError, TimeoutError) as problem:
        tally.fail("the run", str(problem) or f"stopped after {RUN_SECONDS} s")
    for unstable in tally.unstable:
        print(f"UNSTABLE, passed {REPLAYS} times when it was played again: {unstable.splitlines()[0]}")
    for failure in tally.failures:
        print(f"FAILED: {failure.splitlines()[0]}")
    print(f"{time.monotonic() - start:.0f} s")
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
