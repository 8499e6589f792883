"""Tests of sharing a turn of the reactor among the ready sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from select import EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Any
from unittest import SkipTest
from unittest.mock import Mock

from twisted.internet import reactor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import DatagramProtocol, ServerFactory
from twisted.internet.task import Clock, deferLater
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase, TestCase

from s2sgw.net.fair_poll import (
    CROWD,
    DATAGRAM_SECONDS,
    FEW,
    GONE_SECONDS,
    LISTENER_SECONDS,
    PEERS_SECONDS,
    STRANGERS_SECONDS,
    STRANGERS_WAITING,
    FairPoller,
    SocketKind,
    share_turns,
)
from s2sgw.net.socket_transport import SocketTransport
from s2sgw.net.turn_budget import TURN_SECONDS, TurnBudget

GONE = EPOLLIN | EPOLLRDHUP

STRANGERS = dict.fromkeys(range(1000, 2000))
DATAGRAMS, LISTENERS = range(5000, 6000), range(7000, 8000)
#: Each of these descriptors belongs to one party, or to the other.
PARTIES = {**dict.fromkeys(range(100, 900), "many"), **dict.fromkeys(range(90, 93), "few")}
GROUPS = {"peers": range(1000), "datagrams": DATAGRAMS, "listeners": LISTENERS, "strangers": STRANGERS}


def kind_of(descriptor: int) -> object:
    if descriptor in DATAGRAMS:
        return SocketKind.DATAGRAM
    return SocketKind.LISTENER if descriptor in LISTENERS else PARTIES.get(descriptor)


class Observer:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.cpu_seconds: list[float] = []

    def began(self, cpu_seconds: float) -> None:
        self.told.append("began")
        self.cpu_seconds.append(cpu_seconds)

    def ended(self) -> None:
        self.told.append("ended")


class Turns:
    """Records the rounds of reads."""

    def __init__(self, stopwatch: Callable[[], float] = lambda: 0.0, negotiating: Callable[[], int] = int) -> None:
        self.budget = TurnBudget(stopwatch=stopwatch)
        self._negotiating = negotiating
        self.told: list[str] = []

    @property
    def negotiating(self) -> int:
        return self._negotiating()

    def begin_round(self, alone: bool = False) -> None:
        self.told.append("begin alone" if alone else "begin")

    def end_round(self) -> None:
        self.told.append("end")


class Served:
    """A reactor that serves each event for a number of seconds."""

    def __init__(
        self, descriptors: list[int], seconds: float = 0.001, start: int = 0, waiting: int | None = None, gone: Iterable[int] = (),
    ) -> None:
        self.now = 0.0
        self.observer = Observer()
        self.turns = Turns(lambda: self.now, lambda: 0 if waiting is None else waiting + len(self.strangers))
        self.epoll: Any = Mock()
        self.epoll.poll.return_value = [*((each, GONE) for each in gone), *((each, EPOLLIN) for each in descriptors)]
        poller = FairPoller(
            self.epoll, STRANGERS, self.turns, self.observer, start=lambda number: start % number,
            kind_of=kind_of,
        )
        self.descriptors: list[int] = []
        self.strangers: list[int] = []
        self.masks: dict[int, int] = {}
        for descriptor, mask in poller.poll(1.5, 99):
            self.descriptors.append(descriptor)
            self.strangers += [descriptor] if descriptor in STRANGERS else []
            self.masks[descriptor] = mask
            self.now += seconds
        self.poller = poller


class ShareTests(SynchronousTestCase):
    """Tests of the sockets that are served in one turn, and of their order."""

    def test_alone(self) -> None:
        """A connection of our own that is ready alone is served at once, and nothing is left to the reactor."""
        for descriptors, told in (([3], ["begin alone", "served", "end"]), ([3, 4], ["begin", "served", "served", "end"])):
            turns, epoll = Turns(), Mock()
            epoll.poll.return_value = [(each, EPOLLIN) for each in descriptors]

            def serve(descriptor: int, mask: int, turns: Turns = turns) -> bool:
                turns.told.append("served")
                return True

            poller = FairPoller(epoll, STRANGERS, turns, Observer(), start=lambda number: 0, serve=serve)
            self.assertEqual(([], told), (list(poller.poll(0, 99)), turns.told))

    def test_one_reading(self) -> None:
        """The stopwatch is read once when a turn begins, for its budget and for the observer."""
        readings = iter([7.0])
        turns, observer, epoll = Turns(lambda: next(readings)), Observer(), Mock()
        epoll.poll.return_value = []
        self.assertEqual([], list(FairPoller(epoll, STRANGERS, turns, observer).poll(0, 99)))
        self.assertEqual(([7.0], 7.0 + TURN_SECONDS), (observer.cpu_seconds, turns.budget.end))

    def changing(self, strangers: dict[int, object]) -> tuple[Any, Turns]:
        """Return a poller with many ready descriptors, of which some strangers have closed, and the record of its rounds."""
        turns, epoll = Turns(), Mock()
        epoll.poll.return_value = [(3, EPOLLIN), *((each, GONE) for each in strangers)]
        return FairPoller(epoll, strangers, turns, Observer(), start=lambda number: 0), turns

    def test_stranger_no_more(self) -> None:
        """A stranger that closed may be proven, or be gone, while others are served: its event is then discarded."""
        strangers: dict[int, object] = {each: object() for each in range(1000, 1020)}
        poller, turns = self.changing(strangers)
        served = []
        for descriptor, _ in poller.poll(0, 99):
            served.append(descriptor)
            if descriptor == 3:
                del strangers[1001]
                strangers[1002] = object()  # another connection has the descriptor
        self.assertEqual((served, turns.told), ([3, 1000, *range(1003, 1020)], ["begin", "end"]))

    def test_round_that_raises(self) -> None:
        """If a round raises, the streams that were read are served all the same."""
        poller, turns = self.changing({each: object() for each in range(1000, 1020)})
        self.patch(poller, "_kind_of", lambda descriptor: 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            list(poller.poll(0, 99))
        self.assertEqual(turns.told, ["begin", "end"])

    def test_one(self) -> None:
        """A single event is served as it comes."""
        served = Served([1500], seconds=1.0)
        self.assertEqual([1500], served.descriptors)
        served.epoll.poll.assert_called_once_with(1.5, 99)

    def test_few(self) -> None:
        """A few events are served as they come, starting from a different one each time, until the turn is over."""
        few = [*range(1, FEW - 1), 5000]
        self.assertEqual([*few[3:], *few[:3]], Served(few, seconds=0.0, start=3).descriptors)
        self.assertEqual([4, 5], Served(few, seconds=TURN_SECONDS * 0.6, start=3).descriptors)

    def test_few_with_a_stranger(self) -> None:
        """A stranger is served last even among few events."""
        self.assertEqual([3, 1500], Served([1500, 3], seconds=1.0).descriptors)

    def test_strangers_last(self) -> None:
        """Peers and our own sockets are served before strangers, whatever the order of epoll."""
        served = Served([*range(1000, 1020), 7, 8, 9], seconds=0.0)
        self.assertEqual([7, 8, 9], served.descriptors[:3])
        self.assertEqual(list(range(1000, 1020)), sorted(served.descriptors[3:]))

    def test_bounded(self) -> None:
        """However many are ready, a turn is bounded. Some strangers are served even if the others use all of their time."""
        served = Served([*range(1000, 1900), *range(900)])
        peers = [descriptor for descriptor in served.descriptors if descriptor < 1000]
        self.assertAlmostEqual(PEERS_SECONDS, len(peers) * 0.001, delta=0.0011)
        self.assertAlmostEqual(STRANGERS_SECONDS, (len(served.descriptors) - len(peers)) * 0.001, delta=0.0011)
        self.assertAlmostEqual(PEERS_SECONDS + STRANGERS_SECONDS, served.now, delta=0.0021)

    def test_over(self) -> None:
        """If the turn is over, one of each kind is served and no more: each begins at most one piece of work."""
        served = Served([*range(1000, 1100), *range(100), *range(5000, 5100)], seconds=TURN_SECONDS, gone=[1900, 1901])
        self.assertEqual([1, 1, 2], [
            sum(each in group for each in served.descriptors) for group in (range(100), DATAGRAMS, STRANGERS)
        ])

    def test_parties(self) -> None:
        """The parties that streams belong to take turns: one with very many of them delays no others. One without a party counts alone."""
        ready = [*range(100, 900), 90, 91, 92, 7, 8]
        served = [PARTIES.get(each, "none") for each in Served(ready, seconds=PEERS_SECONDS / 3.5).descriptors]
        self.assertEqual(sorted(served), ["few", "many", "none", "none"])
        served = [PARTIES.get(each, "none") for each in Served(ready, seconds=0.0).descriptors]
        self.assertEqual((sorted(served[4:8]), set(served[8:]), len(served)), (["few", "few", "many", "many"], {"many"}, len(ready)))

    def test_datagrams(self) -> None:
        """DNS answers are served after streams, a bounded number of them, and before strangers."""
        served = Served([*range(5000, 5100), *range(1000, 1020), 7, 8])
        self.assertEqual([7, 8], served.descriptors[:2])
        datagrams = [descriptor for descriptor in served.descriptors if descriptor in DATAGRAMS]
        self.assertAlmostEqual(DATAGRAM_SECONDS, len(datagrams) * 0.001, delta=0.0011)
        self.assertEqual(served.descriptors[2 : 2 + len(datagrams)], datagrams)
        self.assertIn(served.descriptors[-1], STRANGERS)

    def test_listeners(self) -> None:
        """Listeners are served after streams and DNS answers, for a bounded time, and before strangers."""
        served = Served([*range(7000, 7100), *range(1000, 1020), *range(5000, 5100), 7])
        kinds = [next(name for name, group in GROUPS.items() if descriptor in group) for descriptor in served.descriptors]
        self.assertEqual(list(dict.fromkeys(kinds)), ["peers", "datagrams", "listeners", "strangers"])
        self.assertAlmostEqual(LISTENER_SECONDS, kinds.count("listeners") * 0.001, delta=0.0011)
        served = Served([*range(7000, 7100), *range(1000, 1020), 7], seconds=1.0)
        self.assertEqual(served.descriptors, [7, 7000, 1000])

    def test_strangers_alone(self) -> None:
        """If only strangers are ready, turns are just as short, so that later events do not wait long."""
        self.assertAlmostEqual(STRANGERS_SECONDS, Served(list(range(1000, 1900))).now, delta=0.0011)

    def test_one_that_takes_long(self) -> None:
        """One of each group is served, however long it takes."""
        self.assertEqual([5, 1000], Served([*range(1000, 1020), *range(5, 30)], seconds=1.0).descriptors)

    def test_newest(self) -> None:
        """The newest ready strangers alternate with the others, so that a crowd does not block later ones."""
        served = Served([*range(1000, 1017), 1998, 1990], seconds=0.0, start=2)
        self.assertEqual([1998, 1002, 1990, 1003, 1004, 1005], served.descriptors[:6])
        self.assertEqual(19, len(set(served.descriptors)))

    def test_changes_meanwhile(self) -> None:
        """Connections that end while others are served have no effect."""
        strangers = dict.fromkeys(range(1000, 1100))
        epoll = Mock()
        epoll.poll.return_value = [(descriptor, 1) for descriptor in strangers]
        poller = FairPoller(epoll, strangers, Turns(), Observer())
        self.assertEqual(100, sum(strangers.pop(descriptor, 1) is None for descriptor, _ in poller.poll(0, 9)))

    def test_gone(self) -> None:
        """Strangers that have closed their side are served last, for a bounded time, and their input is read."""
        served = Served([*range(1000, 1100), 7], gone=range(1500, 1500 + CROWD - 1))
        gone = [descriptor for descriptor in served.descriptors if descriptor >= 1500]
        self.assertEqual(served.descriptors[-len(gone):], gone)
        self.assertAlmostEqual(GONE_SECONDS, len(gone) * 0.001, delta=0.0011)
        self.assertEqual({GONE}, {served.masks[descriptor] for descriptor in gone})

    def test_a_crowd_has_gone(self) -> None:
        """If a crowd of strangers has closed, their input is not read. A peer's is."""
        served = Served([], gone=[7, *range(1500, 1500 + CROWD)], seconds=0.0)
        self.assertEqual({7: GONE, **dict.fromkeys(range(1500, 1500 + CROWD), EPOLLHUP)}, served.masks)

    def test_gone_before_it_is_served(self) -> None:
        """An event does not end another connection that has the descriptor by now."""
        strangers = {descriptor: object() for descriptor in range(1000, 1000 + CROWD)}
        epoll = Mock()
        epoll.poll.return_value = [(descriptor, GONE) for descriptor in strangers]
        events = iter(FairPoller(epoll, strangers, Turns(), Observer(), start=lambda number: 0).poll(0, 9))
        first, _ = next(events)
        strangers[1100] = object()
        del strangers[1150]
        self.assertEqual(set(range(1000, 1000 + CROWD)) - {first, 1100, 1150}, {descriptor for descriptor, _ in events})

    def test_watched(self) -> None:
        """The close of the other side is watched for while the socket is read, and not while reading is paused."""
        served = Served([3])
        served.poller.register(3, EPOLLIN)
        served.poller.modify(3, EPOLLOUT)
        served.epoll.register.assert_called_once_with(3, GONE)
        served.epoll.modify.assert_called_once_with(3, EPOLLOUT)

    def test_read_and_not_served(self) -> None:
        """If many strangers already wait to be served, one more is read, the newest. Peers are read as usual."""
        served = Served([*range(1000, 1900), 7, 1950], seconds=0.0001, waiting=STRANGERS_WAITING)
        self.assertEqual([7, 1950], served.descriptors)

    def test_so_many_wait(self) -> None:
        """No more strangers are read than may wait to be served. Those that have closed are ended as usual."""
        served = Served(list(range(1000, 1900)), seconds=0.0, waiting=STRANGERS_WAITING - 5, gone=[1950])
        self.assertEqual((5 + 1, 1950), (len(served.strangers), served.strangers[-1]))

    def test_from_another_place_each_time(self) -> None:
        """No place in epoll's list is preferred: each turn begins at a different one, and goes round."""
        served = Served([*range(1000, 1020), 7, 8, 9], seconds=0.0, start=2)
        self.assertEqual([9, 7, 8], served.descriptors[:3])

    def test_observed(self) -> None:
        """A turn ends when the reactor waits, and begins when it no longer waits."""
        self.assertEqual(["ended", "began"], Served([3]).observer.told)

    def test_the_rest_is_the_pollers(self) -> None:
        """All other calls of the reactor go to the poller."""
        served = Served([3])
        served.poller.unregister(3)
        served.epoll.unregister.assert_called_once_with(3)
        self.assertIs(served.epoll.fileno, served.poller.fileno)


class InstallTests(TestCase):
    """Tests on Twisted's own reactor."""

    def test_another_reactor(self) -> None:
        """Any other reactor is not changed."""
        clock = Clock()
        share_turns(clock, STRANGERS, Turns(), Observer())()
        self.assertFalse(hasattr(clock, "_poller"))

    async def test_epoll(self) -> None:
        """On the current reactor sockets and timers are served as before, and turns are reported."""
        if not isinstance(reactor, EPollReactor):
            raise SkipTest("another reactor runs")
        before = reactor._poller
        observer, turns = Observer(), Turns()
        end = share_turns(reactor, STRANGERS, turns, observer)
        near, far = socket.socketpair()
        read: list[bytes] = []
        reader: Any = Mock(fileno=far.fileno, doRead=lambda: read.append(far.recv(9)), connectionLost=lambda _: None)
        reactor.addReader(reader)
        near.send(b"a")
        await deferLater(reactor, 0.05)
        reactor.removeReader(reader)
        end()
        for each in (near, far):
            each.close()
        self.assertEqual(([b"a"], before), (read, reactor._poller))
        self.assertGreater(observer.told.count("began"), 1)
        self.assertEqual(turns.told[:5], ["begin alone", "begin", "end", "begin", "end"])

    async def test_connections_of_our_own(self) -> None:
        """Our connections are read and lost as by the reactor itself, without its log context. An error in one is logged."""
        if not isinstance(reactor, EPollReactor):
            raise SkipTest("another reactor runs")
        end = share_turns(reactor, STRANGERS, Turns(), Observer())
        called = Mock(side_effect=lambda *_: self.fail("the reactor served the socket"))
        self.patch(log, "callWithLogger", called)
        near, far = socket.socketpair()
        far.setblocking(False)
        read, lost = Mock(), Mock(side_effect=ValueError("broken"))
        below: Any = Mock(socket=far, reactor=reactor, fileno=far.fileno, connectionLost=lost)
        SocketTransport(below, below, read, Mock(close_soon=lambda close: close()))
        near.send(b"a")
        await deferLater(reactor, 0.05)
        near.close()
        await deferLater(reactor, 0.05)
        end()
        far.close()
        read.dataReceived.assert_called_once_with(b"a")
        lost.assert_called_once()
        called.assert_not_called()
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_kinds(self) -> None:
        """Twisted's ports are told from streams. A stream is known by its party."""
        if not isinstance(reactor, EPollReactor):
            raise SkipTest("another reactor runs")
        self.addCleanup(share_turns(reactor, STRANGERS, Turns(), Observer()))
        datagrams = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
        listener = reactor.listenTCP(0, ServerFactory(), interface="127.0.0.1")
        near, far = socket.socketpair()
        below: Any = Mock(socket=far, reactor=reactor, fileno=far.fileno)
        stream = SocketTransport(below, below, Mock(party="a.example"), Mock())
        for end in (near.close, far.close, stream.pauseProducing, datagrams.stopListening, listener.stopListening):
            self.addCleanup(end)
        kinds = [reactor._poller._kind_of(each.fileno()) for each in (datagrams, listener, stream)]
        self.assertEqual([SocketKind.DATAGRAM, SocketKind.LISTENER, "a.example"], kinds)

    async def test_connection_that_breaks(self) -> None:
        """A connection of our own whose reading fails by an error of ours is lost, and is served no more."""
        if not isinstance(reactor, EPollReactor):
            raise SkipTest("another reactor runs")
        end = share_turns(reactor, STRANGERS, Turns(), Observer())
        near, far = socket.socketpair()
        far.setblocking(False)
        read, lost = Mock(), Mock()
        read.dataReceived.side_effect = ValueError("broken")
        below: Any = Mock(socket=far, reactor=reactor, fileno=far.fileno, connectionLost=lost)
        SocketTransport(below, below, read, Mock())
        near.send(b"a")
        await deferLater(reactor, 0.05)
        near.send(b"b")
        await deferLater(reactor, 0.05)
        end()
        for each in (near, far):
            each.close()
        self.assertEqual((read.dataReceived.call_count, lost.call_count), (1, 1))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_ends_that_break(self) -> None:
        """If the end of a connection fails by an error of ours, the others of this turn are served all the same."""
        if not isinstance(reactor, EPollReactor):
            raise SkipTest("another reactor runs")
        self.addCleanup(share_turns(reactor, STRANGERS, Turns(), Observer()))
        lost = Mock(side_effect=ValueError("broken"))
        for _ in range(2):
            near, far = socket.socketpair()
            self.addCleanup(near.close)
            self.addCleanup(far.close)
            below: Any = Mock(socket=far, reactor=reactor, fileno=far.fileno, connectionLost=lost)
            self.patch(SocketTransport(below, below, Mock(), Mock()), "doRead", lambda: CONNECTION_DONE)
            near.send(b"a")
        self.assertEqual(list(reactor._poller.poll(0, 16)), [])
        self.assertEqual((lost.call_count, len(self.flushLoggedErrors(ValueError))), (2, 2))
