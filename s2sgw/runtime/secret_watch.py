"""Files with secrets while the gateway runs: one that could not be used any more at a start or a reload is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from twisted.logger import Logger

from s2sgw.config import Config
from s2sgw.config.secret_file import read_secret
from s2sgw.net.threads import Threads
from s2sgw.policy.model import objects_with

#: Seconds between two looks.
LOOK_SECONDS = 20.0


class ConfigHolder(Protocol):
    """The configuration in force."""

    config: Config


class SecretWatch:
    """Looks at each file of a secret that the configuration names. The log tells a fault once, and `alerts` while it lasts."""

    log = Logger("s2sgw")

    def __init__(self, running: ConfigHolder, threads: Threads) -> None:
        self._running = running
        self._threads = threads
        #: why a file cannot be used
        self.faults: Mapping[Path, str] = {}

    def reloaded(self) -> None:
        """Note that a reload has read all files, and has found no fault."""
        self.faults = {}

    async def look(self) -> None:
        """Read every file, in another thread: there may be very many peers."""
        config = self._running.config
        found: dict[Path, str] = await self._threads.run(_faults, config)
        if self._running.config is not config:
            return
        for path, fault in found.items():
            if self.faults.get(path) != fault:
                self.log.error(event="secret unusable", path=str(path), detail=fault)
        self.faults = found

    def alerts(self) -> list[str]:
        """Return a sentence for each file that cannot be used."""
        return [f"the secret in {path} cannot be used at the next start: the file {fault}" for path, fault in self.faults.items()]


def _faults(config: Config) -> dict[Path, str]:
    return dict(_unusable(dict.fromkeys(_named(config))))


def _named(config: Config) -> Iterator[Path]:
    """Yield the files of secrets that a configuration names."""
    peers = (peer.secret_file for _, peer in objects_with(config.peers, "secret_file"))
    for path in (*(each.secret_file for each in config.backends), config.cluster.credentials, *peers):
        if path is not None:
            yield path


def _unusable(files: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for path in files:
        try:
            read_secret(path)
        except OSError as error:
            yield path, f"cannot be read: {error.strerror or error}"
        except ValueError as error:
            yield path, str(error)
