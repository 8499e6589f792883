"""Hold idle streams: peers that federate by EXTERNAL, and then send nothing. One process.

    python -m benchmarks.holder FILE
        where FILE has {"port": …, "to": "inside.example", "domains": ["p1.example", …], "chain": "x.crt", "key": "x.key"}

All peers present the same certificate. It prints `ready` when all streams are open, and holds them until it is stopped. With
`"first": 100` it prints `warm` after that number and waits for a line on its input before the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.lab.certificates import Certificate
from tests.lab.peer import Stream, authenticated

#: Streams that are negotiated at once.
AT_ONCE = 6


def hold(job: dict[str, Any]) -> None:
    """Open the streams of the command line."""
    certificate = Certificate(Path(job["chain"]), Path(job["key"]))
    streams: list[Stream] = []
    first = job.get("first", 0)

    def opened(domains: Sequence[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            streams.extend(pool.map(lambda domain: authenticated(job["port"], job["to"], domain, certificate), domains))

    opened(job["domains"][:first])
    print("warm", flush=True)
    sys.stdin.readline()
    opened(job["domains"][first:])
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    hold(json.loads(Path(sys.argv[1]).read_text("utf-8")))
