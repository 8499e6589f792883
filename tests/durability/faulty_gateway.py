"""Run the gateway on a disk and a clock that fail on demand: `python -m tests.durability.faulty_gateway SOCKET FAULTS TWISTD…`

FAULTS is a JSON object that applies from the start. The process listens at the Unix socket SOCKET for more of them, one JSON object
a line. It answers each with a JSON object once it applies. `hits` is the number of calls that met the previous SQLite faults:

    {"sqlite": {"full": true, "room": 65536}}    the faults of SQLite's files (`tests.durability.sqlite_faults.Settings`); {} for none
    {"files_full": true}                         no file in the gateway's state can be created or written, as on a full disk
    {"clock": 3600}                              the wall clock is this many seconds ahead; the monotonic clock is not changed
    {"measure": true}                            the answer has `timers` (of the reactor), `threads` and `objects` (of the collector), and `believed`: servers that
                                                 never answered a ping, so that what is written to them counts as delivered (R41)

The gateway's own code is not changed.
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from threading import Event, Thread, active_count
from typing import Any

from tests.durability import sqlite_faults


class WallClock:
    """`time.time` with an offset."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._time, self._time_ns = time.time, time.time_ns
        time.time, time.time_ns = self.time, self.time_ns

    def time(self) -> float:
        return self._time() + self.offset

    def time_ns(self) -> int:
        return self._time_ns() + round(self.offset * 1e9)


class StateFiles:
    """Python's own ways to open a file. If `full`, none in `folder` can be created, emptied or opened for appending.

    On a full disk the write fails, a moment later; an existing file can still be opened for reading and overwriting.
    """

    def __init__(self, folder: Path) -> None:
        self.full = False
        self._folder = os.fspath(folder)
        self._open, self._os_open = io.open, os.open
        builtins.open = io.open = self.open
        os.open = self.os_open

    def _check(self, path: Any) -> None:
        if self.full and isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(self._folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))

    def open(self, file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if not mode.startswith("r") and not isinstance(file, int):
            self._check(file)
        return self._open(file, mode, *arguments, **keywords)

    def os_open(self, path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        if flags & (os.O_TRUNC | os.O_APPEND) or (flags & os.O_CREAT and not os.path.exists(path)):
            self._check(path)
        return self._os_open(path, flags, *arguments, **keywords)


class FaultServer:
    """A server that sets faults as requested at a Unix socket."""

    def __init__(self, path: str, clock: WallClock, files: StateFiles, sqlite: sqlite_faults.Faults) -> None:
        self._clock = clock
        self._files = files
        self._sqlite = sqlite
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()

    def start(self) -> None:
        """Serve in a thread."""
        Thread(target=self._serve, name="faults", daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    request = json.loads(line)
                    answer: dict[str, int] = {"hits": self._sqlite.hits}
                    self.apply(request)
                    if request.get("measure"):
                        answer |= _measure()
                    lines.write(json.dumps(answer) + "\n")
                    lines.flush()

    def apply(self, faults: dict[str, Any]) -> None:
        """Set the named faults, and leave the others unchanged."""
        if "sqlite" in faults:
            self._sqlite.set(sqlite_faults.Settings(**faults["sqlite"]))
        if "files_full" in faults:
            self._files.full = bool(faults["files_full"])
        if "clock" in faults:
            self._clock.offset = float(faults["clock"])


def _measure() -> dict[str, int]:
    """Count the things that must not grow, in the reactor's thread."""
    from twisted.internet import reactor

    from s2sgw.delivery.ack_selection import AckSelection

    counts: dict[str, int] = {}
    done = Event()

    def count() -> None:
        gc.collect()
        objects = gc.get_objects()
        believed = sum(len(each._never_answering._until) for each in objects if type(each) is AckSelection)
        counts.update(timers=len(reactor.getDelayedCalls()), threads=active_count(), objects=len(objects), believed=believed)
        done.set()

    reactor.callFromThread(count)  # type: ignore[attr-defined]
    done.wait(30)
    return counts


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Install the faults, then run twistd."""
    path, faults, *words = sys.argv[1:]
    config = Path(words[words.index("--config") + 1])
    server = FaultServer(path, WallClock(), StateFiles(config.parent / "state"), sqlite_faults.install(_kill))
    server.apply(json.loads(faults))
    server.start()
    from twisted.scripts import twistd  # after the clock: Twisted keeps `time.time` when it is imported

    sys.argv = ["twistd", *words]
    twistd.run()


if __name__ == "__main__":
    main()
