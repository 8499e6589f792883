"""`python -m tests.attack.run MODULE:FUNCTION ARGUMENTS`: one attack, in a separate process with low priority.

The attackers share a machine with the gateway. They must not use up its processor by their number.
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
