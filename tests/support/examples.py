"""How many random examples a test is given: a few with all tests, more by `make fuzz`."""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
