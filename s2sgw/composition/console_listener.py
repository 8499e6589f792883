"""The port of the console, which a reload may open, move and close."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from s2sgw.admin.server import Arguments, Verb, VerbError
from s2sgw.composition.listeners import NotListening
from s2sgw.config import Config
from s2sgw.net.certificates import UnusableCertificate
from s2sgw.net.listening import listen, replace_factory, trouble


class Closable(Protocol):
    """The site of a console."""

    def close(self) -> None:
        """Cut every connection."""


class ServedConsole(Protocol):
    """A console that was built (`console.opening.BuiltConsole`)."""

    @property
    def factory(self) -> Any: ...

    @property
    def site(self) -> Closable: ...

    @property
    def verbs(self) -> Mapping[str, Verb]: ...

    @property
    def sample(self) -> Callable[[], Any]: ...

    @property
    def alerts(self) -> Callable[[], list[str]]: ...


class OpenConsole(NamedTuple):
    """A console that is open: its endpoint, its certificate, and its ports."""

    endpoint: str
    certificate: Path | None
    console: ServedConsole
    ports: list[IListeningPort]


class ConsoleListener:
    """The console of a gateway, or none. `build` makes one with a certificate; it raises `UnusableCertificate` or
    `SSL.Error`.

    A move to another port keeps the sessions. Another certificate makes another console, whose users must log in again.
    """

    def __init__(
        self, reactor: Any, build: Callable[[Path | None], ServedConsole], opened: Callable[[IListeningPort], object],
    ) -> None:
        self._listen = partial(listen, reactor)
        self._build = build
        self._opened = opened
        self._open: OpenConsole | None = None
        self._next: OpenConsole | None = None
        self._prepared = False

    def prepare(self, config: Config) -> list[NotListening]:
        """Open the console of `config`, if it differs. Return what cannot be opened; then nothing is left open."""
        self.abandon()
        endpoint, certificate, now = config.console.listen, config.console.certificate, self._open
        if endpoint is None or (now is not None and (endpoint, certificate) == now[:2]):
            self._next, self._prepared = (None if endpoint is None else now), True
            return []
        try:
            console = now.console if now is not None and certificate == now.certificate else self._build(certificate)
        except (UnusableCertificate, SSL.Error) as error:
            return [NotListening("console.certificate", "", str(error) or type(error).__name__)]
        if now is not None and endpoint == now.endpoint:
            self._next, self._prepared = OpenConsole(endpoint, certificate, console, now.ports), True
            return []
        opened, wrong = OpenConsole(endpoint, certificate, console, []), []

        def failed(failure: Failure) -> None:
            wrong.append(NotListening("console.listen", endpoint, trouble(failure)))

        for listening in self._listen(endpoint, console.factory):
            listening.addCallbacks(opened.ports.append, failed)
        self._next, self._prepared = opened, True
        if wrong:
            self.abandon()
        return wrong

    def abandon(self) -> None:
        """Close what was prepared."""
        prepared, self._next, self._prepared = self._next, None, False
        if prepared is not None and (self._open is None or prepared.ports is not self._open.ports):
            for port in prepared.ports:
                port.stopListening()

    def commit(self) -> None:
        """Put the prepared console in force. Connections of a closed console are cut, those of a moved one are kept."""
        if not self._prepared:
            return
        old, new = self._open, self._next
        self._open, self._next, self._prepared = new, None, False
        if new is not None and (old is None or new.ports is not old.ports):
            for port in new.ports:
                self._opened(port)
        if new is not None:
            for port in new.ports:
                replace_factory(port, new.console.factory)
        if old is not None and (new is None or new.ports is not old.ports):
            for port in old.ports:
                port.stopListening()
        if old is not None and (new is None or new.console is not old.console):
            old.console.site.close()

    def token(self, arguments: Arguments) -> Any:
        """Answer `s2sgw console token`."""
        if self._open is None:
            raise VerbError("there is no console: set [console] listen, and reload")
        return self._open.console.verbs["console token"](arguments)

    def sample(self) -> Any:
        """Take a sample for the console's history."""
        return succeed(None) if self._open is None else Deferred.fromCoroutine(self._open.console.sample())

    def alerts(self) -> list[str]:
        """Return a sentence for each problem of the console that an operator should fix."""
        return [] if self._open is None else self._open.console.alerts()

    def close(self) -> None:
        """Cut the connections of the console. Its ports are closed with the gateway's other ports."""
        if self._open is not None:
            self._open.console.site.close()
