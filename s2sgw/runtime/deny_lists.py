"""The deny lists of [policy]: read from files or fetched from https URLs, and refreshed. The last good copy is in force.

Fetched lists are kept in the state directory, so that they are in force after a restart without network. Lists are long: they are
read and compared in another thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.net.fetching import AnchorRoots, AnchorSource, permitted_addresses
from s2sgw.net.https import HTTPS, Unfetched
from s2sgw.net.resolver import Resolver
from s2sgw.net.threads import AtOnce, Threads
from s2sgw.policy.denylist import DenyList
from s2sgw.storage.atomic_file import write_atomically
from s2sgw.storage.regular_file import open_regular
from s2sgw.xmpp.timer import cancel

#: Bytes of a list: some hundred thousand names.
LIST_BYTES = 8 * 1024 * 1024
#: Seconds in which one list must be fetched.
FETCH_SECONDS = 30.0
#: Seconds after which a list that could not be read is tried again, where `refresh` is longer.
RETRY = 300.0
#: Names of a change that are reported, of those added and of those removed.
NAMED = 100
#: The folder of fetched lists, in the state directory.
FOLDER = "deny"
#: The beginning of a copy's first line, and the length of that line in bytes.
SEAL = b"# sha256 "
SEAL_BYTES = len(SEAL) + 65

DenyListSource = Path | str


class ListUnreadable(Exception):
    """A list cannot be read. The text says why."""


class ListChange(NamedTuple):
    """The numbers of names that were added to a list and removed from it, with the first of each in order."""

    source: str
    added: int
    removed: int
    first_added: tuple[str, ...] = ()
    first_removed: tuple[str, ...] = ()


class ReadLists(NamedTuple):
    """The lists that were read, by source; those before, and how they differ; and why a source could not be read."""

    lists: dict[str, DenyList]
    before: dict[str, DenyList]
    changes: list[ListChange]
    problems: dict[str, str]


class ListFetcher(Protocol):
    """Fetches lists from the web."""

    def fetch(self, url: str) -> Awaitable[bytes]:
        """Return the text of a list; raises `ListUnreadable`."""


class ListObserver(Protocol):
    """The receiver of changes."""

    def changed(self, lists: Sequence[DenyList], found: Sequence[ListChange]) -> None:
        """Note that `lists` are in force from now on. `found`: the changes."""


class DenyLists:
    """The lists in use."""

    log = Logger("s2sgw")

    def __init__(
        self, state: Path, fetcher: ListFetcher, clock: IReactorTime, observer: ListObserver, threads: Threads | None = None,
    ) -> None:
        self._threads = threads or AtOnce()
        self._folder = state / FOLDER
        self._fetcher = fetcher
        self._clock = clock
        self._observer = observer
        self._sources: tuple[DenyListSource, ...] = ()
        self._refresh = RETRY
        self._lists: dict[str, DenyList] = {}
        self._timer: IDelayedCall | None = None
        self._reading: Deferred[bool] | None = None
        self._waiting: list[Deferred[None]] = []
        #: the reason why a source could not be read at the last try
        self.failures: dict[str, str] = {}

    @property
    def lists(self) -> tuple[DenyList, ...]:
        """The lists in force, in the order of the sources."""
        return tuple(self._lists[str(source)] for source in self._sources if str(source) in self._lists)

    def read(self, sources: Sequence[DenyListSource]) -> ReadLists:
        """Read what `hold` begins with: files, and copies of fetched lists. May run in another thread."""
        before, problems = dict(self._lists), dict[str, str]()
        kept = {str(source): self._kept(source, before, problems) for source in sources}
        found = {name: each for name, each in kept.items() if each is not None}
        return ReadLists(found, before, _changes(before, found), problems)

    def hold(self, sources: Sequence[DenyListSource], refresh: float, read: ReadLists | None = None) -> Deferred[None]:
        """Apply these lists from now on. Fires when every list was tried.

        Lists that were `read` are in force at once (None: they are read now), the others once they are fetched.
        """
        self.stop()
        self._sources, self._refresh = tuple(sources), refresh
        self.failures = {name: why for name, why in self.failures.items() if name in map(str, sources)}
        begin = self.read(sources) if read is None else read
        for source, problem in begin.problems.items():
            detail = f"{problem}; the list is in force once it is fetched"
            self.log.error(event="deny list copy unusable", list=source, detail=detail)
        self._take(self._newest(begin))
        self._forget_copies()
        return self.look()

    def look(self) -> Deferred[None]:
        """Read every list again now. A list that cannot be read stays as it was. Fires when all were tried."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        if self._reading is None:
            self._cancel_timer()
            self._reading = reading = Deferred.fromCoroutine(self._read_all())
            reading.addErrback(self._broken).addCallback(self._done)
        return waiter

    def stop(self) -> None:
        """Stop refreshing."""
        self._cancel_timer()
        if self._reading is not None:
            self._reading.cancel()

    def alerts(self) -> list[str]:
        """Return a sentence for each list that could not be read at the last try."""
        return [f"the deny list {name} {why}; {self._instead(name)}" for name, why in self.failures.items()]

    def _instead(self, name: str) -> str:
        if name not in self._lists:
            return "its names are not denied"
        number = len(self._lists[name].names)
        return f"it stays as it was, with {number} name{'' if number == 1 else 's'}"

    # --- reading ---

    async def _read_all(self) -> bool:
        found: dict[str, DenyList] = {}
        for source in self._sources:
            name = str(source)
            try:
                found[name] = await self._read(source)
            except ListUnreadable as problem:
                self._failed(name, str(problem))
                if name in self._lists:
                    found[name] = self._lists[name]
            else:
                self.failures.pop(name, None)
        before = dict(self._lists)
        self._take(ReadLists(found, before, await self._threads.run(_changes, before, found), {}))
        return True

    async def _read(self, source: DenyListSource) -> DenyList:
        if isinstance(source, Path):
            file: DenyList = await self._threads.run(read_file, source)
            return file
        text = await self._fetcher.fetch(source)
        found: DenyList = await self._threads.run(parse, source, text)
        problem = await self._threads.run(self._keep, source, text)
        if problem:
            self.log.error(event="deny list not kept", list=source, detail=problem)
        return found

    def _failed(self, name: str, why: str) -> None:
        if self.failures.get(name) != why:
            self.failures[name] = why
            self.log.error(event="deny list unreadable", list=name, detail=f"{why}; {self._instead(name)}")

    def _newest(self, read: ReadLists) -> ReadLists:
        """Return the lists that were read. A list that was refreshed since then stays."""
        wanted = {str(source) for source in self._sources}
        newer = {name: each for name, each in self._lists.items() if name in wanted and each is not read.before.get(name)}
        changes = [change for change in read.changes if change.source not in newer]
        return read._replace(lists={**read.lists, **newer}, changes=changes)

    def _take(self, read: ReadLists) -> None:
        changed = {each.source for each in read.changes}
        # a list without changes stays: the policy has it, and would keep its names a second time
        same = {source: each for source, each in self._lists.items() if source not in changed}
        self._lists = {source: same.get(source, each) for source, each in read.lists.items()}
        if read.changes:
            self._observer.changed(self.lists, read.changes)
        self._threads.run(_clear, read)

    # --- time ---

    def _done(self, go_on: bool) -> None:
        self._reading = None
        if self._sources and go_on:
            delay = min(self._refresh, RETRY) if self.failures else self._refresh
            self._timer = self._clock.callLater(delay, self.look)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def _broken(self, failure: Failure) -> bool:
        if failure.check(CancelledError):
            return False
        self.log.failure("deny lists could not be read", failure)
        return True

    def _cancel_timer(self) -> None:
        cancel(self._timer)
        self._timer = None

    # --- copies ---

    def _copy(self, url: str) -> Path:
        return self._folder / (hashlib.sha256(url.encode()).hexdigest() + ".txt")

    def _kept(self, source: DenyListSource, lists: Mapping[str, DenyList], problems: dict[str, str]) -> DenyList | None:
        """Return the file as it is now, or the last copy of a fetched list. Faults of a copy are added to `problems`."""
        held = lists.get(str(source))
        if held is not None and isinstance(source, str):
            return held
        if isinstance(source, str) and not self._copy(source).exists():
            return None
        try:
            if isinstance(source, Path):
                return read_file(source)
            return parse(source, _unsealed(_bytes(self._copy(source), SEAL_BYTES)))
        except ListUnreadable as problem:
            if isinstance(source, str):
                problems[source] = str(problem)
            return held

    def _keep(self, url: str, text: bytes) -> str:
        """Write a copy. Return why it could not be written, or "". A full disk loses the copy, not the list."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_atomically(self._copy(url), _sealed(text))
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def _forget_copies(self) -> None:
        wanted = {self._copy(source) for source in self._sources if isinstance(source, str)}
        for copy in self._folder.glob("*") if self._folder.is_dir() else ():
            if copy not in wanted:
                copy.unlink(missing_ok=True)


def read_file(path: Path) -> DenyList:
    """Return the list in a file. Raises `ListUnreadable`."""
    return parse(str(path), _bytes(path))


def parse(source: str, text: bytes) -> DenyList:
    """Return the list in these bytes. Raises `ListUnreadable`."""
    try:
        return DenyList.parse(source, text.decode("utf-8"))
    except UnicodeDecodeError:
        raise ListUnreadable("is not UTF-8") from None
    except ValueError as error:
        raise ListUnreadable(str(error)) from None


def complaints(sources: Iterable[DenyListSource]) -> list[str]:
    """Return the faults of the lists that are files."""
    found = []
    for source in sources:
        if isinstance(source, Path):
            try:
                read_file(source)
            except ListUnreadable as problem:
                found.append(f"{source} {problem}")
    return found


def _sealed(text: bytes) -> bytes:
    """Return the content of a copy of `text`. Its first line is a comment with the checksum."""
    return SEAL + hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def _unsealed(data: bytes) -> bytes:
    """Return the text of a copy. Copies of earlier versions have no checksum. Raises `ListUnreadable`."""
    if not data.startswith(SEAL):
        return data
    seal, _, text = data.partition(b"\n")
    if seal.removeprefix(SEAL) != hashlib.sha256(text).hexdigest().encode():
        raise ListUnreadable("was altered on the disk")
    return text


def _bytes(path: Path, more: int = 0) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(LIST_BYTES + more + 1)
    except OSError as error:
        raise ListUnreadable(f"cannot be read: {error.strerror or error}") from None
    if len(data) > LIST_BYTES + more:
        raise ListUnreadable(f"is longer than {LIST_BYTES} bytes")
    return data


def _changes(old: Mapping[str, DenyList], new: Mapping[str, DenyList]) -> list[ListChange]:
    """Return the changes of the lists that differ."""
    found = []
    empty = DenyList("", {})
    for source in dict.fromkeys([*old, *new]):
        before, after = old.get(source, empty).names, new.get(source, empty).names
        if before is not after:
            # not by the difference of sets, which does not let other threads run
            added = [name for name in after if name not in before]
            removed = [name for name in before if name not in after]
            if added or removed:
                first = tuple(nsmallest(NAMED, added)), tuple(nsmallest(NAMED, removed))
                found.append(ListChange(source, len(added), len(removed), *first))
    return found


def _clear(read: ReadLists) -> None:
    """Free the lists that are not in force any more. Long ones take a while."""
    read.before.clear()
    read.lists.clear()


class WebLists:
    """Fetches deny lists by HTTPS. The operator named their servers, so these may have any address."""

    def __init__(self, reactor: Any, resolver: Resolver, anchors: AnchorSource) -> None:
        resolve = partial(permitted_addresses, resolver, True)
        self._https = HTTPS(reactor, resolve, AnchorRoots(anchors), limit=LIST_BYTES, timeout=FETCH_SECONDS)

    async def fetch(self, url: str) -> bytes:
        """Return the text of a list. Raises `ListUnreadable`."""
        try:
            answer = await self._https.get(url)
        except Unfetched as problem:
            raise ListUnreadable(str(problem)) from None
        if answer.status != 200:
            leads = f", leading to {answer.location}" if answer.location else ""
            raise ListUnreadable(f"the server answered with status {answer.status}{leads}")
        return answer.body
