"""Files with secrets while the gateway runs: one that could not be used any more at a start or a reload is told at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from twisted.logger import Logger

from s2sgw.config import Config
from s2sgw.config.secret_file import read_secret
from s2sgw.net.threads import Threads
from s2sgw.policy.model import objects_with

#: Seconds between two looks.
LOOK_SECONDS = 20.0
#: The most files that the log names at one look, and that are alerts: a folder of very many may be gone.
NAMED = 20


class ConfigHolder(Protocol):
    """The configuration in force."""

    config: Config


class _Looked(NamedTuple):
    """The status of a file at a look, and why it cannot be used ("": it can)."""

    status: tuple[int, ...]
    fault: str


class SecretWatch:
    """Looks at each file of a secret that the configuration names. The log tells a fault once, and `alerts` while it lasts.

    A file is read again only if its status has changed: there may be very many peers.
    """

    log = Logger("s2sgw")

    def __init__(self, running: ConfigHolder, threads: Threads) -> None:
        self._running = running
        self._threads = threads
        self._looked: Mapping[Path, _Looked] = {}
        #: why a file cannot be used
        self.faults: Mapping[Path, str] = {}

    def reloaded(self) -> None:
        """Note that a reload has read all files, and has found no fault."""
        self.faults = {}

    async def look(self) -> None:
        """Look at every file, in another thread."""
        config = self._running.config
        looked: dict[Path, _Looked] = await self._threads.run(_look, config, self._looked)
        if self._running.config is not config:
            return
        faults = {path: each.fault for path, each in looked.items() if each.fault}
        news = [path for path, fault in faults.items() if self.faults.get(path) != fault]
        for path in news[:NAMED]:
            self.log.error(event="secret unusable", path=str(path), detail=faults[path])
        if len(news) > NAMED:
            self.log.error(event="secrets unusable", detail=_others(len(news)))
        self._looked, self.faults = looked, faults

    def alerts(self) -> list[str]:
        """Return a sentence for each file that cannot be used, and one for the others if there are many."""
        named = list(self.faults.items())[:NAMED]
        found = [f"the secret in {path} cannot be used at the next start: the file {fault}" for path, fault in named]
        return [*found, _others(len(self.faults))] if len(self.faults) > NAMED else found


def _others(number: int) -> str:
    return f"{number - NAMED} more files with secrets cannot be used at the next start"


def _look(config: Config, before: Mapping[Path, _Looked]) -> dict[Path, _Looked]:
    """Return the state of each file that a configuration names."""
    return {path: _state(path, before.get(path)) for path in dict.fromkeys(_named(config))}


def _named(config: Config) -> Iterator[Path]:
    """Yield the files of secrets that a configuration names."""
    peers = (peer.secret_file for _, peer in objects_with(config.peers, "secret_file"))
    for path in (*(each.secret_file for each in config.backends), config.cluster.credentials, *peers):
        if path is not None:
            yield path


def _state(path: Path, before: _Looked | None) -> _Looked:
    """Return the state of a file. If its status is the same as before, its content is not read."""
    status: tuple[int, ...] = ()
    try:
        found = os.stat(path)
        status = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)  # a new mode changes the ctime
        if before is not None and before.status == status:
            return before
        read_secret(path)
    except OSError as error:
        return _Looked((), f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        return _Looked(status, str(error))
    return _Looked(status, "")
