"""Trust anchors and revocation lists from files, read again when they change on disk."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.net.threads import AtOnce, Threads
from s2sgw.policy.model import PeerPolicy
from s2sgw.storage.regular_file import read_regular
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.revocation import RevocationLists

#: Seconds for which a file is not checked again.
LOOK_EVERY = 5.0


class Readable(Protocol):
    """The contents of files: entries, and complaints about them."""

    complaints: tuple[str, ...]

    def __len__(self) -> int: ...


T = TypeVar("T", bound=Readable)
Stamp = tuple[tuple[str, int, int], ...]


class FileContents(Generic[T]):
    """The contents of one file or directory, with the times and sizes of the files when read. Raises `OSError`."""

    def __init__(self, path: Path, parse: Callable[..., T]) -> None:
        self.stamp = stamp(path)
        self.value = parse(*(read_regular(each) for each in _files(path)))

    @property
    def fault(self) -> str:
        """Return why the value does not replace another.

        A part of a list is not used: revoked certificates could be missing in it.
        """
        if self.value.complaints:
            return self.value.complaints[0]
        return "" if len(self.value) else "holds nothing usable"


def stamp(path: Path) -> Stamp:
    """Return the times and sizes of a file, or of the files in a directory. Raises `OSError`."""
    return tuple((str(each), status.st_mtime_ns, status.st_size) for each in _files(path) for status in (each.stat(),))


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]


class _Watched(Generic[T]):
    """Files of one kind. Each is read at once when it is first requested, and in `threads` when it has changed since."""

    def __init__(self, parse: Callable[..., T], clock: IReactorTime, threads: Threads, log: Logger) -> None:
        self._parse = parse
        self._clock = clock
        self._threads = threads
        self._log = log
        self._contents: dict[Path, FileContents[T]] = {}
        self._looked: dict[Path, float] = {}
        #: the stamp of the file that was read last, or is being read, usable or not
        self._seen: dict[Path, Stamp] = {}
        #: why the earlier contents of a file stay in use
        self.faults: dict[Path, str] = {}

    def current(self, path: Path) -> T:
        """Return the value of a file. While a changed file is being read, or cannot be read, this is the earlier value."""
        now = self._clock.seconds()
        if path not in self._contents:
            self.adopt(path, FileContents(path, self._parse))
        elif now - self._looked[path] >= LOOK_EVERY:
            self._looked[path] = now
            self._look(path)
        return self._contents[path].value

    def adopt(self, path: Path, contents: FileContents[T]) -> None:
        """Use contents that were read."""
        self._use(path, contents)
        self._seen[path] = contents.stamp
        self._looked[path] = self._clock.seconds()

    def look_again(self, named: Collection[Path]) -> None:
        """Check every file when it is next requested. Forget those that are not `named` any more."""
        for table in (self._contents, self._seen, self.faults):
            for path in [path for path in table if path not in named]:
                del table[path]
        self._looked = dict.fromkeys(self._contents, -LOOK_EVERY)

    def look(self) -> None:
        """Check every file in use, and begin to read those that have changed. No caller need request them."""
        for path in list(self._contents):
            self._looked[path] = self._clock.seconds()
            self._look(path)

    def _look(self, path: Path) -> None:
        try:
            found = stamp(path)
        except OSError as error:
            self._seen[path] = ()  # it is read again when it is back
            self._kept(path, error)
            return
        if found != self._seen[path]:
            self._seen[path] = found
            before = self._contents[path]
            reading = self._threads.run(FileContents, path, self._parse)
            reading.addCallbacks(partial(self._replace, path, before), partial(self._failed, path))

    def _replace(self, path: Path, before: FileContents[T], contents: FileContents[T]) -> None:
        if self._contents.get(path) is not before:  # a newer one was adopted since, or none is wanted
            return
        self._seen[path] = contents.stamp
        if contents.fault:
            self._kept(path, OSError(contents.fault))
        else:
            self._use(path, contents)

    def _use(self, path: Path, contents: FileContents[T]) -> None:
        self._contents[path] = contents
        self.faults.pop(path, None)

    def _failed(self, path: Path, failure: Failure) -> None:
        error = failure.value
        if path in self._contents:
            self._seen[path] = ()  # the next look reads it again: its mode may be right then, and nothing else has changed
            self._kept(path, error if isinstance(error, OSError) else OSError(str(error)))

    def _kept(self, path: Path, error: OSError) -> None:
        detail = f"{error.strerror or error}; its earlier contents stay in use"
        if self.faults.get(path) != detail:
            self.faults[path] = detail
            self._log.error(event="file unreadable", path=str(path), detail=detail)


class TrustFiles:
    """All anchors and lists that policies name.

    Changed files are read in `threads`: a revocation list of a million entries takes seconds.
    """

    log = Logger("s2sgw")
    #: seconds between two calls of `look`
    period = LOOK_EVERY

    def __init__(self, clock: IReactorTime, threads: Threads | None = None) -> None:
        threads = threads or AtOnce()
        self._anchors: _Watched[Anchors] = _Watched(Anchors.parse, clock, threads, self.log)
        self._revocations: _Watched[RevocationLists] = _Watched(RevocationLists.parse, clock, threads, self.log)

    def anchors(self, policy: PeerPolicy) -> Anchors:
        """Return the trust anchors of a policy. Raises `OSError` if they were never read."""
        source = policy.trust_anchors
        return self._anchors.current(source if isinstance(source, Path) else _system_bundle())

    def revocations(self, path: Path | None) -> RevocationLists | None:
        """Return the revocation lists of a policy's `crl`. Raises `OSError` if they were never read."""
        return None if path is None else self._revocations.current(path)

    def look(self) -> None:
        """Begin to read every file that has changed, even if no caller requests it.

        Called every `LOOK_EVERY` seconds, so that a revocation is in force from the next handshake on.
        """
        for watched in (self._anchors, self._revocations):
            watched.look()

    def alerts(self) -> list[str]:
        """Return a sentence for each file whose earlier contents stay in use."""
        faults = {**self._anchors.faults, **self._revocations.faults}
        return [f"{path} cannot be used: {detail}" for path, detail in faults.items()]

    def adopt(self, anchors: Collection[Path], revocations: Mapping[Path, FileContents[RevocationLists]]) -> None:
        """Use revocation lists that were read already, and check every other file when it is next requested.

        `anchors`: the files of anchors that the configuration names.
        """
        self._anchors.look_again({*anchors, _system_bundle()})
        self._revocations.look_again(revocations)
        for path, contents in revocations.items():
            self._revocations.adopt(path, contents)


#: Debian's place for the system's anchors, if OpenSSL has none.
DEBIAN_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def _system_bundle() -> Path:
    return Path(ssl.get_default_verify_paths().cafile or DEBIAN_BUNDLE)


def read_anchors(source: str) -> Anchors:
    """Return trust anchors from "system", a PEM file or a directory of PEM files."""
    path = Path(source) if source != "system" else _system_bundle()
    try:
        anchors = FileContents(path, Anchors.parse).value
    except OSError as error:
        return Anchors(complaints=[f"{error.filename} cannot be read: {error.strerror}"])
    return anchors if anchors or anchors.complaints else Anchors(complaints=[f"{path} holds no certificate"])


def read_revocations(path: Path) -> FileContents[RevocationLists]:
    """Return revocation lists from a PEM or DER file, or from a directory of such files."""
    contents = FileContents(path, RevocationLists.parse)
    if not contents.value and not contents.value.complaints:
        contents.value = RevocationLists(complaints=[f"{path} holds no revocation list"])
    return contents
