"""`python -m tests.fuzz [TARGET …] [--seconds N]`: run the fuzz targets, each for its share of the time.

With atheris, where it is installed, inputs are guided by the code that they reach; else Hypothesis makes them. What is found is
written to `tests/fuzz/cases/TARGET/`, where `tests.properties.test_fuzz_cases` runs it for good. Exit status 1: something was found.
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

#: Inputs are at most so long, and take at most so many seconds and megabytes.
INPUT_BYTES, INPUT_SECONDS, MEGABYTES = 4096, 10, 1024
#: A run of one target ends after so many times its seconds, and those that it takes to start: others may keep the machine busy.
SLOWER, START_SECONDS = 3, 300
#: Where inputs that reach new code are kept between runs.
CORPUS = Path(".fuzz")


def main() -> int:
    """Run what is asked for, and say how it went."""
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
    """Run one target in a process of its own; return whether nothing was found."""
    before = set(cases.glob("*"))
    command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(seconds)]
    try:
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=SLOWER * seconds + START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        print(f"  {name:<14} is not done after {SLOWER * seconds + START_SECONDS:.0f} s", flush=True)
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
    """Return how many inputs were run, as the run itself says it."""
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
    """Write a finding where libFuzzer writes its own, under the same name."""
    cases.mkdir(parents=True, exist_ok=True)
    (cases / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)


def _with_hypothesis(name: str, seconds: float) -> int:
    """Run one target on inputs of Hypothesis, which makes a finding smaller before it is told."""
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
