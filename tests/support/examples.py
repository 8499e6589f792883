"""The number of random examples for a test: few in the usual run, more in `make fuzz`."""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
