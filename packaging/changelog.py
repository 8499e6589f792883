"""`make changelog VERSION=X.Y.Z`: move newsfragments/ into CHANGELOG.md, by towncrier.

towncrier distinguishes fragments of one issue and kind by a number at the end of the name. Here the name may have a word instead,
so that two people do not use the same number at the same time. Words are replaced by numbers first.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FRAGMENTS = PROJECT / "newsfragments"


def numbered(names: Iterable[str]) -> dict[str, str]:
    """Return old -> new for each name `ISSUE.KIND.WORD.md` that must change. A name without a word or with a number stays."""
    taken = set(names)
    changes: dict[str, str] = {}
    for name in sorted(taken):
        parts = name.split(".")
        if len(parts) != 4 or parts[2].isdecimal():
            continue
        number = 1
        while (new := f"{parts[0]}.{parts[1]}.{number}.md") in taken:
            number += 1
        taken.add(new)
        changes[name] = new
    return changes


def main(version: str) -> int:
    """Rename the fragments, and run towncrier; return its exit status."""
    for old, new in numbered(path.name for path in FRAGMENTS.glob("*.md")).items():
        (FRAGMENTS / old).rename(FRAGMENTS / new)
    subprocess.run(["git", "add", "--all", str(FRAGMENTS)], cwd=PROJECT, check=True)
    command = [sys.executable, "-m", "towncrier", "build", "--yes", "--version", version]
    return subprocess.run(command, cwd=PROJECT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
