"""`python -m benchmarks.calls`: how many Python functions the gateway calls for a handshake, a stream of ours, and a stanza.

A count depends less on other load of the machine than a time. The exit status is 1 if a count is above its
limit: the count when the limit was last lowered, and a margin (docs/performance.md). `--functions` lists the most called.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from collections import Counter as TallyCounter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import outbound
from benchmarks.counted_gateway import FUNCTIONS
from benchmarks.handshakes import handshake
from benchmarks.testbed import DOMAIN, Testbed, started_gateway, testbed_in, workers
from tests.lab.lab import Lab

#: Connecting peers, and counted handshakes of each. One before these is not counted: afterwards the DNS answers are cached.
PEERS, HANDSHAKES = 15, 4
#: Stanzas, and their number a second.
STANZAS, RATE = 1500, 300
#: Streams of ours, each to another peer.
OUTBOUND = 30
#: Name -> maximum of calls, maximum of turns of the reactor.
CEILINGS = {
    "handshake": (2350, 10.5), "outbound stream": (4900, 20.0),
    "stanza, acks = auto": (185, 3.0), "stanza, acks = tcp": (80, 2.0), "stanza, acks = sm": (215, 3.0),
}


class CountedGateway:
    """A client of `benchmarks.counted_gateway`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _say(self, word: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(40)
            connection.connect(str(self._path))
            with connection.makefile("rw") as lines:
                lines.write(word + "\n")
                lines.flush()
                answer: dict[str, Any] = json.loads(lines.readline())
                return answer

    @contextmanager
    def counting(self) -> Iterator[dict[str, Any]]:
        """Count while this is open; the counts are in the dict afterwards."""
        counts: dict[str, Any] = {}
        self._say("start")
        yield counts
        counts.update(self._say("stop"))


def handshakes(counter: CountedGateway, testbed: Testbed, port: int) -> dict[str, Any]:
    """Let peers connect one after another; return the counts."""
    total: TallyCounter[str] = TallyCounter()
    functions: TallyCounter[str] = TallyCounter()
    for peer in testbed.peers[:PEERS]:
        handshake(port, DOMAIN, peer)
        with counter.counting() as counts:
            for _ in range(HANDSHAKES):
                handshake(port, DOMAIN, peer)
        functions.update(dict(counts.pop("functions")))
        total.update(counts)
    return {**total, "functions": functions.most_common(FUNCTIONS)}


def stanzas(counter: CountedGateway, sink: dict[str, Any], load: dict[str, Any]) -> dict[str, Any]:
    """Send stanzas one by one on one stream; return the counts."""
    with workers() as start:
        far = start("benchmarks.sink", {**sink, "warm": 1, "timed": True})
        far.line()
        near = start("benchmarks.load", {**load, "rate": RATE})
        near.line()
        far.line()
        time.sleep(0.5)
        with counter.counting() as counts:
            near.go()
            far.line()
    return counts


class Counts:
    """A printer of the rows that remembers which are too high."""

    def __init__(self, functions: bool) -> None:
        self._functions = functions
        self.passed = self.failed = 0
        print(f"{'what':<24}{'calls':>10}{'at most':>10}{'turns':>10}{'at most':>10}")

    def row(self, what: str, counts: dict[str, Any], number: int) -> None:
        """Compare the counts with the limit."""
        calls, turns = counts["calls"] / number, counts["polls"] / number
        most_calls, most_turns = CEILINGS[what]
        good = calls <= most_calls and turns <= most_turns
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print(f"{what:<24}{calls:>10.0f}{most_calls:>10}{turns:>10.1f}{most_turns:>10.1f}{'' if good else '  FAIL'}", flush=True)
        if self._functions or not good:
            for name, count in counts["functions"]:
                print(f"    {count / number:>8.2f}  {name}")


def count_outbound(lab: Lab, counts: Counts) -> None:
    """Count the calls of streams that a gateway opens."""
    path = lab.directory("counter") / "socket"
    program = sys.executable, "-m", "benchmarks.counted_gateway", str(path)
    total: dict[str, Any] = {}

    @contextmanager
    def counting() -> Iterator[None]:
        with CountedGateway(path).counting() as found:
            yield
        total.update(found)

    outbound.counted(testbed_in(lab), program, OUTBOUND, counting)
    counts.row("outbound stream", total, OUTBOUND)


def count(lab: Lab, acks: str, counts: Counts) -> None:
    """Count the calls of one gateway."""
    testbed, path = testbed_in(lab), lab.directory("counter") / "socket"
    program = sys.executable, "-m", "benchmarks.counted_gateway", str(path)
    with started_gateway(testbed, acks, program) as (door, ends):
        counter = CountedGateway(path)
        if acks == "auto":
            counts.row("handshake", handshakes(counter, testbed, door.port), PEERS * HANDSHAKES)
        counts.row(f"stanza, acks = {acks}", stanzas(counter, *ends(1, STANZAS)), STANZAS)


def main() -> int:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--functions", action="store_true", help="list the functions that are called most")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    counts = Counts(arguments.functions)
    with Lab(False) as lab:
        count_outbound(lab, counts)
    for acks in ("auto", "tcp", "sm"):
        with Lab(False) as lab:
            count(lab, acks, counts)
    print(f"{counts.passed} passed, {counts.failed} failed")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
