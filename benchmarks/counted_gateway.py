"""Run the gateway and count calls of Python functions on demand: `python -m benchmarks.counted_gateway SOCKET TWISTD…`

The process listens at the Unix socket SOCKET. It answers each line with one JSON object. The line `start` begins to count in
the reactor's thread. The line `stop` ends it, and its answer has `calls`, `polls` (turns of the reactor) and `functions`: the
most called functions, each with its number of calls. Calls of functions that are written in C are not counted.
"""

from __future__ import annotations

import cProfile
import json
import socket
import sys
from threading import Event, Thread
from typing import Any

#: The function that the epoll reactor calls once a turn.
POLL = "doPoll"
#: The number of functions in the answer.
FUNCTIONS = 60


class Counter:
    """A counter of the calls in the thread that starts and stops it."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile(builtins=False)

    def start(self) -> dict[str, Any]:
        """Count from now on, from 0."""
        self._profile.clear()
        self._profile.enable()
        return {}

    def stop(self) -> dict[str, Any]:
        """Stop counting, and return the counts."""
        self._profile.disable()
        called = [(entry.callcount, entry.code) for entry in self._profile.getstats() if not isinstance(entry.code, str)]
        called.sort(key=lambda each: each[0], reverse=True)
        return {
            "calls": sum(count for count, _ in called),
            "polls": sum(count for count, code in called if code.co_name == POLL),
            "functions": [
                (f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}", count) for count, code in called[:FUNCTIONS]
            ],
        }


def _serve(path: str) -> None:
    """Do the requests at the socket, in the reactor's thread."""
    counter = Counter()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    lines.write(json.dumps(_in_reactor(counter.start if line.strip() == "start" else counter.stop)) + "\n")
                    lines.flush()


def _in_reactor(method: Any) -> dict[str, Any]:
    from twisted.internet import reactor  # once twistd has installed it

    answer: dict[str, Any] = {}
    done = Event()

    def run() -> None:
        answer.update(method())
        done.set()

    reactor.callFromThread(run)  # type: ignore[attr-defined]
    done.wait(30)
    return answer


def main() -> None:
    """Listen, then run twistd."""
    from twisted.scripts import twistd

    path, *words = sys.argv[1:]
    Thread(target=_serve, args=(path,), name="counter", daemon=True).start()
    sys.argv = ["twistd", *words]
    twistd.run()


if __name__ == "__main__":
    main()
