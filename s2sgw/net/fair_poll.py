"""Shares a turn of the reactor among the sockets that are ready: those of strangers come last, and none uses the whole turn.

Twisted's epoll reactor serves everything that is ready in one turn. Ten thousand connections that close together are closed in
one go, while nothing else runs. epoll reports again what was not served, so the rest can wait for the next turn.

Streams come first, then datagrams (answers to our DNS questions, most of which strangers cause), listeners and strangers. Each
has a share of the turn (`net.turn_budget`), and the first of each is served in any case. Among streams, the parties that they
belong to take turns.

epoll also reports which connections the other side has closed (EPOLLRDHUP). These come after the open connections, which wait for
us. If many strangers have closed their connections, their input is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from itertools import chain, islice, zip_longest
from math import inf
from random import randrange
from select import EPOLLHUP, EPOLLIN, EPOLLRDHUP
from typing import Any, Protocol, TypeVar

from twisted.internet import tcp, udp
from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

from s2sgw.net.relay import RelayEnd
from s2sgw.net.socket_transport import SocketTransport
from s2sgw.net.turn_budget import TurnBudget

#: Up to this many events without strangers among them are served as they come: sorting them would cost more than it gains.
FEW = 16
#: Seconds of one turn for streams, for datagrams, for listeners, and for strangers. A message needs a few turns.
PEERS_SECONDS = 0.004
DATAGRAM_SECONDS = 0.003
LISTENER_SECONDS = 0.01
STRANGERS_SECONDS = 0.003
#: The same for strangers that have closed their side.
GONE_SECONDS = 0.001
#: When this many strangers have been read and not served, only one more is read in this turn: the newest. So a newcomer does not
#: wait for all that came before.
STRANGERS_WAITING = 20
#: If this many strangers have closed their side, their input is not read.
CROWD = 200
#: The number of the newest strangers that are checked for being ready.
NEWEST = 500

#: The connections that this module serves in place of the reactor.
OWN = frozenset((SocketTransport, RelayEnd))

_log = Logger()

ReadyEvent = tuple[int, int]
T = TypeVar("T")


class SocketKind(Enum):
    """The kinds of sockets that are no streams."""

    DATAGRAM = auto()
    LISTENER = auto()


class TurnObserver(Protocol):
    """The receiver of the beginning and the end of each turn of the reactor."""

    def began(self, cpu_seconds: float) -> None:
        """Note that a turn begins. `cpu_seconds`: the CPU time of the thread, as the turn's budget has read it."""

    def ended(self) -> None: ...


class StreamTurns(Protocol):
    """Serves streams that were read (`net.turns`). `budget` bounds the turn, which begins here."""

    budget: TurnBudget

    @property
    def negotiating(self) -> int:
        """The number of unproven streams that were read and not served yet."""

    def begin_round(self, alone: bool = False) -> None:
        """Note that sockets are read now; `alone`: a single one."""

    def end_round(self) -> None:
        """Serve the streams that were read."""


class FairPoller:
    """Replaces the epoll object of the reactor.

    `strangers` are the unproven connections by their descriptors; the one that came or advanced last is at the end. `turns`
    serves the streams that were read, at the end of each round. `kind_of` returns the `SocketKind` of a descriptor, or the party
    that a stream belongs to, or None.
    `serve` serves an event and returns True, or returns False: then the reactor serves it.
    """

    def __init__(
        self, poller: Any, strangers: Mapping[int, object], turns: StreamTurns, observer: TurnObserver, *,
        kind_of: Callable[[int], object] = lambda descriptor: None, start: Callable[[int], int] = randrange,
        serve: Callable[[int, int], bool] = lambda descriptor, mask: False,
    ) -> None:
        self.poller = poller
        self.unregister = poller.unregister
        self._strangers = strangers
        self._turns = turns
        self._observer = observer
        self._kind_of = kind_of
        self._budget = turns.budget
        self._start = start
        self._serve = serve

    def __getattr__(self, name: str) -> Any:
        return getattr(self.poller, name)

    def register(self, descriptor: int, events: int) -> None:
        """Watch a descriptor for these events, and if it is read, also for the close by the other side."""
        self.poller.register(descriptor, _with_its_end(events))

    def modify(self, descriptor: int, events: int) -> None:
        """Watch it for these events from now on."""
        self.poller.modify(descriptor, _with_its_end(events))

    def poll(self, timeout: float, most: int) -> Iterable[ReadyEvent]:
        """Wait until something is ready. Return the events that the reactor must serve in this turn.

        A connection of our own that is ready alone is served here: most single stanzas come so.
        """
        self._observer.ended()
        events: Sequence[ReadyEvent] = self.poller.poll(timeout, most)
        self._observer.began(self._budget.begin())
        if len(events) == 1:
            self._turns.begin_round(alone=True)
            if self._serve(*events[0]):
                self._turns.end_round()
                return ()
        return self._round(events if len(events) < 2 else self._few(events) if self._are_few(events) else self._shared(events))

    def _round(self, events: Iterable[ReadyEvent]) -> Iterator[ReadyEvent]:
        """Yield the events, then serve the streams that were read. This needs no further turn of the reactor."""
        self._turns.begin_round()
        serve = self._serve
        try:
            for event in events:
                if not serve(*event):
                    yield event
        finally:
            self._turns.end_round()

    def _are_few(self, events: Sequence[ReadyEvent]) -> bool:
        return len(events) <= FEW and not any(descriptor in self._strangers for descriptor, _ in events)

    def _few(self, events: Sequence[ReadyEvent]) -> Iterator[ReadyEvent]:
        """Yield as many events as there is time for. Each turn begins at another one."""
        return self._timed(self._rotated(events), inf)

    def _shared(self, events: Sequence[ReadyEvent]) -> Iterator[ReadyEvent]:
        """Yield events while there is time: streams, then datagrams, listeners and strangers, the closed ones last."""
        ready = dict(events)
        others = {descriptor: ready.pop(descriptor) for descriptor in ready.keys() - self._strangers.keys()}
        who = {descriptor: self._strangers[descriptor] for descriptor in ready}  # before anything changes
        kinds = {descriptor: self._kind_of(descriptor) for descriptor in others}
        datagrams, listeners = (
            {descriptor: others.pop(descriptor) for descriptor, each in kinds.items() if each is kind} for kind in SocketKind
        )
        streams = self._by_party({descriptor: kinds[descriptor] for descriptor in others})
        yield from self._timed(((descriptor, others[descriptor]) for descriptor in streams), PEERS_SECONDS)
        for group, seconds in ((datagrams, DATAGRAM_SECONDS), (listeners, LISTENER_SECONDS)):
            yield from self._timed(((descriptor, group[descriptor]) for descriptor in self._rotated(group)), seconds)
        gone = [descriptor for descriptor, mask in ready.items() if mask & EPOLLRDHUP]
        masks = {descriptor: ready.pop(descriptor) for descriptor in gone}
        for event in self._timed(self._newest_and_all(ready), STRANGERS_SECONDS):
            yield event
            if self._turns.negotiating >= STRANGERS_WAITING:
                break
        still = (descriptor for descriptor in self._rotated(gone) if self._strangers.get(descriptor) is who[descriptor])
        unread = len(gone) >= CROWD
        yield from self._timed(((each, EPOLLHUP if unread else masks[each]) for each in still), GONE_SECONDS)

    def _timed(self, events: Iterable[ReadyEvent], seconds: float) -> Iterator[ReadyEvent]:
        """Yield one event after another until the given seconds, or the turn, are over. The first is always yielded."""
        end, stopwatch = self._budget.end_of(seconds), self._budget.stopwatch
        for event in events:
            yield event
            if stopwatch() >= end:
                return

    def _rotated(self, ready: Iterable[T]) -> Iterator[T]:
        """Rotate the order each time, so that none has an advantage."""
        listed = list(ready)
        at = self._start(len(listed)) if listed else 0
        return chain(islice(listed, at, None), islice(listed, at))

    def _by_party(self, ready: Mapping[int, object]) -> Iterator[int]:
        """Yield one descriptor of each party, then the next one of each. One without a party is a party of its own."""
        parties: dict[object, list[int]] = {}
        for descriptor in self._rotated(ready):
            parties.setdefault(ready[descriptor] or descriptor, []).append(descriptor)
        for row in zip_longest(*parties.values()):
            yield from (descriptor for descriptor in row if descriptor is not None)

    def _newest_and_all(self, ready: dict[int, int]) -> Iterator[ReadyEvent]:
        """Alternate between the newest connections and all: a crowd cannot keep out a newcomer."""
        newest = [descriptor for descriptor in islice(reversed(self._strangers), NEWEST) if descriptor in ready]
        everybody = self._rotated(ready)
        for pair in zip_longest(newest, everybody):
            for descriptor in pair:
                mask = ready.pop(descriptor, None)
                if mask is not None:
                    yield descriptor, mask


def _with_its_end(events: int) -> int:
    return events | EPOLLRDHUP if events & EPOLLIN else events


def share_turns(
    reactor: Any, strangers: Mapping[int, object], turns: StreamTurns, observer: TurnObserver,
) -> Callable[[], None]:
    """Make `reactor` share its turns; return a function that ends this.

    Reactors other than Twisted's epoll reactor stay as they are.
    """
    poller = getattr(reactor, "_poller", None)
    if not isinstance(reactor, EPollReactor) or poller is None:
        return lambda: None
    selectables = reactor._selectables

    def kind_of(descriptor: int) -> object:
        selectable: Any = selectables.get(descriptor)
        if type(selectable) is SocketTransport:
            return selectable.party
        if isinstance(selectable, udp.Port):
            return SocketKind.DATAGRAM
        return SocketKind.LISTENER if isinstance(selectable, tcp.Port) else None

    def serve(descriptor: int, mask: int) -> bool:
        """Serve a connection of our own as the reactor would, but without the log context that it makes for each event."""
        selectable: Any = selectables.get(descriptor)
        if type(selectable) not in OWN:
            return False
        try:
            if mask == EPOLLIN:
                problem = selectable.doRead()
            else:
                problem = None
                reactor._doReadOrWrite(selectable, descriptor, mask)
        except Exception as error:
            _log.failure("a connection broke")
            problem = error.with_traceback(None)  # its frames would keep the connection in memory
        if problem is not None:
            try:
                reactor._disconnectSelectable(selectable, problem, True)
            except Exception:
                _log.failure("the end of a connection broke")
        return True

    reactor._poller = FairPoller(
        poller, strangers, turns, observer, kind_of=kind_of, serve=serve,
    )

    def end() -> None:
        reactor._poller = poller

    return end
