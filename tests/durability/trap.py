"""The gateway with a trap: it kills itself, as by `kill -9`, at one step of its work. `python -m tests.durability.trap TRAP FILE TWISTD…`

    commit:N         in the N-th transaction that gives stanzas to the spool
    restore:N        in the N-th transaction after the start that reads stanzas back from the spool, or lets go of some
    drain:N          in the N-th transaction after SIGTERM, of any kind, or else as the spool is closed

N is followed by `:before`, `:during` or `:after`: before COMMIT, up to a millisecond into it, or when it is through and before
anybody hears of it. The moment goes to FILE. Nothing of the gateway is changed but where it is caught.

    full:N           no trap, but a disk that has N pages for the spool beyond those of its empty tables
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

from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.spool.tables import SpoolTables

#: Seconds within which it ends that is caught during a commit.
DURING = 0.001


class Trap:
    """Counts what happens in the ledger, and strikes at its number."""

    def __init__(self, words: str, file: Path) -> None:
        self.kind, number, self.where = words.split(":")
        self._left = int(number)
        self._file = file
        self._touched: set[str] = set()
        self._stopping = False

    def spring(self) -> None:
        """End it all."""
        with self._file.open("a") as file:
            file.write(f"{time.time()}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def touched(self, what: str) -> None:
        """A transaction does so."""
        self._touched.add(what)

    def stopping(self) -> None:
        self._stopping = True

    def commit(self, commit: Callable[[], None]) -> None:
        """The transaction's end."""
        touched, self._touched = self._touched, set()
        if not self._counts(touched):
            commit()
            return
        self._left -= 1
        if self._left:
            commit()
            return
        if self.where == "before":
            self.spring()
        if self.where == "during":
            Thread(target=self._soon).start()
        commit()
        self.spring()

    def _counts(self, touched: set[str]) -> bool:
        if self.kind == "commit":
            return "append" in touched
        if self.kind == "restore":
            return bool(touched & {"read", "remove", "remove_each"})
        return self._stopping and bool(touched)

    def _soon(self) -> None:
        time.sleep(random.uniform(0, DURING))
        self.spring()

    def closing(self) -> None:
        """There was no such transaction."""
        if self.kind == "drain":
            self.spring()


def set_up(trap: Trap) -> None:
    """Catch the ledger's steps."""
    for name in ("append", "read", "remove", "remove_each"):
        setattr(SpoolTables, name, _noted(trap, name, getattr(SpoolTables, name)))
    commit, close, rest = SpoolTables.commit, SpoolTables.close, DeliveryQueues.rest

    def ended(ledger: SpoolTables) -> None:
        trap.commit(lambda: commit(ledger))

    def closed(ledger: SpoolTables) -> None:
        trap.closing()
        close(ledger)

    def rested(queues: DeliveryQueues) -> None:
        trap.stopping()
        rest(queues)

    for owner, name, step in ((SpoolTables, "commit", ended), (SpoolTables, "close", closed), (DeliveryQueues, "rest", rested)):
        setattr(owner, name, step)


def _noted(trap: Trap, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        trap.touched(name)
        return method(*arguments)

    return noted


def fill_up(pages: int) -> None:
    """SQLite itself says SQLITE_FULL (a commit that finds no room for the log fails in the same way)."""
    load = SpoolTables._load

    def loaded(ledger: SpoolTables) -> None:
        ((tables,),) = ledger._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        ledger._connection.execute(f"PRAGMA max_page_count={tables + 1 + pages}")
        load(ledger)

    SpoolTables._load = loaded  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    if sys.argv[1].startswith("full:"):
        fill_up(int(sys.argv[1].removeprefix("full:")))
    else:
        set_up(Trap(sys.argv[1], Path(sys.argv[2])))
    sys.argv = ["twistd", *sys.argv[3:]]
    twistd.run()
