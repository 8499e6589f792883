"""`python -m tests.fuzz [TARGET …] [--seconds N]`: run the fuzz targets, each for its share of the time.

With atheris, if it is installed, inputs are guided by the code that they reach; else Hypothesis makes them. Findings are
written to `tests/fuzz/cases/TARGET/`, where `tests.properties.test_fuzz_cases` runs them from then on. Exit status 1: there was a finding.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

#: Limits of an input: bytes, seconds and megabytes.
INPUT_BYTES, INPUT_SECONDS, MEGABYTES = 4096, 10, 1024
#: A run of one target ends after this many times its seconds, and the seconds of its start: the machine may be busy.
SLOWER, START_SECONDS = 3, 300
#: The folder of inputs that reach new code, kept between runs.
CORPUS = Path(".fuzz")


def main() -> int:
    """Run the requested targets, and print the results."""
    arguments = _arguments()
    if arguments.one:
        return _with_atheris(arguments.targets[0], arguments.seconds) if find_spec("atheris") else _with_hypothesis(arguments.targets[0], arguments.seconds)
    from tests.fuzz.targets import CASES, TARGETS

    targets = arguments.targets or list(TARGETS)
    unknown = [name for name in targets if name not in TARGETS]
    if unknown:
        print(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
        return 2
    print(f"{len(targets)} targets in {arguments.seconds:.0f} s, by {'atheris' if find_spec('atheris') else 'Hypothesis'}")
    share = max(1, round(arguments.seconds / len(targets)))
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        passed = list(pool.map(lambda name: _one(name, share, CASES / name), targets))
    print(f"{passed.count(True)} passed, {passed.count(False)} failed")
    return int(not all(passed))


def _one(name: str, seconds: int, cases: Path) -> bool:
    """Run one target in a separate process; return whether there was no finding."""
    before = set(cases.glob("*"))
    command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(seconds)]
    try:
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=SLOWER * seconds + START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        print(f"  {name:<14} stopped after {SLOWER * seconds + START_SECONDS:.0f} s", flush=True)
        return False
    found = sorted(path.name for path in set(cases.glob("*")) - before)
    print(f"  {name:<14} {_told(run.stdout)}{': FOUND ' + ', '.join(found) if run.returncode else ''}", flush=True)
    if run.returncode:
        print(run.stdout.decode("utf-8", "replace")[-4000:])
    return not run.returncode


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS") or 30))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _told(output: bytes) -> str:
    """Return the number of inputs, from the output of the run."""
    found = re.findall(rb"^(?:Done |stat::number_of_executed_units:\s*)(\d+)", output, re.MULTILINE)
    return f"{int(found[-1]):>8} inputs" if found else "no count"


def _with_atheris(name: str, seconds: float) -> int:
    """Run one target in this process, which libFuzzer then ends."""
    import atheris

    with atheris.instrument_imports(include=["s2sgw"]):
        from tests.fuzz.targets import CASES, TARGETS, cases
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    (CASES / name).mkdir(parents=True, exist_ok=True)
    for seed in (*TARGETS[name].seeds(), *cases(name)):
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    options = [
        f"-max_total_time={seconds:.0f}", f"-max_len={INPUT_BYTES}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={CASES / name}/", "-report_slow_units=3600", "-print_final_stats=1", "-verbosity=0",
    ]

    def run(data: bytes) -> None:
        try:
            TARGETS[name].run(data)
        except Exception:
            _keep(CASES / name, data)
            raise

    atheris.Setup([sys.argv[0], *options, str(corpus)], run)
    atheris.Fuzz()
    return 0


def _keep(cases: Path, data: bytes) -> None:
    """Write a finding to the place of libFuzzer's findings, under the same name."""
    cases.mkdir(parents=True, exist_ok=True)
    (cases / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)


def _with_hypothesis(name: str, seconds: float) -> int:
    """Run one target on inputs of Hypothesis, which reduces a finding before it is reported."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    from tests.fuzz.targets import CASES, TARGETS, cases

    target = TARGETS[name]
    known = [*target.seeds(), *cases(name)] or [b""]
    mutated = st.builds(lambda known, at, change, cut: known[:at] + change + known[at + cut :], st.sampled_from(known), st.integers(0, 255), st.binary(max_size=16), st.integers(0, 16))
    last = b""
    count = 0

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink))
    @given(st.one_of(st.binary(max_size=INPUT_BYTES), mutated))
    def run(data: bytes) -> None:
        nonlocal last, count
        last, count = data, count + 1
        target.run(data)

    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        try:
            seed(number)(run)()
        except Exception:
            _keep(CASES / name, last)
            raise
        number += 1
    print(f"Done {count} runs in {seconds:.0f} seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
