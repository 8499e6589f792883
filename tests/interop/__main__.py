"""`python -m tests.interop [word …]`: play every stage. The last line is `N passed, N failed`; the exit status is 1 if any failed."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import signal
import sys
import time

from tests.interop import matrix, openfire
from tests.interop.stages import STAGES
from tests.lab.gateway import PROJECT
from tests.lab.lab import Lab, LabError
from tests.lab.scenario import NOTES, Tally, play
from tests.lab.servers import packages
from tests.lab.servers.launch import START

#: The file of the table for `--record`, which is between these two lines.
TABLE = PROJECT / "docs" / "interop.md"
_BEGIN, _END = "<!-- matrix: written by make interop -->", "<!-- end of matrix -->"
#: The whole run ends after this many seconds in any case.
RUN_SECONDS = 1500
#: The number of stages that `--again` plays again. If more of them fail, the cause is not temporary.
AGAIN = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description="real servers through the gateway, on loopback")
    parser.add_argument("words", nargs="*", help="play only scenarios whose title contains one of these")
    parser.add_argument("--stage", action="append", default=[], help="play only stages whose name contains this")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder (configurations and logs)")
    parser.add_argument("--again", action="store_true", help=f"play the first {AGAIN} failing stages again; the second result counts, and is reported")
    parser.add_argument("--record", action="store_true", help=f"write the matrix into {TABLE.relative_to(PROJECT)}")
    parser.add_argument("--list", action="store_true", help="list stages and scenarios")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, lab: Lab, tally: Tally) -> None:
    left = AGAIN if arguments.again else 0
    async with asyncio.timeout(RUN_SECONDS):
        for stage in STAGES:
            if not arguments.stage or any(word in stage.name for word in arguments.stage):
                first, again = Tally(), None
                await play(stage, lab, first, arguments.words)
                if first.failed and left:
                    left -= 1
                    print("the stage is played again", flush=True)
                    again = Tally()
                    await play(stage, lab, again, arguments.words)
                tally.add(first, again)


def _list() -> None:
    for stage in STAGES:
        print(stage.name)
        for scenario in stage.scenarios:
            print(f"  {scenario.title}")


def _matrix(record: bool) -> None:
    """Print the matrix if all of it was played, and write it into the documentation."""
    if {row["behind"] for row in NOTES if "behind" in row} != set(START):
        return
    lines = matrix.table(NOTES)
    print("\n" + "\n".join(lines), flush=True)
    if record:
        before, _, rest = TABLE.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        TABLE.write_text("\n".join([before + _BEGIN, "", *lines, "", _END + after]))


def _finish(tally: Tally, seconds: float) -> int:
    for failure in tally.failures:
        print(f"FAILED: {failure.splitlines()[0]}")
    for failure in tally.unstable:
        print(f"UNSTABLE, passed when it was played again: {failure.splitlines()[0]}")
    print(f"{seconds:.0f} s")
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return 1 if tally.failed or not tally.passed else 0


def main() -> int:
    """Install missing servers, play, clean up, print the result."""
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = _arguments()
    if arguments.list:
        _list()
        return 0
    tally, start = Tally(), time.monotonic()
    try:
        installed = packages.install()
        print(f"installed: {', '.join(installed)}" if installed else "servers: all installed", flush=True)
        with Lab(arguments.keep) as lab:
            if arguments.keep:
                print(f"folder: {lab.folder}", flush=True)
            asyncio.run(_run(arguments, lab, tally))
    except (LabError, TimeoutError) as problem:
        tally.fail("the run", str(problem) or f"stopped after {RUN_SECONDS} s")
    _matrix(arguments.record)
    if openfire.skipped():
        print(openfire.skipped())
    return _finish(tally, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
