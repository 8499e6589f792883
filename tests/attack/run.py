"""`python -m tests.attack.run MODULE:FUNCTION ARGUMENTS`: one attack, in a process of its own and with low priority.

The attackers share a machine with what they attack. What they may not do is take its processor by being many.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys


def main() -> None:
    """Call the function with its arguments (JSON)."""
    os.nice(10)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    module, _, name = sys.argv[1].partition(":")
    getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
