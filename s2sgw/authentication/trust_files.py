"""Trust anchors and revocation lists from files, read again when they change on disk."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from s2sgw.policy.model import PeerPolicy
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.revocation import RevocationLists

#: Seconds for which a file is not looked at again.
LOOK_EVERY = 5.0


class Readable(Protocol):
    """What files hold: so many things, and what is wrong with them."""

    complaints: tuple[str, ...]

    def __len__(self) -> int: ...


T = TypeVar("T", bound=Readable)
Stamp = tuple[tuple[str, int, int], ...]


class _WatchedFile(Generic[T]):
    """What was read from one file or directory."""

    def __init__(self, path: Path, read: Callable[..., T], clock: IReactorTime) -> None:
        self._path = path
        self._read = read
        self._clock = clock
        self._stamp = self._look()
        self._looked = clock.seconds()
        self.value = self._load()

    def current(self, log: Logger) -> T:
        """The value; where a changed file cannot be read, the one before."""
        now = self._clock.seconds()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            try:
                self._again()
            except OSError as error:
                detail = f"{error.strerror or error}; what it held is kept"
                log.error(event="file unreadable", path=str(self._path), detail=detail)
        return self.value

    def stale(self) -> None:
        """Look at the file when next asked."""
        self._looked = -LOOK_EVERY

    def _again(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        found = self._load()
        if found.complaints or not len(found):  # half of a list is no list: it would clear what it should revoke
            raise OSError(found.complaints[0] if found.complaints else "holds nothing that could be used")
        self.value = found

    def _files(self) -> list[Path]:
        return sorted(each for each in self._path.iterdir() if each.is_file()) if self._path.is_dir() else [self._path]

    def _look(self) -> Stamp:
        return tuple((str(each), status.st_mtime_ns, status.st_size) for each in self._files() for status in (each.stat(),))

    def _load(self) -> T:
        return self._read(*(each.read_bytes() for each in self._files()))


class TrustFiles:
    """All anchors and lists that policies name; as many as the configuration has paths."""

    log = Logger("s2sgw")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._anchors: dict[Path, _WatchedFile[Anchors]] = {}
        self._revocations: dict[Path, _WatchedFile[RevocationLists]] = {}

    def anchors(self, policy: PeerPolicy) -> Anchors:
        """The trust anchors of a policy. Raises `OSError` where they could never be read."""
        source = policy.trust_anchors
        path = source if isinstance(source, Path) else Path(ssl.get_default_verify_paths().cafile or DEBIAN_BUNDLE)
        if path not in self._anchors:
            self._anchors[path] = _WatchedFile(path, Anchors.parse, self._clock)
        return self._anchors[path].current(self.log)

    def revocations(self, path: Path | None) -> RevocationLists | None:
        """The revocation lists of a policy's `crl`. Raises `OSError` where they could never be read."""
        if path is None:
            return None
        if path not in self._revocations:
            self._revocations[path] = _WatchedFile(path, RevocationLists.parse, self._clock)
        return self._revocations[path].current(self.log)

    def look_again(self) -> None:
        """Every file is looked at when it is next asked for."""
        for anchors in self._anchors.values():
            anchors.stale()
        for lists in self._revocations.values():
            lists.stale()


#: Where Debian keeps the system's anchors, in case OpenSSL does not know.
DEBIAN_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def read_anchors(source: str) -> Anchors:
    """Trust anchors: "system", a PEM file, or a directory of such."""
    path = Path(source) if source != "system" else Path(ssl.get_default_verify_paths().cafile or DEBIAN_BUNDLE)
    anchors = Anchors.parse(*(each.read_bytes() for each in _files(path)))
    return anchors if anchors or anchors.complaints else Anchors(complaints=[f"{path} holds no certificate"])


def read_revocations(path: Path) -> RevocationLists:
    """Revocation lists: a PEM or DER file, or a directory of such."""
    lists = RevocationLists.parse(*(each.read_bytes() for each in _files(path)))
    return lists if lists or lists.complaints else RevocationLists(complaints=[f"{path} holds no revocation list"])


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
