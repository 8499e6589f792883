"""A set of listeners that a reload may change: new ones are opened first, and only then are old ones closed.

So a configuration whose listener cannot be opened changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from s2sgw.net.listening import replace_factory, trouble


class ListenerRow(Protocol):
    """The configuration of a listener. Equal rows need no change of the listener."""

    @property
    def endpoint(self) -> str:
        """Return its endpoint (`net.endpoint_strings`)."""


R = TypeVar("R", bound=ListenerRow)
#: Opens an endpoint: one Deferred for each port (`net.listening.listen`).
Open = Callable[[str, ServerFactory], list[Deferred[IListeningPort]]]


class ListenerSet(Generic[R]):
    """Listeners by endpoint. `build` makes the factory of a row; `opened` is called with each port that listens."""

    def __init__(self, listen: Open, build: Callable[[R], ServerFactory], opened: Callable[[IListeningPort], object]) -> None:
        self._listen = listen
        self._build = build
        self._opened = opened
        self._rows: dict[str, R] = {}
        self._ports: dict[str, list[IListeningPort]] = {}
        #: the ports that `prepare` has opened, and the rows that `commit` will put in force
        self._new: dict[str, list[IListeningPort]] = {}
        self._wanted: Sequence[R] | None = None
        #: whether nothing listens until `resume`
        self.paused = False

    def prepare(self, rows: Sequence[R]) -> list[tuple[str, str]]:
        """Open what is new in `rows`. Return each endpoint that cannot be opened, with the reason; then nothing is left open."""
        self.abandon()
        complaints: list[tuple[str, str]] = []
        for row in rows:
            if row.endpoint not in self._ports and row.endpoint not in self._new:
                complaints += self._open_row(row)
        if complaints:
            self.abandon()
        else:
            self._wanted = rows
        return complaints

    def _open_row(self, row: R) -> list[tuple[str, str]]:
        ports = self._new.setdefault(row.endpoint, [])
        complaints: list[tuple[str, str]] = []

        def failed(failure: Failure) -> None:
            complaints.append((row.endpoint, trouble(failure)))

        for listening in self._listen(row.endpoint, self._build(row)):
            listening.addCallbacks(ports.append, failed)
        return complaints

    def abandon(self) -> None:
        """Close the ports that `prepare` has opened: its rows are not wanted any more."""
        for ports in self._new.values():
            for port in ports:
                port.stopListening()
        self._new, self._wanted = {}, None

    def commit(self) -> None:
        """Put the rows of `prepare` in force: close listeners that are not wanted any more. Accepted connections stay."""
        rows, self._wanted = self._wanted, None
        if rows is None:
            return
        new, self._new = self._new, {}
        for endpoint, ports in new.items():
            self._ports[endpoint] = ports
            for port in ports:
                self._opened(port)
        wanted = {row.endpoint: row for row in rows}
        for endpoint in [endpoint for endpoint in self._rows if endpoint not in wanted]:
            for port in self._ports.pop(endpoint, ()):
                port.stopListening()
            del self._rows[endpoint]
        for endpoint, row in wanted.items():
            if endpoint not in new and self._rows.get(endpoint) != row:
                factory = self._build(row)
                for port in self._ports[endpoint]:
                    replace_factory(port, factory)
            self._rows[endpoint] = row
        if self.paused:
            self.pause()

    def pause(self) -> None:
        """Listen no more until `resume`: callers are refused. Accepted connections stay.

        Callers of a socket that systemd has are not refused, but wait.
        """
        self.paused = True
        for port in self.ports:
            port.stopListening()
        self._ports.clear()

    def resume(self) -> list[tuple[str, str]]:
        """Listen again. Return each endpoint that cannot be opened, with the reason: it stays closed until the next `resume`."""
        self.paused = False
        complaints: list[tuple[str, str]] = []
        for endpoint, row in self._rows.items():
            if endpoint not in self._ports:
                failed = self._open_row(row)
                ports = self._new.pop(endpoint)
                if failed:
                    complaints += failed
                    for port in ports:
                        port.stopListening()
                    continue
                self._ports[endpoint] = ports
                for port in ports:
                    self._opened(port)
        return complaints

    @property
    def ports(self) -> list[IListeningPort]:
        """Return the ports that are open."""
        return [port for ports in self._ports.values() for port in ports]
