"""Run the gateway so that it kills itself, as `kill -9` would, at one step: `python -m tests.durability.crash_points POINT FILE TWISTD…`

POINT is one of

    commit:N         the N-th transaction that appends stanzas to the spool
    restore:N        the N-th transaction after the start that reads stanzas from the spool or removes some
    shutdown:N       the N-th transaction of any kind after SIGTERM, or the closing of the spool if there are fewer

followed by `:before`, `:during` or `:after`: before COMMIT, up to a millisecond into it, or after it and before anything is
acknowledged for it. The time of the kill is appended to FILE.

    full:N           no kill: SQLite may use N pages more than the empty tables take, and then says that the disk is full
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from twisted.scripts import twistd

from s2sgw.delivery.custody import Custody
from s2sgw.spool.tables import SpoolTables

#: Seconds within which the kill hits a commit in the middle.
DURING_SECONDS = 0.001


class CrashPoint:
    """A counter of transactions that kills the process at the chosen one."""

    def __init__(self, text: str, file: Path) -> None:
        self.kind, number, self.moment = text.split(":")
        self._left = int(number)
        self._file = file
        self._operations: set[str] = set()
        self._shutting_down = False

    def kill(self) -> None:
        """End the process at once."""
        with self._file.open("a") as file:
            file.write(f"{time.time()}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def note(self, operation: str) -> None:
        """Record that the current transaction does `operation`."""
        self._operations.add(operation)

    def shutting_down(self) -> None:
        """Record that a normal stop has begun."""
        self._shutting_down = True

    def commit(self, commit: Callable[[], bool]) -> bool:
        """Do `commit` and return its result, unless the process is killed before."""
        operations, self._operations = self._operations, set()
        if not self._counts(operations):
            return commit()
        self._left -= 1
        if self._left:
            return commit()
        if self.moment == "before":
            self.kill()
        if self.moment == "during":
            Thread(target=self._kill_soon).start()
        done = commit()
        self.kill()
        return done

    def _counts(self, operations: set[str]) -> bool:
        if self.kind == "commit":
            return "append" in operations
        if self.kind == "restore":
            return bool(operations & {"read", "remove", "remove_each"})
        return self._shutting_down and bool(operations)

    def _kill_soon(self) -> None:
        time.sleep(random.uniform(0, DURING_SECONDS))
        self.kill()

    def closing(self) -> None:
        """Kill the process: there were fewer transactions than expected."""
        if self.kind == "shutdown":
            self.kill()


def install(point: CrashPoint) -> None:
    """Wrap the methods of the spool that `point` counts."""
    for name in ("append", "read", "remove", "remove_each"):
        setattr(SpoolTables, name, _noted(point, name, getattr(SpoolTables, name)))
    commit, close, quiesce = SpoolTables.commit, SpoolTables.close, Custody.quiesce

    def committed(tables: SpoolTables) -> bool:
        return point.commit(lambda: commit(tables))

    def closed(tables: SpoolTables) -> None:
        point.closing()
        close(tables)

    def quiesced(custody: Custody) -> None:
        point.shutting_down()
        quiesce(custody)

    for owner, name, method in (
        (SpoolTables, "commit", committed), (SpoolTables, "close", closed), (Custody, "quiesce", quiesced),
    ):
        setattr(owner, name, method)


def _noted(point: CrashPoint, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **keywords: Any) -> Any:
        point.note(name)
        return method(*arguments, **keywords)

    return noted


def limit_pages(pages: int) -> None:
    """Let SQLite report a full disk once the spool has `pages` more pages than its empty tables take."""
    load = SpoolTables._load

    def loaded(tables: SpoolTables) -> None:
        ((number,),) = tables._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        tables._connection.execute(f"PRAGMA max_page_count={number + 1 + pages}")
        load(tables)

    SpoolTables._load = loaded  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    if sys.argv[1].startswith("full:"):
        limit_pages(int(sys.argv[1].removeprefix("full:")))
    else:
        install(CrashPoint(sys.argv[1], Path(sys.argv[2])))
    sys.argv = ["twistd", *sys.argv[3:]]
    twistd.run()
