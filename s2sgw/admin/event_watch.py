"""The verb `watch`: the events of the log about one peer, or about all, while they happen. Also those below `[log] level`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from threading import get_ident
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogPublisher, globalLogPublisher
from zope.interface import implementer

from s2sgw.admin.server import Arguments, Feed
from s2sgw.admin.verbs import peer_asked
from s2sgw.reporting.log import event_row
from s2sgw.xmpp.jid import Domain

Send = Callable[[Mapping[str, Any]], None]


@implementer(ILogObserver)
class EventObserver:
    """Passes the events about some names on to `send`. `in_reactor` is used for events that are logged in another thread."""

    def __init__(self, names: Collection[str] | None, send: Send, in_reactor: Callable[..., object]) -> None:
        self._names = names
        self._send = send
        self._in_reactor = in_reactor
        self._thread = get_ident()

    def __call__(self, event: LogEvent) -> None:
        if "event" not in event or (self._names is not None and str(event.get("peer", "")).lower() not in self._names):
            return
        row = event_row(event)
        if get_ident() == self._thread:
            self._send(row)
        else:
            self._in_reactor(self._send, row)


class EventWatch:
    """Answers the verb. `in_reactor` calls a function on the reactor's thread."""

    def __init__(self, in_reactor: Callable[..., object], publisher: LogPublisher = globalLogPublisher) -> None:
        self._in_reactor = in_reactor
        self._publisher = publisher

    def watch(self, arguments: Arguments) -> Feed:
        """Return the feed of events about `peer`, or of all events."""
        peer = peer_asked(arguments)
        return Feed(partial(self._subscribe, peer))

    def _subscribe(self, peer: Domain | None, send: Send) -> Callable[[], None]:
        names = None if peer is None else {peer.ascii, peer.text}
        observer = EventObserver(names, send, self._in_reactor)
        self._publisher.addObserver(observer)
        send({"event": "watching", "peer": None if peer is None else str(peer)})
        return lambda: self._publisher.removeObserver(observer)
