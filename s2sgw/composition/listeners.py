"""All listeners of a gateway: for the federation, for the servers behind it, their DNS views, and the console.

A reload prepares all of it before it closes anything. If one part cannot be opened, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from s2sgw.backend.dns_view import DNSView, ServerNodes
from s2sgw.composition.backends import Backends
from s2sgw.config import Backend, Config
from s2sgw.config.errors import key_text
from s2sgw.config.sections import Listener
from s2sgw.net.listener_set import ListenerSet
from s2sgw.net.listening import listen, trouble


class NotListening(NamedTuple):
    """An endpoint that cannot be opened, its key in the configuration, and the reason."""

    key: str
    endpoint: str
    detail: str

    @property
    def text(self) -> str:
        """Return it as an error of a reload."""
        return f"{self.key}: cannot listen on {self.endpoint}: {self.detail}" if self.endpoint else f"{self.key}: {self.detail}"


class InnerListener(NamedTuple):
    """A row of the inner listeners. A backend keeps its listener while the endpoint is the same."""

    endpoint: str


class ViewNodes(Protocol):
    """The nodes of a cluster, for the DNS views (`composition.server_nodes`)."""

    def of(self, config: Config, backend: Backend) -> ServerNodes:
        """Return the nodes for the server of `backend`."""

    def adopt(self, config: Config) -> None:
        """Tell the other nodes the inner listeners of `config`."""


class PreparedPort(Protocol):
    """Another kind of listener that a reload may change (`composition.console_listener`)."""

    def prepare(self, config: Config) -> list[NotListening]:
        """Open what is new in `config`. Return what cannot be opened; then nothing is left open."""

    def abandon(self) -> None:
        """Close what was prepared."""

    def commit(self) -> None:
        """Put the prepared listeners in force."""


class DNSViews:
    """The DNS views of the backends, by their addresses."""

    def __init__(self, reactor: Any, backends: Backends, nodes: ViewNodes | None = None) -> None:
        self._reactor = reactor
        self._backends = backends
        self._nodes = nodes
        self._views: dict[str, DNSView] = {}
        self._new: dict[str, DNSView] = {}
        self._wanted: dict[str, Backend] | None = None

    def prepare(self, config: Config) -> list[NotListening]:
        """Open the views that are new in `config`. Return what cannot be opened; then nothing is left open."""
        self.abandon()
        wrong: list[NotListening] = []
        wanted = {str(each.dns_view): each for each in config.backends if each.kind == "s2s" and each.dns_view is not None}
        for address, backend in wanted.items():
            if address not in self._views:
                try:
                    view = DNSView(
                        self._reactor, self._served(backend), port_of(backend.listen), backend.target,
                        self._backends.forwarders(backend, config), **self._options(config, backend),
                    )
                    view.listen(address)
                except (CannotListenError, ValueError, OSError):
                    key = key_text(("backend", config.backends.index(backend), "dns_view"))
                    wrong.append(NotListening(key, address, trouble(Failure())))
                else:
                    self._new[address] = view
        if wrong:
            self.abandon()
        else:
            self._wanted = wanted
        return wrong

    def abandon(self) -> None:
        """Close what was prepared."""
        for view in self._new.values():
            view.stop()
        self._new, self._wanted = {}, None

    def commit(self, config: Config) -> None:
        """Put the prepared views in force: views that stay answer for their present backend, the others are closed."""
        if self._wanted is None:
            return
        self._views |= self._new
        wanted, self._wanted, self._new = self._wanted, None, {}
        for address in [each for each in self._views if each not in wanted]:
            self._views.pop(address).stop()
        of_listener = {}
        for address, backend in wanted.items():
            view = of_listener[backend.listen] = self._views[address]
            view.configure(
                self._served(backend), port_of(backend.listen), backend.target, self._backends.forwarders(backend, config),
                **self._options(config, backend),
            )
        for endpoint in self._backends.legs:
            self._backends.use_view(endpoint, of_listener.get(endpoint))

    def _options(self, config: Config, backend: Backend) -> dict[str, Any]:
        nodes = None if self._nodes is None else self._nodes.of(config, backend)
        return {"clients": backend.dns_view_clients, "nodes": nodes}

    def _served(self, backend: Backend) -> Callable[[str], bool]:
        return partial(self._backends.serves, backend.listen)

    def stop(self) -> list[Deferred[Any]]:
        """Close all views."""
        return [view.stop() for view in self._views.values()]


class Listeners:
    """All listeners of one gateway. `opened` is called with each port of it that listens, `committed` after each change.

    `federation` and `inner` return the factories for the connections of a listener.
    """

    def __init__(
        self, reactor: Any, backends: Backends, federation: Callable[[Listener], ServerFactory],
        inner: Callable[[str], ServerFactory], opened: Callable[[IListeningPort], object], others: Sequence[PreparedPort] = (),
        committed: Callable[[], object] = lambda: None, nodes: ViewNodes | None = None,
    ) -> None:
        self._backends = backends
        self._nodes = nodes
        self._committed = committed
        open_ = partial(listen, reactor)
        self._federation: ListenerSet[Listener] = ListenerSet(open_, federation, opened)
        self._inner: ListenerSet[InnerListener] = ListenerSet(open_, lambda row: inner(row.endpoint), opened)
        self._views = DNSViews(reactor, backends, nodes)
        self._others = others

    def prepare(self, config: Config) -> list[NotListening]:
        """Open what is new in `config`. Return all that cannot be opened; then nothing new is left open."""
        if problem := self._backends.prepare(config):
            return [NotListening("backend", "", problem)]
        inner = [InnerListener(each.listen) for each in config.backends if each.kind == "s2s"]
        wrong = [
            *(NotListening("listen", *each) for each in self._federation.prepare(config.listen)),
            *(NotListening(_key_of(config, endpoint), endpoint, why) for endpoint, why in self._inner.prepare(inner)),
            *self._views.prepare(config),
        ]
        for other in self._others:
            wrong += other.prepare(config)
        if wrong:
            self.abandon()
        return wrong

    def abandon(self) -> None:
        """Close what was prepared."""
        self._backends.abandon()
        self._federation.abandon()
        self._inner.abandon()
        self._views.abandon()
        for other in self._others:
            other.abandon()

    def commit(self, config: Config) -> None:
        """Put the prepared listeners of `config` in force. The backends have adopted it."""
        self._federation.commit()
        self._inner.commit()
        self._views.commit(config)
        if self._nodes is not None:
            self._nodes.adopt(config)
        for other in self._others:
            other.commit()
        self._committed()

    @property
    def paused(self) -> bool:
        """Whether nothing listens for peers and servers, until `resume`."""
        return self._federation.paused

    def pause(self) -> None:
        """Listen no more for peers and servers, until `resume`: they go to other nodes of the cluster."""
        self._federation.pause()
        self._inner.pause()
        self._committed()

    def resume(self) -> list[NotListening]:
        """Listen again. Return what cannot be opened, which is tried again by the next `resume`."""
        wrong = [NotListening("listen", *each) for each in self._federation.resume()]
        wrong += [NotListening("backend", *each) for each in self._inner.resume()]
        self._committed()
        return wrong

    def stop_views(self) -> list[Deferred[Any]]:
        """Close the DNS views."""
        return self._views.stop()


def _key_of(config: Config, endpoint: str) -> str:
    """Return the key of an inner listener."""
    numbers = (number for number, each in enumerate(config.backends) if each.kind == "s2s" and each.listen == endpoint)
    return key_text(("backend", next(numbers), "listen"))


def port_of(endpoint: str) -> int:
    """Return the TCP port of an endpoint string such as "tcp:15270:interface=127.0.0.1"."""
    return int(endpoint.split(":")[1].removeprefix("port="))
