"""Tests of a peer that was unreachable and has moved in the DNS: it is tried at once, with real discovery, resolver and queues."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import dns.rcode
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.composition.federation import MissedPeers
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.net.dialing import DialFailed
from s2sgw.net.discovery import Discovery, Resolution, Target
from s2sgw.net.resolver import Resolver
from s2sgw.queue.backoff import BackOff
from s2sgw.runtime import rediscovery
from s2sgw.runtime.rediscovery import INTERVAL, NEAR, TICK, Rediscovery
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.dns import FakeReactor, FakeServer
from tests.support.fakes import Connections, FixedRandom
from tests.unit.delivery import test_agent
from tests.unit.delivery.test_agent import THERE, KeepingHop, message

#: the times of the first attempts, each of which fails at once, without jitter
ATTEMPTS = [0, 2, 6, 14, 30, 62, 126, 246, 366]
SRV = "_xmpp-server._tcp.there.example"


class NoChance(Random):
    """A source of randomness without jitter."""

    def random(self) -> float:
        return 0.0


class World(test_agent.World):
    """A world with a name server. Only addresses in `alive` accept connections."""

    def __init__(self) -> None:
        super().__init__()
        self.reactor = cast(FakeReactor, self.clock)
        self.server = FakeServer(self.reactor, ("127.0.0.1", 5300))
        self.server.add("h1.example", "A", "8.8.0.1", ttl=3600)
        self.server.add("h2.example", "A", "8.8.0.2", ttl=3600)
        resolver = Resolver(self.reactor, ["127.0.0.1:5300"])
        self.discovery = Discovery(self.reactor, resolver, random=Random(7))
        self.rediscovery = Rediscovery(self.reactor, self.queues, self.discovery, NoChance())
        self.alive: set[str] = set()
        #: the times of attempts by address
        self.tried: list[tuple[float, str]] = []
        self.side.resolve = lambda pair, _=None: self.discovery.resolve(pair.recipient)  # type: ignore[method-assign, assignment, return-value]
        self.side.dial = self.dial  # type: ignore[method-assign]

    def dial(self, address: str, port: int, build: Any) -> Deferred[None]:
        self.tried.append((self.clock.seconds(), address))
        if address not in self.alive:
            return fail(DialFailed(Ending(Cause.CONNECTION_REFUSED)))
        build()
        self.clock.callLater(0, lambda: self.connections[-1].prove())
        return succeed(None)

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        if queue.direction == "inbound":
            return KeepingHop(self.back)
        connect_services = ConnectServices(
            Connections(self._connection), self.clock, self.destinations, self.extensions,
            watcher=MissedPeers(frozenset(), self.rediscovery),
        )
        way: Any = PeerStreamProvider(self.side, connect_services)  # type: ignore[arg-type]
        return DeliveryAgent(queue, way, self.record, BackOff(first=2, jitter=0), FixedRandom(), self.clock)

    def serve(self, *records: str, ttl: int) -> None:
        self.server.records.pop((SRV, "SRV"), None)
        self.server.srv("there.example", *records, ttl=ttl)

    def until(self, moment: float) -> None:
        """Advance the clock to this time, with every turn before it."""
        while self.clock.seconds() < moment:
            self.reactor.settle()
            self.clock.advance(1)
            self.reactor.settle()
            if self.clock.seconds() % TICK == 0:
                self.rediscovery.turn()
                self.reactor.settle()

    @property
    def looks(self) -> int:
        """Return how often the DNS was asked."""
        return self.server.count(SRV, "SRV")


class RediscoveryTests(SynchronousTestCase):
    """Tests of waking a queue on a DNS change."""

    def setUp(self) -> None:
        self.patch(test_agent, "Clock", FakeReactor)
        self.world = World()

    def begin(self, *records: str, ttl: int = 300) -> None:
        self.world.serve(*(records or ("0 0 5269 h1.example.",)), ttl=ttl)
        self.world.queue.accept([message("1")])

    def times(self) -> list[float]:
        return [moment for moment, _ in self.world.tried]

    def test_moved(self) -> None:
        """The DNS is asked when the TTL is over, not earlier. If the peer has moved, its queues try the new address at once."""
        self.begin()
        self.world.until(200)
        self.world.serve("0 0 5269 h2.example.", ttl=300)
        self.world.alive.add("8.8.0.2")
        self.world.until(299)
        self.assertEqual((self.times(), self.world.looks), ([float(at) for at in ATTEMPTS[:8]], 1))
        self.world.until(300 + INTERVAL + TICK)
        (moment, address) = self.world.tried[-1]
        self.assertEqual((address, self.world.state, self.world.looks), ("8.8.0.2", "ready", 2))
        self.assertLess(moment, ATTEMPTS[8])
        self.world.until(500)
        self.assertEqual((self.world.looks, len(self.world.rediscovery)), (2, 0))

    def test_every_change_counts(self) -> None:
        """Another port, another address of the same host, or one more target is a change. One less, or another order, is not."""
        for before, after, address, wakes in (
            (("0 0 5269 h1.example.",), ("0 0 5270 h1.example.",), None, True),
            (("0 0 5269 h1.example.",), ("0 0 5269 h1.example.",), "8.8.0.9", True),
            (("0 0 5269 h1.example.",), ("0 0 5269 h1.example.", "1 0 5269 h2.example."), None, True),
            (("0 0 5269 h1.example.", "1 0 5269 h2.example."), ("0 0 5269 h1.example.",), None, False),
            (("0 0 5269 h1.example.", "1 0 5269 h2.example."), ("0 0 5269 h2.example.", "1 0 5269 h1.example."), None, False),
        ):
            self.world = World()
            self.world.server.records.pop(("h1.example", "A"))
            self.world.server.add("h1.example", "A", "8.8.0.1", ttl=20)
            self.begin(*before, ttl=20)
            self.world.until(130)
            attempts = set(self.times())
            self.world.serve(*after, ttl=20)
            if address is not None:
                self.world.server.records.pop(("h1.example", "A"))
                self.world.server.add("h1.example", "A", address, ttl=20)
            self.world.until(130 + INTERVAL + TICK)
            self.assertEqual(len(set(self.times()) - attempts), int(wakes), after)

    def test_not_at_all_before(self) -> None:
        """The DNS could not be asked before, and answers now."""
        self.world.server.rcodes[SRV, "*"] = self.world.server.rcodes["_xmpps-server._tcp.there.example", "*"] = dns.rcode.SERVFAIL
        self.begin()
        self.world.until(130)
        self.assertEqual((self.world.tried, self.world.next_hop.last_cause), ([], Cause.DNS_UNREACHABLE))
        self.world.server.rcodes.clear()
        self.world.alive.add("8.8.0.1")
        self.world.until(130 + INTERVAL + TICK)
        self.assertEqual(self.world.state, "ready")

    def test_seldom(self) -> None:
        """The DNS is asked at most every 30 seconds, however short the TTL. A near attempt makes its own look-up."""
        self.begin(ttl=1)
        self.world.until(61)
        self.assertEqual(self.world.looks, 5)  # each by an attempt: one came every 30 seconds, or was near
        self.world.until(125)
        self.assertEqual(self.world.looks, 6 + 1)  # the next, at 122, would have been too close
        self.world.until(245)
        self.assertEqual(self.world.looks, 7 + 1 + 3)
        self.assertEqual(set(self.times()), {float(at) for at in ATTEMPTS[:7]})

    def test_nothing_waits(self) -> None:
        """If nothing waits for the peer, or all of it is held, the DNS is not asked, and the peer is forgotten."""
        for end in (lambda queue: queue.drop(True), DeliveryQueue.hold):
            self.world = World()
            self.begin(ttl=1)
            self.world.until(63)
            looks = self.world.looks
            end(self.world.queue)
            self.world.until(120)
            self.assertEqual((self.world.looks, len(self.world.rediscovery)), (looks, 0))


def place(address: str) -> Resolution:
    return Resolution(THERE, (Target("h.example", 5269, (address,)),))


class BoundTests(SynchronousTestCase):
    """Tests with look-ups that the test answers."""

    def setUp(self) -> None:
        self.world = test_agent.World()
        self.asked: list[Deferred[Resolution]] = []
        self.chance = 0.0
        self.rediscovery = Rediscovery(self.world.clock, self.world.queues, self, self)
        self.world.side.ending = Ending(Cause.DNS_UNREACHABLE)

    def random(self) -> float:
        return self.chance

    def resolve(self, peer: Domain) -> Deferred[Resolution]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def back_off(self, *peers: Domain) -> None:
        """Let the queues for these peers wait for long."""
        for peer in peers:
            queue = self.world.queues.queue(Pair(test_agent.HERE, peer))
            queue.accept([message("1")])
            next_hop: Any = queue.next_hop
            next_hop.data.timer.delay(1000)
            self.rediscovery.missed(peer, place("192.0.2.1"))

    def look(self) -> None:
        self.world.clock.advance(INTERVAL)
        self.rediscovery.turn()

    def test_peers(self) -> None:
        """The number of peers is limited. The one that was missed longest ago is forgotten first."""
        self.rediscovery._missed.limit = 2
        one, two, three = (Domain.parse(f"p{number}.example") for number in range(3))
        self.back_off(one, two, one, three)
        self.assertEqual(list(self.rediscovery._missed), [one, three])

    def test_sub_domains(self) -> None:
        """A peer with many sub-domains does not push others out."""
        self.rediscovery._missed.limit = 2
        self.back_off(*(Domain.parse(name) for name in ("p.example", "a.many.example", "b.many.example", "c.many.example")))
        self.assertEqual(["p.example", "c.many.example"], [peer.text for peer in self.rediscovery._missed])

    def test_at_once(self) -> None:
        """The number of simultaneous look-ups is limited. The next one starts when one ends, also by a failure."""
        self.patch(rediscovery, "AT_ONCE", 1)
        self.back_off(*(Domain.parse(f"p{number}.example") for number in range(2)))
        self.look()
        self.assertEqual(len(self.asked), 1)
        self.asked[0].errback(RuntimeError("x"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.rediscovery.turn()
        self.assertEqual(len(self.asked), 2)

    def test_jitter(self) -> None:
        """Jitter makes a look-up up to a quarter earlier."""
        self.chance = 0.999
        self.back_off(THERE)
        self.world.clock.advance(INTERVAL * 0.75)
        self.rediscovery.turn()
        self.assertEqual(self.asked, [])
        self.world.clock.advance(1)
        self.rediscovery.turn()
        self.assertEqual(len(self.asked), 1)

    def test_near(self) -> None:
        """An attempt of the queue itself replaces a look-up."""
        self.back_off(THERE)
        next_hop: Any = self.world.queue.next_hop
        next_hop.data.timer.reset(INTERVAL + NEAR)
        self.look()
        self.assertEqual((self.asked, len(self.rediscovery)), ([], 1))

    def test_late_answer(self) -> None:
        """A result is discarded if another attempt has failed meanwhile."""
        self.back_off(THERE)
        self.look()
        self.rediscovery.missed(THERE, place("192.0.2.2"))
        self.asked[0].callback(place("192.0.2.2"))
        self.assertEqual((self.world.state, len(self.rediscovery)), ("backing off", 1))

    def test_said(self) -> None:
        """The log says why the queues try again."""
        said: list[dict[str, Any]] = []
        self.patch(Rediscovery, "log", type("Log", (), {"info": staticmethod(lambda **facts: said.append(facts))}))
        self.back_off(THERE)
        self.look()
        self.world.side.ending = None
        self.asked[0].callback(place("192.0.2.2"))
        self.assertEqual((self.world.state, len(self.rediscovery)), ("connecting", 0))
        ((event, peer, detail),) = ((each["event"], each["peer"], each["detail"]) for each in said)
        self.assertEqual((event, peer, detail), ("woken by the DNS", "there.example", "now h.example:5269 at 192.0.2.2"))
