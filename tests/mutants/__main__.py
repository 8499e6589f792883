"""`python -m tests.mutants [NAME …]`: break each rule in a copy of the tree, and check that its tests fail.

Without names, the rules of the wire are broken. `custody` stands for the promises of custody. `--model` plays those with the model.

The last line is `N passed, N failed`. The exit status is 1 if a mutation was not detected, or could not be made. A mutation is
detected only if the same tests ran as without it: a module that can no longer be imported is not a failed test.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from twisted.trial.runner import TestLoader

from tests.mutants.custody import FAULTS, MODEL, MODEL_TESTS, PROMISES
from tests.mutants.mutations import MUTATIONS, Mutation

PROJECT = Path(__file__).resolve().parent.parent.parent
#: The files that the tests need.
COPIED = ("s2sgw", "tests", "twisted", "certs", "docs", "examples")
#: Seconds for the tests of one mutation. With the model: the same, and the walks that it makes.
SECONDS = 120
MODEL_SECONDS, MODEL_WALKS = 900, 10_000
#: Mutations at once.
AT_ONCE = 2

_RAN = re.compile(r"^Ran (\d+) tests", re.MULTILINE)
_FAILED = re.compile(r"^FAILED \(", re.MULTILINE)


class Run(NamedTuple):
    """The result of a run of tests: their number, whether all passed, and the end of the output."""

    ran: int
    passed: bool
    text: str


class Copy:
    """A copy of the tree in `folder`, in which one file at a time may be replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            if (PROJECT / name).exists():
                shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.key"))

    def run(self, tests: Iterable[str], seconds: int) -> Run:
        """Run `tests` in the copy. A run that does not end in time has not passed: a mutation may cause an endless loop."""
        command = [sys.executable, "-B", "-m", "twisted.trial", "--temp-directory=_trial_temp", *tests]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
            )
        except subprocess.TimeoutExpired:
            return Run(0, False, f"stopped after {seconds} s")
        text = done.stdout + done.stderr
        ran = _RAN.search(text)
        return Run(int(ran[1]) if ran else 0, done.returncode == 0 and not _FAILED.search(text), text[-2000:])

    def noticed(self, mutation: Mutation, sound: int) -> str:
        """Return "" if one of the mutation's tests fails (`sound` is their number), else the reason why it does not count."""
        path = self.folder / mutation.file
        source = path.read_text(encoding="utf-8")
        if source.count(mutation.old) != 1:
            return f"cannot be made: the text to change occurs {source.count(mutation.old)} times in {mutation.file}"
        broken = source.replace(mutation.old, mutation.new)
        try:
            compile(broken, mutation.file, "exec")
        except SyntaxError as error:
            return f"cannot be made: {error}"
        path.write_text(broken, encoding="utf-8")
        try:
            run = self.run(mutation.tests, MODEL_SECONDS if mutation.tests is MODEL_TESTS else SECONDS)
        finally:
            path.write_text(source, encoding="utf-8")
        if run.passed:
            return "was not detected"
        return "" if run.ran == sound else f"other tests ran than without it:\n{run.text}"


def _number(mutation: Mutation) -> int:
    """Return how many tests the mutation names."""
    return sum(TestLoader().loadByName(name).countTestCases() for name in mutation.tests)


def _play(mutations: Sequence[Mutation], folder: Path) -> int:
    """Play `mutations`, several at once, each worker in its own copy; return how many were not detected."""
    copies = [Copy(folder / str(number)) for number in range(AT_ONCE)]
    before = copies[0].run(dict.fromkeys(name for each in mutations for name in each.tests), MODEL_SECONDS)
    if not before.passed:
        print(f"the tests do not pass without any mutation:\n{before.text}")
        return len(mutations)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        def worker(number: int) -> list[tuple[Mutation, str]]:
            return [(each, copies[number].noticed(each, _number(each))) for each in mutations[number::AT_ONCE]]

        outcomes = dict(pair for part in pool.map(worker, range(AT_ONCE)) for pair in part)
    for mutation in mutations:
        why = outcomes[mutation]
        print(f"  {'FAIL' if why else 'ok  '} {mutation.name:4} {mutation.broken}" + (f": {why}" if why else ""))
    return sum(1 for why in outcomes.values() if why)


def _chosen(names: Sequence[str], *, model: bool) -> list[Mutation]:
    """Return the mutations that were named: by default those of the wire. `model`: those of custody, for the model to find."""
    custody = [*FAULTS, *PROMISES]
    if model:
        os.environ.setdefault("FUZZ_WALKS", str(MODEL_WALKS))
        custody = [each._replace(tests=MODEL_TESTS) for each in custody if each.name in MODEL]
    everything = custody if model else [*MUTATIONS, *custody]
    if not names:
        return custody if model else list(MUTATIONS)
    return [each for each in everything if each.name in names or ("custody" in names and each in custody)]


def main() -> int:
    """Play the mutations that were named, or those of the wire."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="broken rules, and the tests that detect them")
    parser.add_argument("names", nargs="*", help="play only these, such as M11; custody: all of custody")
    parser.add_argument("--model", action="store_true", help="play those of custody with the model alone")
    arguments = parser.parse_args()
    mutations = _chosen(arguments.names, model=arguments.model)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="s2sgw-mutants-") as folder:
        failed = _play(mutations, Path(folder))
    print(f"{time.monotonic() - began:.0f} s")
    print(f"{len(mutations) - failed} passed, {failed} failed")
    return 1 if failed or not mutations else 0


if __name__ == "__main__":
    sys.exit(main())
