"""`<state>/domains.json`: the domains of which the spool may have stanzas, those served and those that were given up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from twisted.logger import Logger

from s2sgw.storage.atomic_file import set_aside, write_atomically
from s2sgw.xmpp.jid import Domain

FILE = "domains.json"


class DomainFile:
    """The file of the domains of which the spool may have stanzas. It may be written in another thread."""

    log = Logger("s2sgw")

    def __init__(self, state: Path) -> None:
        self._path = state / FILE
        self._lock = Lock()
        self.domains = self._read()

    def _read(self) -> frozenset[Domain]:
        """Return the domains in the file. One that cannot be parsed is set aside: nothing is known of earlier domains then."""
        if not self._path.exists():
            return frozenset()
        try:
            names = json.loads(self._path.read_bytes())
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("it is not a list of domains")
            return frozenset(map(Domain.parse, names))
        except ValueError as error:
            aside = set_aside(self._path, "damaged")
            self.log.error(event="domains damaged", detail=f"{self._path} is damaged ({error}). It was set aside as {aside}")
            return frozenset()

    def write(self, domains: Iterable[Domain]) -> None:
        """Write exactly these domains. Raises `OSError`."""
        wanted = frozenset(domains)
        with self._lock:
            if wanted != self.domains:
                write_atomically(self._path, json.dumps(sorted(domain.ascii for domain in wanted)).encode("ascii"))
                self.domains = wanted
