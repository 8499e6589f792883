"""The deny lists of [policy]: read from files, fetched from https URLs, read again after a while; the last good copy counts.

What was fetched is kept in the state directory, so that a restart without network denies whom it denied before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.net.fetching import TrustRoot, permitted_addresses
from s2sgw.net.https import HTTPS, Unfetched
from s2sgw.net.resolver import Resolver
from s2sgw.policy.denylist import DenyList
from s2sgw.storage.atomic_file import write_atomically
from s2sgw.trust.anchors import Anchors

#: Bytes of a list: some hundred thousand names.
LIST_BYTES = 8 * 1024 * 1024
#: Seconds for one list to be fetched.
FETCH_SECONDS = 30.0
#: Seconds after which a list that could not be read is tried again, where `refresh` is longer.
RETRY = 300.0
#: Where fetched lists are kept, in the state directory.
FOLDER = "deny"
#: How the first line of a copy begins, and the bytes of that line.
SEAL = b"# sha256 "
SEAL_BYTES = len(SEAL) + 65

DenyListSource = Path | str


class ListUnreadable(Exception):
    """Why a list is none, in words."""


class ListChange(NamedTuple):
    """What a list holds now that it did not hold before, and the other way round."""

    source: str
    added: frozenset[str]
    removed: frozenset[str]


class ListFetcher(Protocol):
    """Fetches lists from the web."""

    def fetch(self, url: str) -> Awaitable[bytes]:
        """Return the text of a list; raises `ListUnreadable`."""


class ListObserver(Protocol):
    """Is told of changes."""

    def changed(self, lists: Sequence[DenyList], found: Sequence[ListChange]) -> None:
        """`lists` are in force from now on; `found` is what has changed."""


class DenyLists:
    """The lists in use."""

    log = Logger("s2sgw")

    def __init__(
        self, state: Path, fetcher: ListFetcher, clock: IReactorTime, observer: ListObserver,
    ) -> None:
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
        #: why a source could not be read when last tried
        self.failures: dict[str, str] = {}

    @property
    def lists(self) -> tuple[DenyList, ...]:
        """What is denied, in the order of the sources."""
        return tuple(self._lists[str(source)] for source in self._sources if str(source) in self._lists)

    def hold(self, sources: Sequence[DenyListSource], refresh: float) -> Deferred[None]:
        """Hold these lists from now on. Files, and copies of what was fetched before, count at once; the rest once it is there.

        Fires when every list was tried.
        """
        self.stop()
        self._sources, self._refresh = tuple(sources), refresh
        kept = {str(source): self._kept(source) for source in sources}
        self._take({name: found for name, found in kept.items() if found is not None})
        self._forget_copies()
        return self.look()

    def look(self) -> Deferred[None]:
        """Read every list again now; one that cannot be read stays as it was. Fires when all were tried."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        if self._reading is None:
            self._cancel_timer()
            self._reading = reading = Deferred.fromCoroutine(self._read_all())
            reading.addErrback(self._broken).addCallback(self._done)
        return waiter

    def stop(self) -> None:
        """Look no more."""
        self._cancel_timer()
        if self._reading is not None:
            self._reading.cancel()

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
        self._take(found)
        return True

    async def _read(self, source: DenyListSource) -> DenyList:
        if isinstance(source, Path):
            return read_file(source)
        text = await self._fetcher.fetch(source)
        found = parse(source, text)
        self._keep(source, text)
        return found

    def _failed(self, name: str, why: str) -> None:
        if self.failures.get(name) != why:
            self.failures[name] = why
            stays = f"; it stays as it was, with {len(self._lists[name].names)} names" if name in self._lists else ""
            self.log.error(event="deny list unreadable", list=name, detail=why + stays)

    def _take(self, found: dict[str, DenyList]) -> None:
        changes = [change for change in _changes(self._lists, found) if change.added or change.removed]
        self._lists = found
        if changes:
            self._observer.changed(self.lists, changes)

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
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # --- copies ---

    def _copy(self, url: str) -> Path:
        return self._folder / (hashlib.sha256(url.encode()).hexdigest() + ".txt")

    def _kept(self, source: DenyListSource) -> DenyList | None:
        """A file as it is now, a fetched list as it was last."""
        held = self._lists.get(str(source))
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
                detail = f"{problem}; the list counts once it is fetched"
                self.log.error(event="deny list copy unusable", list=source, detail=detail)
            return held

    def _keep(self, url: str, text: bytes) -> None:
        """A full disk loses the copy, not the list."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_atomically(self._copy(url), _sealed(text))
        except OSError as error:
            self.log.error(event="deny list not kept", list=url, detail=error.strerror or str(error))

    def _forget_copies(self) -> None:
        wanted = {self._copy(source) for source in self._sources if isinstance(source, str)}
        for copy in self._folder.glob("*") if self._folder.is_dir() else ():
            if copy not in wanted:
                copy.unlink(missing_ok=True)


def read_file(path: Path) -> DenyList:
    """The list in a file; raises `ListUnreadable`."""
    return parse(str(path), _bytes(path))


def parse(source: str, text: bytes) -> DenyList:
    """A list from what was read of it; raises `ListUnreadable`."""
    try:
        return DenyList.parse(source, text.decode("utf-8"))
    except UnicodeDecodeError:
        raise ListUnreadable("is not UTF-8") from None
    except ValueError as error:
        raise ListUnreadable(str(error)) from None


def complaints(sources: Iterable[DenyListSource]) -> list[str]:
    """What is wrong with those of the lists that are files."""
    found = []
    for source in sources:
        if isinstance(source, Path):
            try:
                read_file(source)
            except ListUnreadable as problem:
                found.append(f"{source} {problem}")
    return found


def _sealed(text: bytes) -> bytes:
    """Return what is written as a copy of `text`: behind a first line with its checksum, which is a comment."""
    return SEAL + hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def _unsealed(data: bytes) -> bytes:
    """Return the text of a copy. One of an earlier version has no checksum. Raises `ListUnreadable`."""
    if not data.startswith(SEAL):
        return data
    seal, _, text = data.partition(b"\n")
    if seal.removeprefix(SEAL) != hashlib.sha256(text).hexdigest().encode():
        raise ListUnreadable("was altered on the disk")
    return text


def _bytes(path: Path, more: int = 0) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LIST_BYTES + more + 1)
    except OSError as error:
        raise ListUnreadable(f"cannot be read: {error.strerror or error}") from None
    if len(data) > LIST_BYTES + more:
        raise ListUnreadable(f"is longer than {LIST_BYTES} bytes")
    return data


def _changes(old: dict[str, DenyList], new: dict[str, DenyList]) -> list[ListChange]:
    names = dict.fromkeys([*old, *new])
    empty: frozenset[str] = frozenset()
    both = [(name, old[name].names if name in old else empty, new[name].names if name in new else empty) for name in names]
    return [ListChange(name, after - before, before - after) for name, before, after in both]


class WebLists:
    """Fetches deny lists by HTTPS. The operator named their servers, so these may have any address."""

    def __init__(self, reactor: Any, resolver: Resolver, anchors: Callable[[], Anchors]) -> None:
        trust = TrustRoot()
        resolve = partial(permitted_addresses, resolver, True)
        self._https = HTTPS(reactor, resolve, lambda: trust.of(anchors()), limit=LIST_BYTES, timeout=FETCH_SECONDS)

    async def fetch(self, url: str) -> bytes:
        """Return the text of a list; raises `ListUnreadable`."""
        try:
            answer = await self._https.get(url)
        except Unfetched as problem:
            raise ListUnreadable(str(problem)) from None
        if answer.status != 200:
            leads = f", leading to {answer.location}" if answer.location else ""
            raise ListUnreadable(f"the server answered with status {answer.status}{leads}")
        return answer.body
