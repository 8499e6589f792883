"""Tests of the link with jabberd2's router: parts for lanes, served domains, returned stanzas, and reconnection."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend.jabberd2_router import AGAIN, RETIRE_SECONDS, SWEEP, UNUSED, Router, RouterLink, RouterServices
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.dialing import DialFailed
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.stream.events import Announced, Bound, Routed, StanzasReceived
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.custody import custody_of, ingress_services
from tests.support.fakes import FakeNextHop, FixedRandom

HERE, ROOMS, PEER = (Domain.parse(name) for name in ("here.example", "rooms.here.example", "peer.example"))
IN, OUT = Pair(PEER, HERE), Pair(HERE, PEER)


class FakeConnection:
    """A connection that keeps its output."""

    shared = True
    peer_address, local_address, tls_version, cipher = "127.0.0.1:5347", "127.0.0.1:1", None, None

    def __init__(self, engine: Any, owner: Any) -> None:
        self.engine, self.owner = engine, owner
        self.ending: Ending | None = None
        self.writable = True
        self.established = False
        self.written: list[str] = []
        self.held: list[object] = []

    def step(self, method: Any, *args: Any) -> None:
        self.written.append(method.__name__)

    def write(self, data: bytes) -> bool:
        self.written.append(data.decode())
        return not self.writable

    def negotiated(self) -> None:
        self.established = True

    def close(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.owner.ended(self, ending)

    def pause(self, holder: object) -> None:
        self.held.append(holder)

    def resume(self, holder: object) -> None:
        self.held = [each for each in self.held if each is not holder]

    def when_closed(self) -> Deferred[None]:
        return succeed(None)


class KeepingHop(FakeNextHop):
    """The next hop to peers."""

    def __init__(self, kept: list[str]) -> None:
        self.kept = kept

    def send(self, data: Any) -> bool:
        self.kept += [each.decode() for each in data]
        return False


class LinkTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.record = EventRecord(self.clock, Logger())
        self.out: list[str] = []
        self.custody = custody_of(self.clock, self.record, (HERE, ROOMS).__contains__, self._next_hop)
        self.queues = self.custody.queues
        services = ingress_services(self.custody, PeerPolicies({}))
        self.connections: list[FakeConnection] = []
        self.failure: Exception | None = None
        self.secret: Any = lambda: "sesame"
        router = Router("127.0.0.1", 5347, "s2s", lambda: self.secret(), frozenset({HERE, ROOMS}))
        around = RouterServices(services, self._connection, self._dial, self._admit, self.clock, FixedRandom(), lambda: "nonce")  # type: ignore[arg-type]
        self.link = RouterLink(router, around, BackOff(first=1, jitter=0))

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        if queue.pair.recipient not in (HERE, ROOMS):
            return KeepingHop(self.out)
        return DeliveryAgent(queue, self.link, self.record, BackOff(first=2, jitter=0), FixedRandom(), self.clock)

    def _connection(self, engine: Any, owner: Any) -> FakeConnection:
        self.connections.append(FakeConnection(engine, owner))
        return self.connections[-1]

    async def _dial(self, host: str, port: int, build: Any) -> None:
        connection = build()
        if self.failure is not None:
            raise self.failure
        connection.owner.connected(connection)

    async def _admit(self, pair: Pair) -> Ending | None:
        return None

    @property
    def connection(self) -> FakeConnection:
        return self.connections[-1]

    def tell(self, *events: Any) -> None:
        for event in events:
            self.link.event(self.connection, event)  # type: ignore[arg-type]

    def open(self, *names: str) -> None:
        self.link.start()
        self.connection.written.clear()
        self.tell(Bound(True), *(Announced(name, True) for name in names or ("here.example",)))

    def causes(self) -> list[Cause]:
        return [each.ending.cause for each in self.record.list()]


def message(id: str, pair: Pair = IN, inside: str = "") -> Stanza:
    to, from_ = f"a@{pair.recipient}", f"b@{pair.sender}"
    return Stanza("message", f"<message to='{to}' from='{from_}' id='{id}'>{inside}</message>".encode(), to, from_, None, id)


class LaneTests(LinkTestCase):
    """Tests of lanes to the domains behind the router."""

    def test_no_burden(self) -> None:
        """The connection is not ended because of one lane's stanza, however large."""
        self.open()
        self.queues.queue(IN).accept([message("1", inside="x" * 100_000)])
        next_hop: Any = self.queues.queue(IN).next_hop
        self.assertEqual((next_hop.stream.largest_in_flight, next_hop.stream.connection.shared), (0, True))

    def test_routes(self) -> None:
        """R33: waiting stanzas are sent in order as soon as a component serves the domain, wrapped for that domain."""
        queue = self.queues.queue(IN)
        queue.accept([message("1"), message("2")])
        self.open()
        queue.accept([message("3")])
        sent = "".join(self.connection.written)
        self.assertEqual(3, sent.count("to='here.example' from='s2s'><message xmlns='jabber:client'"))
        self.assertLess(sent.index("id='1'"), sent.index("id='2'"))
        self.assertLess(sent.index("id='2'"), sent.index("id='3'"))

    def test_unserved(self) -> None:
        """Stanzas for a domain without a component wait, and others do not. When the component goes its lanes wait again."""
        self.open()
        rooms = self.queues.queue(Pair(PEER, ROOMS))
        rooms.accept([message("1", rooms.pair)])
        self.assertEqual(("backing off", [Cause.UNREACHABLE]), (rooms.next_hop.state, self.causes()))
        self.tell(Announced("rooms.here.example", True), Announced("rooms.here.example", True), Announced("other", True))
        self.assertEqual(("ready", 1), (rooms.next_hop.state, len(self.connection.written)))
        self.tell(Announced("rooms.here.example", False))
        self.assertNotEqual("ready", rooms.next_hop.state)
        self.assertEqual({HERE}, self.link.served)

    def test_unfit(self) -> None:
        """Stanzas that would break jabberd2 are bounced, also those that waited. The others are sent."""
        queue = self.queues.queue(IN)
        bad = "<x xmlns='a&apos;b'/>"
        queue.accept([message("1", inside=bad), message("2")])
        self.open()
        queue.accept([message("3", inside=bad), message("4")])
        sent = "".join(self.connection.written)
        self.assertEqual(["2", "4"], [each for each in "1234" if f"id='{each}'" in sent])
        self.assertEqual(2, sum("unfit" in each for each in self.out))

    def test_let_go(self) -> None:
        """An unused part is released, so that strangers' names fill no memory. The link stays."""
        self.open()
        queue = self.queues.queue(IN)
        queue.accept([message("1")])
        for _ in range(int(UNUSED / SWEEP) + 2):
            self.clock.advance(SWEEP)
        self.assertEqual(({}, "bound"), (self.link._parts, self.link.state))
        self.assertNotEqual("ready", queue.next_hop.state)

    def test_pressure(self) -> None:
        """While the router reads nothing lanes wait. Then they continue."""
        self.open()
        queue = self.queues.queue(IN)
        queue.accept([message("1")])
        self.connection.writable = False
        self.link.paused(self.connection)  # type: ignore[arg-type]
        queue.accept([message("2")], source := SimpleNamespace(shared=True))
        self.assertEqual(1, len(self.connection.written))
        self.assertEqual({}, queue._slowed)
        self.connection.writable = True
        self.link.resumed(self.connection)  # type: ignore[arg-type]
        self.assertEqual(2, len(self.connection.written))
        self.assertTrue(source.shared)


class ReceivedStanzaTests(LinkTestCase):
    """Tests of stanzas that users send, and of returned ones."""

    def setUp(self) -> None:
        super().setUp()
        self.open()

    def test_to_a_peer(self) -> None:
        """A stanza is put into the queue of its pair."""
        self.tell(StanzasReceived(OUT, [message("1", OUT), message("2", OUT)]))
        self.assertEqual(2, len(self.out))

    def test_strange_addresses(self) -> None:
        """R14: stanzas are accepted only from the backend's own domains, not for its own domains, and with valid addresses. Others are
        reported and answered.
        """
        for pair, cause in ((Pair(PEER, HERE), Cause.INVALID_FROM), (Pair(HERE, ROOMS), Cause.LOOP)):
            self.tell(StanzasReceived(pair, [message("1", pair)]))
            self.assertEqual(cause, self.causes()[-1])
            self.assertIn(f"to='{pair.sender}' from='s2s'><message xmlns='jabber:client' type='error'", self.connection.written[-1])
        self.tell(Routed(Stanza("message", b"<message/>", "@@", "a@here.example"), None))
        self.assertEqual(Cause.ADDRESSING, self.causes()[-1])
        number = len(self.connection.written)
        self.tell(Routed(Stanza("message", b"<message/>", "@@", "@@"), None))
        self.assertEqual((number, []), (len(self.connection.written), self.out))

    def test_beyond_limits(self) -> None:
        """A stanza that arrived without its content is bounced. The others are sent."""
        large = message("1", OUT)
        large.data = b""
        self.tell(StanzasReceived(OUT, [large, message("2", OUT)]))
        self.assertEqual(1, len(self.out))
        self.assertIn("limit-exceeded", "".join(self.connection.written))

    def test_returned(self) -> None:
        """As with jabberd2's s2s, 404 means remote-server-not-found, and a filter's refusal policy-violation; not for other domains."""
        for number, condition in (("404", "remote-server-not-found"), ("405", "policy-violation")):
            self.out.clear()
            self.tell(Routed(message("1"), number))
            self.assertIn(condition, self.out[0])
        self.out.clear()
        self.tell(Routed(message("1", Pair(PEER, PEER)), "404"))
        self.assertEqual([], self.out)

    def test_returned_and_kept(self) -> None:
        """If no component serves the domain any more, its queue keeps the stanza."""
        queue = self.queues.queue(IN)
        self.patch(queue, "next_hop", SimpleNamespace(acknowledges=True, contact=lambda: None))
        self.tell(Announced("here.example", False), Routed(message("1"), "404"))
        self.assertEqual([], self.out)


    def test_returned_ping(self) -> None:
        """R41: a ping of the gateway's own that the router returns is not answered to the peer. It stays unanswered."""
        answered: list[bool] = []
        self.queues.replies(OUT).expect("s2sgw-1", lambda: answered.append(True))
        ping = Stanza("iq", b"<iq/>", IN.recipient.text, IN.sender.text, "get", "s2sgw-1")
        for served in (True, False):
            self.tell(Announced("here.example", served), Routed(ping, "404"))
        self.assertEqual(([], []), (self.out, answered))


class ReconnectionTests(LinkTestCase):
    """Tests of the connection, which is made again whenever it is lost."""

    def test_lost(self) -> None:
        """Parts end with it. A new connection is made after a while, sooner if it had worked."""
        self.open()
        queue = self.queues.queue(IN)
        queue.accept([message("1")])
        self.clock.advance(60)
        self.connection.close(Ending(Cause.CONNECTION_LOST))
        self.assertEqual((False, set(), {}, "backing off"), (self.link.bound, self.link.served, self.link._parts, self.link.state))
        queue.accept([message("2")])
        self.clock.advance(1)
        self.assertEqual((2, "connecting"), (len(self.connections), self.link.state))
        self.tell(Bound(True), Announced("here.example", True))
        self.assertIn("id='2'", "".join(self.connection.written))

    def test_answered_at_the_end(self) -> None:
        """A stanza passed on after the connection ended may be answered: the answer waits for the next connection."""
        self.open()
        queue, lost = self.queues.queue(IN), self.connection
        queue.accept([message("1")])
        self.patch(StreamIngress, "close", lambda ingress, ending: queue.accept([message("2")]))
        lost.close(Ending(Cause.CONNECTION_LOST))
        self.assertNotIn("id='2'", "".join(lost.written))
        self.clock.advance(1)
        self.tell(Bound(True), Announced("here.example", True))
        self.assertIn("id='2'", "".join(self.connection.written))

    def test_an_end_that_raises(self) -> None:
        """An error at the end of one connection does not prevent the next one."""
        self.open()
        self.patch(StreamIngress, "close", lambda ingress, ending: 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            self.connection.close(Ending(Cause.CONNECTION_LOST))
        self.clock.advance(1)
        self.assertEqual((2, "connecting"), (len(self.connections), self.link.state))

    def test_not_reached(self) -> None:
        """A missing router, a missing secret and an internal error are each reported, and tried again at growing intervals."""
        self.failure = DialFailed(Ending(Cause.CONNECTION_REFUSED))
        self.link.start()
        self.clock.advance(1)
        self.clock.advance(1)
        self.assertEqual(2, len(self.connections))
        self.secret = lambda: (_ for _ in ()).throw(ValueError("is empty"))
        self.clock.advance(1)
        self.secret, self.failure = lambda: "sesame", RuntimeError()
        self.clock.advance(4)
        self.flushLoggedErrors(RuntimeError)
        self.record.tell_repeated(at_once=True)
        told = Counter({Cause.CONNECTION_REFUSED: 2, Cause.SASL_FAILED: 1, Cause.INTERNAL: 1})
        self.assertEqual(told, Counter(each.ending.cause for each in self.record.list() for _ in range(each.times)))
        queue = self.queues.queue(IN)
        queue.accept([message("1")])
        self.assertEqual(Cause.INTERNAL, queue.next_hop.last_cause)
        self.assertEqual(self.clock.seconds() + AGAIN, queue.next_hop.status().retry_at)

    def test_the_end(self) -> None:
        """At a stop no more is read at first. Then the connection closes for good."""
        self.assertIsNone(self.successResultOf(self.link.unbind()))
        self.open()
        unbound = self.link.unbind()
        self.assertNoResult(unbound)
        self.assertEqual(["unbind"], self.connection.written)
        self.tell(Bound(False))
        self.successResultOf(unbound)
        self.successResultOf(self.link.stop())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stopped_early(self) -> None:
        """A stop between two attempts, and within one, ends them."""
        self.failure = DialFailed(Ending(Cause.CONNECTION_REFUSED))
        self.link.start()
        self.successResultOf(self.link.stop())
        self.assertEqual([], self.clock.getDelayedCalls())


class ReloadTests(LinkTestCase):
    """A reload changes the domains of the router, or removes it."""

    def with_domains(self, *domains: Domain, user: str = "s2sgw") -> Router:
        return replace(self.link.router, domains=frozenset(domains), user=user)

    def delivered(self, id: str) -> bool:
        return f"id='{id}'" in "".join(self.connection.written)

    def test_domain_that_is_added(self) -> None:
        """It is served at once if a component has announced it before, on the same connection."""
        self.link.adopt(self.with_domains(ROOMS))
        self.open("here.example", "rooms.here.example")
        self.assertEqual({ROOMS}, self.link.served)
        self.link.adopt(self.with_domains(HERE, ROOMS))
        self.assertEqual({HERE, ROOMS}, self.link.served)
        self.tell(Announced("here.example", False))
        self.link.adopt(self.with_domains(HERE, ROOMS))
        self.assertEqual(({ROOMS}, 1), (self.link.served, len(self.connections)))

    def test_domain_that_goes(self) -> None:
        """Its parts end: at once where nothing is in flight, else when that has settled, or some seconds later."""
        self.open("here.example", "rooms.here.example")
        for busy in (False, True):
            queue = self.queues.queue(IN)
            queue.accept([message("1")])
            self.patch(type(queue.next_hop), "busy", property(lambda agent, busy=busy: busy))  # type: ignore[misc]
            self.link.adopt(self.with_domains(ROOMS))
            queue.accept([message("2")])
            self.assertFalse(self.delivered("2"))
            self.clock.advance(RETIRE_SECONDS - 0.5)
            self.assertEqual("ready" if busy else "backing off", queue.next_hop.state)
            self.clock.advance(1)
            self.assertEqual(({}, "backing off"), (self.link._parts, queue.next_hop.state))
            queue.drop(quietly=True)
            queue.next_hop.stop(Cause.SHUTDOWN)
            self.queues.forget(IN)
            self.link.adopt(self.with_domains(HERE, ROOMS))

    def test_domain_that_was_given_up(self) -> None:
        """Its parts stay, and errors still go to its users; what its users send is refused."""
        self.open()
        queue = self.queues.queue(IN)
        queue.accept([message("1")])
        self.link.adopt(self.with_domains(ROOMS), {HERE})
        queue.accept([message("2")])
        self.assertTrue(self.delivered("2"))
        self.tell(StanzasReceived(OUT, [message("3", OUT)]))
        self.assertEqual(([], [Cause.INVALID_FROM]), (self.out, self.causes()))
        self.link.end_parts(HERE, Ending(Cause.RECONFIGURED))
        self.assertEqual({}, self.link._parts)
        queue.retry_now()
        self.assertEqual({HERE}, self.link.served)
        self.link.adopt(self.with_domains(ROOMS), ())
        self.assertEqual(set(), self.link.served)

    def test_removed(self) -> None:
        """Parts end, then the router is asked for what it has left, then the connection closes, and none is made again."""
        self.open()
        queue = self.queues.queue(IN)
        queue.accept([message("1")])
        retired = self.link.retire(Ending(Cause.RECONFIGURED))
        self.assertEqual(("unbind", {}), (self.connection.written[-1], self.link._parts))
        self.tell(StanzasReceived(OUT, [message("3", OUT)]), Bound(False))
        self.successResultOf(retired)
        self.assertEqual((1, Cause.RECONFIGURED), (len(self.out), self.connection.ending and self.connection.ending.cause))
        self.clock.advance(60)
        self.assertEqual(1, len(self.connections))

    def test_removed_while_it_is_silent(self) -> None:
        """A router that does not answer is left after some seconds; one that is not there at once."""
        self.open()
        retired = self.link.retire(Ending(Cause.RECONFIGURED))
        self.assertNoResult(retired)
        self.clock.advance(RETIRE_SECONDS)
        self.successResultOf(retired)
        self.assertIsNotNone(self.connection.ending)

    def test_removed_before_it_is_there(self) -> None:
        """Between two attempts nothing is left to be closed."""
        self.failure = DialFailed(Ending(Cause.CONNECTION_REFUSED))
        self.link.start()
        self.successResultOf(self.link.retire(Ending(Cause.RECONFIGURED)))
        self.assertEqual([], self.clock.getDelayedCalls())
