"""The daily report for each peer: streams that succeeded and failed, and why, stanzas passed on, and the longest wait.

It follows TLSRPT (RFC 8460): successes and failures of sessions are counted by peer and day, failures by result. A day is one of
UTC. Each is one file in `<state>/reports`, and `DAYS` of them are kept. The report is bounded: names that a stranger can make up
are counted together, and so are many names under one registered domain. The rows of each peer are bounded by the fixed lists of
causes, methods and versions of TLS.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.storage.atomic_file import write_atomically
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.wall_clock import WallClock, date_of

#: The version of the JSON form.
VERSION = 1
#: The directory of the files, in the state directory.
FOLDER = "reports"
#: Days that are kept; peers of one day that are named; names under one registered domain (its owner can prove any number).
DAYS, PEERS, PEERS_OF_DOMAIN = 31, 2000, 50
#: Seconds between two times that the present day is written.
WRITE_SECONDS = 300.0
#: Days that are over and are kept in memory while the disk takes nothing.
UNWRITTEN_DAYS = 3
#: Peers beyond `PEERS`, and names that were never proven.
OTHERS, STRANGERS = "(others)", "(strangers)"

P = ParamSpec("P")
T = TypeVar("T")

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(slots=True)
class PeerDay:
    """The counts of one peer on one day. `oldest`: the longest wait of a stanza, in seconds."""

    #: (direction, method, TLS) -> streams that were authenticated
    sessions: Counter[tuple[str, ...]] = field(default_factory=Counter)
    #: (direction, layer, cause, by) -> streams and deliveries that failed
    failures: Counter[tuple[str, ...]] = field(default_factory=Counter)
    #: direction -> stanzas that were passed on, and their bytes
    stanzas: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    oldest: float = 0.0

    def row(self, name: str) -> dict[str, Any]:
        """Return the row of the report."""
        return {
            "peer": name,
            "successes": {"sessions": self.sessions.total(), "details": _details(self.sessions, ("direction", "method", "tls"))},
            "failures": {
                "sessions": self.failures.total(), "details": _details(self.failures, ("direction", "layer", "cause", "by")),
            },
            "stanzas": dict(self.stanzas), "bytes": dict(self.bytes), "oldest": round(self.oldest, 1),
        }

    @classmethod
    def of(cls, row: dict[str, Any]) -> PeerDay:
        """Return the counts in a row. Raises `KeyError`, `TypeError` or `ValueError` for an invalid row."""
        sessions = _counter(row["successes"]["details"], ("direction", "method", "tls"))
        failures = _counter(row["failures"]["details"], ("direction", "layer", "cause", "by"))
        return cls(sessions, failures, Counter(row["stanzas"]), Counter(row["bytes"]), float(row["oldest"]))


def _details(counter: Counter[tuple[str, ...]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [{**dict(zip(names, key, strict=True)), "count": number} for key, number in counter.most_common()]


def _counter(details: Iterable[dict[str, Any]], names: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter({tuple(str(each[name]) for name in names): int(each["count"]) for each in details})


class FileThreads(Protocol):
    """Threads for reading and writing files (`net.threads`)."""

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Make a call in another thread, and return its result in the reactor's."""


class ServedDomains(Protocol):
    """The holder of the local domains."""

    @property
    def domains(self) -> Sequence[Domain]:
        """Return the local domains, in the order of the configuration."""


class NoReport(ValueError):
    """There is no report of `day`. The text names the days that have one."""

    def __init__(self, text: str, day: str) -> None:
        super().__init__(text)
        self.day = day


class DailyReport:
    """Counts the present day, and keeps earlier days. Files are read and written in `threads`."""

    log = Logger("s2sgw")

    def __init__(
        self, state: Path, wall: WallClock, threads: FileThreads, served: ServedDomains,
    ) -> None:
        """Continue the present day if its file is there. The head of a report names the domains that are `served`."""
        self.folder = state / FOLDER
        self._wall = wall
        self._threads = threads
        self._served = served
        self.day = self._today()
        self._peers: dict[str, PeerDay] = {}
        self._of_domain: Counter[str] = Counter()
        self._changed = False
        #: one file is written at a time, in the order in which that was asked for
        self._lock = DeferredLock()
        #: the reports of days that are over and could not be written yet
        self._unwritten: dict[str, bytes] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            rows = json.loads(self._path(self.day).read_bytes())["peers"]
            self._peers = {str(row["peer"]): PeerDay.of(row) for row in rows[: PEERS + 2]}
        self._of_domain.update(map(registered_domain, self._peers))

    def _today(self) -> str:
        return f"{date_of(self._wall):%Y-%m-%d}"

    def _path(self, day: str) -> Path:
        return self.folder / f"{day}.json"

    def _peer(self, name: str) -> PeerDay:
        self._changed = True
        known = self._peers.get(name)
        if known is None and name not in (OTHERS, STRANGERS):
            domain = registered_domain(name)
            if self._of_domain[domain] >= PEERS_OF_DOMAIN and not name.startswith("*."):
                return self._peer(f"*.{domain}")
            if len(self._peers) >= PEERS:
                return self._peer(OTHERS)
            self._of_domain[domain] += 1
        if known is None:
            known = self._peers[name] = PeerDay()
        return known

    # --- counting ---

    def authenticated(self, direction: str, peer: str, method: str, tls: str) -> None:
        """Count a stream with `peer` that was authenticated."""
        self._peer(peer).sessions[direction, method, tls] += 1

    def refused(self, direction: str, peer: str, known: bool, ending: Ending) -> None:
        """Count a failed stream or delivery.

        `known`: the peer was proven before, or we want to reach it, so its name is not made up.
        """
        key = direction, ending.layer.value, ending.cause.value, ending.by
        self._peer(peer if known and peer else STRANGERS).failures[key] += 1

    def passed(self, direction: str, peer: str, stanzas: int, size: int) -> None:
        """Count stanzas from or to `peer` that were passed on, of `size` bytes together."""
        row = self._peer(peer)
        row.stanzas[direction] += stanzas
        row.bytes[direction] += size

    def waited(self, peer: str, seconds: float) -> None:
        """Note how long the oldest stanza from or to `peer` has waited."""
        row = self._peer(peer)
        row.oldest = max(row.oldest, seconds)

    # --- the files ---

    def turn(self) -> Deferred[None]:
        """Write the present day if it has changed; begin another when it is over. Fires when the file is on the disk.

        What could not be written before is written first.
        """
        written = [self._write(day, data) for day, data in list(self._unwritten.items())]
        day, is_over = self.day, self._today() != self.day
        if is_over or self._changed:
            data = json.dumps(self._report(day)).encode("ascii")
            if is_over:
                self.day, self._peers, self._of_domain = self._today(), {}, Counter()
            self._changed = False
            written.append(self._write(day, data))
        return written[-1] if written else succeed(None)

    def close(self) -> Deferred[None]:
        """Write the counts."""
        return self.turn()

    def _write(self, day: str, data: bytes) -> Deferred[None]:
        writing: Deferred[None] = self._lock.run(self._threads.run, _store, self.folder, self._path(day), data)
        return writing.addCallbacks(self._written, self._not_written, callbackArgs=(day,), errbackArgs=(day, data))

    def _written(self, _: None, day: str) -> None:
        self._unwritten.pop(day, None)

    def _not_written(self, failure: Failure, day: str, data: bytes) -> None:
        """Keep the report of a day, which is written at the next turn. The present day is reported anew then."""
        if day == self.day:
            self._changed = True
        else:
            self._unwritten[day] = data
            if len(self._unwritten) > UNWRITTEN_DAYS:
                del self._unwritten[min(self._unwritten)]
        self.log.error(event="daily report", detail=failure.getErrorMessage())

    def _report(self, day: str) -> dict[str, Any]:
        return self._with_peers(day, [peer.row(name) for name, peer in sorted(self._peers.items())])

    def _with_peers(self, day: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        domains = [str(domain) for domain in self._served.domains]
        return {"version": VERSION, "day": day, "domains": domains, "written": round(self._wall.seconds()), "peers": rows}

    async def report(self, day: str | None = None) -> dict[str, Any]:
        """Return the report of a day, by default the present one. Raises `NoReport`, or `ValueError` if that is no day."""
        if day is None or day == self._today() == self.day:
            return self._report(self.day)
        if not _DAY.fullmatch(day):
            raise ValueError("a day is written as in 2026-11-20")
        if day in self._unwritten:
            return dict(json.loads(self._unwritten[day]))
        path = self._path(day)
        try:
            return dict(json.loads(await self._threads.run(path.read_bytes)))
        except (OSError, ValueError):
            days = ", ".join(await self._threads.run(self._days)) or "none"
            raise NoReport(f"there is no report of {day}; there are: {days}", day) from None

    def empty(self, day: str) -> dict[str, Any]:
        """Return a report of a day on which there was no peer."""
        return self._with_peers(day, [])

    def _days(self) -> list[str]:
        try:
            return sorted({path.stem for path in self.folder.glob("*.json") if _DAY.fullmatch(path.stem)} | {self.day})
        except OSError:
            return [self.day]


def _store(folder: Path, path: Path, data: bytes) -> None:
    """Write a day, and remove those that are too old."""
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(path, data)
    days = sorted(each for each in folder.glob("*.json") if _DAY.fullmatch(each.stem))
    for old in days[:-DAYS]:
        old.unlink(missing_ok=True)
