"""Tests of several of our domains on one stream to a peer (XEP-0220 §2.6.1), over real TLS in memory, and of its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.views import GatewayViews
from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.acknowledgements import LARGE, OVERDUE_SECONDS
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.next_hop import NextHop
from s2sgw.delivery.outbound_stream import StreamUnavailable
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.net.tls import ClientTLS
from s2sgw.queue.backoff import BackOff
from s2sgw.reporting.record import EventRecord
from s2sgw.s2s.connecting import ConnectServices
from s2sgw.s2s.destinations import Destinations
from s2sgw.s2s.extensions import DISABLED_SECONDS, ExtensionMemory
from s2sgw.s2s.multiplexing import ANSWER, BRIEF, PairRequests, ShareableStreams
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    ManagementEnabled,
    Permission,
    Refusal,
    ResolutionNeeded,
    StanzasReceived,
)
from s2sgw.stream.initiating import InitiatingOptions, InitiatingStream
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.certificates import leaf_for
from tests.support.custody import custody_of, stop
from tests.support.fakes import Connections, FixedRandom
from tests.support.wires import WireTransport, credential, server_context_of
from tests.unit.delivery.test_agent import Bounced, FakeSide, KeepingHop

HERE, ROOMS, THIRD, THERE = (Domain.parse(f"{name}.example") for name in ("here", "rooms", "third", "there"))
OURS = (HERE, ROOMS, THIRD)
KEYS = DialbackKeys(b"of ours")
ERROR = DialbackOutcome("error", Ending(Cause.DIALBACK_ERROR))
MINE, THEIRS = credential(leaf_for("here.example")), server_context_of("there.example")


def stanza(sender: Domain, id: str, body: str = "hi") -> Stanza:
    from_, to = f"a@{sender}", f"b@{THERE}"
    data = f"<message from='{from_}' to='{to}' id='{id}'><body>{body}</body></message>".encode()
    return Stanza("message", data, from_, to, None, id)


class FarEnd:
    """The peer's end of one stream. It accepts a further domain by its certificate, unless `peer.how` says otherwise."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        options = ReceivingOptions(keys=KEYS, serves=lambda domain: domain == THERE, answers_verify=lambda domain: False)
        self.engine = ReceivingStream(options, lambda: f"id{len(peer.ends)}")
        self.connection = StreamConnection(
            self.engine, self, clock=peer.clock, role="receiving", tls=lambda order: THEIRS.for_domain(THERE),
        )
        self.first: Domain | None = None
        self.managed = self.stifled = False

    def connected(self, connection: StreamConnection) -> None: ...

    def paused(self, connection: StreamConnection) -> None: ...

    def resumed(self, connection: StreamConnection) -> None: ...

    def ended(self, connection: StreamConnection, ending: Ending) -> None: ...

    def event(self, connection: StreamConnection, event: Any) -> None:
        match event:
            case ResolutionNeeded():
                connection.step(self.engine.resolved, None)
            case JudgementNeeded(domain):
                self.first = self.first or domain
                self.judge(domain)
            case DialbackNeeded(pair) if self.peer.how != "silence":
                connection.step(self.engine.dialback_answered, pair, ERROR)
            case ManagementEnabled():
                self.managed = True
            case StanzasReceived(pair, stanzas):
                self.take(stanzas)

    def judge(self, domain: Domain) -> None:
        if domain != self.first and self.peer.how == "close":
            self.connection.close(Ending(Cause.CLOSED))
        trusted = domain == self.first or not self.peer.how
        further = domain != self.first  # by its certificate alone, if that is trusted
        permission = Permission(external=trusted, dialback=not (further and trusted), management=self.peer.management)
        self.connection.step(self.engine.judged, permission)

    def take(self, stanzas: list[Stanza]) -> None:
        """Take stanzas: end the stream on poison, and acknowledge from then on; stop answering at "stifling"."""
        for each in stanzas:
            if b"stifling" in each.data:
                self.stifled = True
            if self.stifled:
                return
            if b"poison" in each.data:
                text, self.peer.acknowledges = "not that", True
                self.connection.fail(Refusal(StreamCondition.POLICY_VIOLATION, text, Ending(Cause.LIMIT_EXCEEDED, text)))
                return
            self.peer.got.append(each.id or "")
            if self.managed and self.peer.acknowledges:
                self.connection.step(self.engine.handled, 1)


class Peer:
    """The state that all of the peer's ends share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.how = ""
        self.management = False
        self.acknowledges = True
        self.ends: list[FarEnd] = []
        self.got: list[str] = []


class Side(FakeSide):
    """A leg with streams over wires in memory. `certificates` is the certificate shown for each domain."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.certificates: dict[Domain, str | None] = dict.fromkeys(OURS, "one")

    def shown(self, pair: Pair) -> str | None:
        return self.certificates[pair.sender]

    def engine(self, pair: Pair, target: Target, verifying: bool) -> Any:
        return InitiatingStream(InitiatingOptions(local=pair.sender, peer=pair.recipient, keys=KEYS, management=True))

    def dial(self, address: str, port: int, build: Any) -> Deferred[None]:
        self.dials.append(Deferred())
        connection, end = build(), FarEnd(self.world.peer)
        self.world.peer.ends.append(end)
        wires = WireTransport(end.connection, True), WireTransport(connection, False)
        pump = iosim.connect(end.connection, wires[0], connection, wires[1], greet=False, clock=self.world.clock)
        self.world.pumps.append(pump)
        self.dials[-1].callback(None)
        return self.dials[-1]


class World:
    """Queues from our domains to one peer. No data moves until `flush`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.peer = Peer(self.clock)
        self.side = Side(self)
        self.pumps: list[Any] = []
        self.back: list[Bounced] = []
        self.told: list[tuple[str, str]] = []
        self.destinations = Destinations(self.clock, FixedRandom(), BackOff(first=2, jitter=0))
        self.extensions = ExtensionMemory(self.clock, lambda name, extension, ending: self.told.append((extension, ending.cause.value)))
        self.record = EventRecord(self.clock, Logger())
        self.custody = custody_of(self.clock, self.record, lambda domain: domain in OURS, self._next_hop)
        self.queues = self.custody.queues
        self.ack_selection = AckSelection(lambda domain: "sm" if self.peer.management else "tcp", self.queues, self.extensions, self.clock)
        self.connect_services = ConnectServices(Connections(self._connection), self.clock, self.destinations, self.extensions)

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        if queue.direction == "inbound":
            return KeepingHop(self.back)
        back_off = BackOff(first=2, jitter=0)
        way = PeerStreamProvider(self.side, self.connect_services)  # type: ignore[arg-type]
        return DeliveryAgent(queue, way, self.record, back_off, FixedRandom(), self.clock, self.ack_selection)

    def _connection(self, engine: Any, owner: Any) -> StreamConnection:
        tls = lambda order: ClientTLS().for_peer(THERE, MINE)  # noqa: E731
        return StreamConnection(engine, owner, clock=self.clock, role="initiating", tls=tls)

    def queue(self, sender: Domain) -> DeliveryQueue:
        return self.queues.queue(Pair(sender, THERE))

    def write(self, sender: Domain, *bodies: str) -> None:
        for body in bodies:
            self.queue(sender).accept([stanza(sender, body, body)])

    def flush(self) -> None:
        """Move data until none is left."""
        for _ in range(12):
            self.clock.advance(0)
            for pump in list(self.pumps):
                pump.flush()

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.flush()

    def rows(self) -> list[Any]:
        views = GatewayViews(None, self.custody, [], self.record, None, 0.0, None, None)  # type: ignore[arg-type]
        return [row for row in views.streams() if row is not None]

    def pairs(self) -> list[list[str]]:
        """Return the users of each stream, as operators see them."""
        return [[sender for sender, _ in row["pairs"]] for row in self.rows()]


class SharingTests(SynchronousTestCase):
    """Tests of one stream for all domains that show the peer the same certificate."""

    def setUp(self) -> None:
        self.world = World()

    def both(self, management: bool = False) -> None:
        self.world.peer.management = management
        for sender, body in ((HERE, "h1"), (ROOMS, "r1")):
            self.world.write(sender, body)
        self.world.flush()

    def test_one_stream(self) -> None:
        """A queue that starts during the first attempt waits for it. Then each queue sends on the one stream, in its order."""
        self.both()
        self.assertEqual((len(self.world.peer.ends), self.world.pairs()), (1, [["here.example", "rooms.example"]]))
        self.world.write(HERE, "h2", "h3")
        self.world.write(ROOMS, "r2")
        self.world.write(THIRD, "t1")
        self.world.flush()
        self.assertEqual(self.world.peer.got, ["h1", "r1", "h2", "h3", "r2", "t1"])
        row = self.world.rows()[0]
        self.assertEqual((row["method"], len(row["pairs"]), len(self.world.peer.ends)), ("EXTERNAL", 3, 1))
        agent: Any = self.world.queue(ROOMS).next_hop
        self.assertEqual((agent.stream.method, agent.stream.reasons), ("dialback", ("on the stream of here.example",)))
        self.assertEqual(list(self.world.peer.ends[0].engine.pairs), [Pair(sender, THERE) for sender in OURS])

    def test_acknowledged(self) -> None:
        """R35: all pairs have one count, and each queue is told of its own stanzas."""
        self.world.peer.acknowledges = False
        self.both(management=True)
        self.world.write(HERE, "h2")
        self.world.write(ROOMS, "r2", "r3")
        self.world.flush()
        self.assertEqual([len(self.world.queue(each).pair_queue) for each in (HERE, ROOMS)], [2, 3])
        end = self.world.peer.ends[0]
        end.connection.step(end.engine.handled, 4)
        end.connection.step(end.engine.handled, 1)
        self.world.flush()
        self.assertEqual([len(self.world.queue(each).pair_queue) for each in (HERE, ROOMS)], [0, 0])

    def test_another_certificate(self) -> None:
        """A domain with a different certificate has its own stream. So has one whose streams are never shared."""
        self.world.side.certificates |= {ROOMS: "two", THIRD: None}
        self.both()
        self.world.write(THIRD, "t1")
        self.world.flush()
        self.assertEqual(self.world.pairs(), [["here.example"], ["rooms.example"], ["third.example"]])

    def test_rather_than_none(self) -> None:
        """If there is no room for one more stream, a stream with a different certificate is shared."""
        self.world.side.certificates |= {ROOMS: "two"}
        self.world.side.most = 1
        self.world.write(HERE, "h1")
        self.world.flush()
        self.world.write(ROOMS, "r1")
        self.world.flush()
        self.assertEqual((self.world.pairs(), self.world.peer.got), ([["here.example", "rooms.example"]], ["h1", "r1"]))

    def test_no_room_at_all(self) -> None:
        """With no stream to share and no room for another, the queue tries again soon."""
        self.world.side.certificates |= {ROOMS: "two"}
        self.world.side.most = 1
        self.world.peer.how = "error"
        self.world.write(HERE, "h1")
        self.world.flush()
        self.world.write(ROOMS, "r1")
        self.world.flush()
        self.assertEqual((self.world.queue(ROOMS).next_hop.state, self.world.peer.got), ("backing off", ["h1"]))

    def test_lost(self) -> None:
        """The loss of the stream wakes all its queues, and they share the next one."""
        self.both()
        self.world.pass_time(11)
        self.world.peer.ends[0].connection.abort(Ending(Cause.CONNECTION_LOST))
        self.world.flush()
        self.world.write(HERE, "h2")
        self.world.write(ROOMS, "r2")
        self.world.flush()
        self.assertEqual((len(self.world.peer.ends), self.world.peer.got), (2, ["h1", "r1", "h2", "r2"]))

    def test_stop(self) -> None:
        """The last queue to leave closes the stream in order. Until then stanzas in flight of the others are not in doubt."""
        self.world.peer.acknowledges = False
        self.both(management=True)
        stopped = stop(self.world.custody)
        self.world.flush()
        self.successResultOf(stopped)
        self.assertEqual(self.world.peer.ends[0].connection.ending, Ending(Cause.CLOSED, by="them"))
        self.assertEqual([outcome for _, _, outcome in self.world.record.stanzas if outcome == "resent"], [])

    def test_several_attempts(self) -> None:
        """If the first attempt fails, each waiting queue makes its own, and none waits for another again."""
        self.world.side.ending = Ending(Cause.DIALBACK_ERROR)
        side: Any = self.world.side
        opening = [Deferred.fromCoroutine(PeerStreamProvider(side, self.world.connect_services).find(Pair(each, THERE))) for each in OURS]
        for each in opening:
            self.failureResultOf(each, StreamUnavailable)
        self.assertEqual(self.world.connect_services.multiplexing._under_way, {})


class RefusedTests(SynchronousTestCase):
    """A peer that refuses a further pair gets a stream for it, and is not asked again for a day."""

    def setUp(self) -> None:
        self.world = World()

    def refused(self, how: str) -> None:
        self.world.peer.how = how
        self.world.write(HERE, "h1")
        self.world.flush()
        self.world.write(ROOMS, "r1")
        self.world.flush()

    def remembered(self, cause: Cause) -> None:
        self.assertEqual(self.world.told, [("multiplexing", cause.value)])
        self.assertEqual(list(self.world.extensions.disabled()), [("there.example", ("multiplexing",))])
        self.world.write(THIRD, "t1")
        self.world.flush()
        self.assertEqual(self.world.peer.got[-1], "t1")
        self.world.peer.how = ""
        self.world.clock.advance(DISABLED_SECONDS)
        self.assertTrue(self.world.extensions.usable("there.example", "multiplexing"))

    def test_error(self) -> None:
        """A dialback error does not affect the first pair."""
        self.refused("error")
        self.world.write(HERE, "h2")
        self.world.flush()
        self.assertEqual((self.world.peer.got, self.world.pairs()), (["h1", "r1", "h2"], [["here.example"], ["rooms.example"]]))
        self.assertIsNone(self.world.peer.ends[0].connection.ending)
        self.remembered(Cause.DIALBACK_ERROR)

    def test_silence(self) -> None:
        """The answer is waited for only for a bounded time."""
        self.refused("silence")
        self.assertEqual(self.world.queue(ROOMS).next_hop.state, "connecting")
        self.world.pass_time(ANSWER)
        self.assertEqual((self.world.peer.got, self.world.pairs()), (["h1", "r1"], [["here.example"], ["rooms.example"]]))
        self.remembered(Cause.DIALBACK_ERROR)

    def test_close(self) -> None:
        """If a server closes the stream instead of answering, both queues have their own streams, and no stanza is lost."""
        self.refused("close")
        self.world.write(HERE, "h2")
        self.world.pass_time(3)
        self.assertEqual((sorted(self.world.peer.got), self.world.pairs()), (["h1", "h2", "r1"], [["here.example"], ["rooms.example"]]))
        self.remembered(Cause.CLOSED)

    def test_stopped(self) -> None:
        """A queue can be stopped while it waits for an answer or for another queue's attempt."""
        self.refused("silence")
        self.world.queue(ROOMS).next_hop.stop(Cause.SHUTDOWN)
        self.assertEqual(self.world.told, [])
        waiting = ShareableStreams()
        with waiting.opening("there.example", "one"):
            settled = Deferred.fromCoroutine(waiting.settled("there.example", "one"))
            settled.cancel()
            self.failureResultOf(settled, CancelledError)


class PoisonTests(SynchronousTestCase):
    """Tests of poison on a shared stream: the other queues are not affected twice (docs/decisions.md#poison)."""

    def test_ambiguous(self) -> None:
        """With stanzas of two queues in doubt none is accused. Each queue gets its own stream, and the culprit is found there."""
        world = World()
        world.peer.management, world.peer.acknowledges = True, False
        for sender in (HERE, ROOMS):
            world.write(sender, f"{sender}")
        world.flush()
        end = world.peer.ends[0]
        end.connection.step(end.engine.handled, 2)
        world.pass_time(11)
        world.write(ROOMS, "r2")
        world.write(HERE, "poison")
        world.pass_time(3)
        self.assertEqual([bounced.id for bounced in world.back], ["poison"])
        self.assertEqual((world.peer.got, len(world.peer.ends)), (["here.example", "rooms.example", "r2", "r2"], 3))
        world.write(HERE, "h3")
        world.pass_time(5)
        self.assertEqual((world.peer.got[-1], [sorted(row) for row in world.pairs()]), ("h3", [["here.example", "rooms.example"]]))

    def test_silence(self) -> None:
        """A peer stops answering after a large stanza: the other queue gets another stream at once, and is not affected again."""
        world = World()
        world.peer.management = True
        for sender in (HERE, ROOMS):
            world.write(sender, f"{sender}")
        world.flush()
        world.write(HERE, "stifling" + "g" * LARGE)
        world.flush()
        world.write(ROOMS, "r2")
        world.pass_time(OVERDUE_SECONDS + 2)
        self.assertEqual((world.peer.got[2:], world.back), (["r2"], []))
        world.write(ROOMS, "r3")
        world.pass_time(OVERDUE_SECONDS)
        self.assertEqual((world.peer.got[2:], len(world.back)), (["r2", "r3"], 1))
        self.assertIn(b"answered no more", world.back[0].data)
        self.assertEqual((len(world.peer.ends), world.told), (3, []))

    def test_its_own(self) -> None:
        """If only one queue had stanzas in doubt, the stanza of that queue is accused."""
        world = World()
        world.peer.management = True
        for sender in (HERE, ROOMS):
            world.write(sender, f"{sender}")
        world.flush()
        world.pass_time(11)
        world.write(HERE, "poison")
        world.flush()
        self.assertEqual([bounced.id for bounced in world.back], ["poison"])


class AdditionsTests(SynchronousTestCase):
    """Tests of the endings that count against a further pair."""

    def setUp(self) -> None:
        self.clock, self.told = Clock(), []  # type: tuple[Clock, list[str]]
        self.extensions = ExtensionMemory(self.clock, lambda name, extension, ending: self.told.append(extension))

    def additions(self) -> PairRequests:
        connection: Any = SimpleNamespace(step=lambda method, pair: None)
        return PairRequests(connection, SimpleNamespace(authorize=None), "there.example", self.extensions, self.clock)  # type: ignore[arg-type]

    def added(self, ending: Ending, after: float = 0.0) -> bool:
        additions, pair = self.additions(), Pair(ROOMS, THERE)
        answer = additions.ask(pair)
        additions.proven(pair)
        self.assertIsNone(self.successResultOf(answer))
        self.clock.advance(after)
        return additions.ended(ending)

    def test_of_senders(self) -> None:
        """A server that accepts the pair and then refuses its stanzas does not support multiplexing."""
        self.assertTrue(self.added(Ending(Cause.INVALID_FROM, by="them", condition="invalid-from"), 3600))
        self.assertEqual(self.told, ["multiplexing"])

    def test_young(self) -> None:
        """Any error soon after the addition counts. Later ones do not."""
        error = Ending(Cause.STREAM_ERROR, by="them", condition="undefined-condition")
        self.assertEqual([self.added(error, BRIEF), self.added(error, BRIEF + 1)], [True, False])

    def test_not_over_it(self) -> None:
        """A lost connection, our own ending, and an error about the server's state do not count."""
        for ending in (
            Ending(Cause.CONNECTION_LOST, by="network"), Ending(Cause.CLOSED, by="them"), Ending(Cause.IDLE),
            Ending(Cause.STREAM_ERROR, by="them", condition="system-shutdown"),
        ):
            self.assertFalse(self.added(ending))
        self.assertFalse(self.additions().ended(Ending(Cause.STREAM_ERROR, by="them", condition="undefined-condition")))

    def test_while_asked(self) -> None:
        """While the answer is due any end of the stream counts, except our own orderly close."""
        for ending, blamed in (
            (Ending(Cause.CLOSED, by="them"), True), (Ending(Cause.PROTOCOL_ERROR, condition="bad-format"), True), (Ending(Cause.IDLE), False),
        ):
            additions = self.additions()
            answer = additions.ask(Pair(ROOMS, THERE))
            self.assertEqual((additions.ended(ending), self.successResultOf(answer)), (blamed, ending))

    def test_late(self) -> None:
        """An answer that comes too late changes nothing."""
        additions, pair = self.additions(), Pair(ROOMS, THERE)
        answer = additions.ask(pair)
        self.clock.advance(ANSWER)
        late = self.successResultOf(answer)
        assert late is not None
        self.assertEqual(late.cause, Cause.DIALBACK_ERROR)
        additions.proven(pair)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class JoiningTests(SynchronousTestCase):
    """Tests of the streams that accept one more pair."""

    def test_which(self) -> None:
        """A stream without dialback accepts none. A stream that has the pair already is not asked again."""
        part = object()
        shared_stream = SimpleNamespace(takes_user=lambda: True, for_pair=lambda pair: part)
        stream: Any = SimpleNamespace(
            pair=Pair(HERE, THERE), shown="one", engine=SimpleNamespace(extensible=False), shared_stream=shared_stream,
            connection=SimpleNamespace(when_closed=Deferred),
        )
        multiplexing = ShareableStreams()
        multiplexing.add(stream)
        joining = lambda: self.successResultOf(Deferred.fromCoroutine(multiplexing.join(Pair(ROOMS, THERE), "one")))  # noqa: E731
        self.assertIsNone(joining())
        stream.engine.extensible = True
        self.assertIs(joining(), part)

    def test_gone(self) -> None:
        """No reference to an ended stream is kept."""
        stream: Any = SimpleNamespace(pair=Pair(HERE, THERE), connection=SimpleNamespace(when_closed=lambda: succeed(None)))
        multiplexing = ShareableStreams()
        multiplexing.add(stream)
        self.assertEqual(multiplexing._open, {})
