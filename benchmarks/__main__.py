"""`python -m benchmarks`: the throughput and the cost of each relay on this machine, side by side in one run.

Each row is measured in rounds, one relay after another, so that other load on the machine affects all of them. A table
has the medians, with minimum and maximum. docs/performance.md says what each row measures.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.relays import RELAYS, RelayPool
from benchmarks.results import Results, printed_table
from benchmarks.rows import ROWS
from benchmarks.run import Run
from benchmarks.targets import judged, missed
from benchmarks.testbed import testbed_in
from tests.lab.lab import Lab, LabError
from tests.lab.servers import packages


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=ROWS, help=f"only these: {', '.join(ROWS)}")
    parser.add_argument("--relays", nargs="+", metavar="NAME", choices=RELAYS, help=f"only these: {', '.join(RELAYS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file during the run")
    parser.add_argument("--quick", action="store_true", help="small loads, one round: to try it, not for figures")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a target is missed, or not measured")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the folder and the processes end with the run
    try:
        packages.install()
    except LabError as problem:
        print(f"{problem}\nRows that need these are not measured.", file=sys.stderr)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.json, quick=arguments.quick)
    facts = results.document["machine"]
    print(f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}; load average {facts['load_before']} before")
    began = time.monotonic()
    with Lab(arguments.keep) as lab:
        testbed = testbed_in(lab)
        run = Run(lab, testbed, RelayPool(testbed), results, arguments.quick, arguments.relays or ())
        for name in arguments.rows or ROWS:
            title, measure = ROWS[name]
            print(f"\n{title}  [{name}]", flush=True)
            with run.attempt(name, "the row"):
                measure(run)
        run.pool.close()
    lines = judged(results)
    if len(lines) > 1:
        print(f"\ntargets\n{printed_table(lines)}")
    minutes = (time.monotonic() - began) / 60
    results.head(load_after=round(os.getloadavg()[0], 2), minutes=round(minutes, 1))
    print(f"\n{minutes:.1f} minutes; load average {os.getloadavg()[0]:.1f} after")
    return 1 if arguments.strict and missed(results, arguments.rows or ROWS) else 0


if __name__ == "__main__":
    sys.exit(main())
