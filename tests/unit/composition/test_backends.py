"""Tests of backends that a reload adds and removes, over a gateway's components: which server gets a stream, and which streams close."""

from __future__ import annotations

import secrets
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs

from s2sgw.backend.private_ca import PrivateCAError
from s2sgw.composition import backends as backends_module
from s2sgw.composition.gateway import build_gateway
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.next_hop import NextHopLimits
from s2sgw.delivery.outbound_stream import StreamUnavailable
from s2sgw.runtime.preflight import check_configuration
from s2sgw.s2s.connecting import InitiatedStream
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, NotResumed, Resumed
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.fakes import ThreadlessReactor
from tests.unit.composition.test_reconfiguration import CONFIG, PEER, FolderCase

HERE, ROOMS = Domain.parse("example.org"), Domain.parse("rooms.example.org")
FIRST, SECOND = "tcp:15270:interface=127.0.0.1", "tcp:15271:interface=127.0.0.1"


def server(domains: str, port: int = 15270) -> str:
    """Return a backend with its inner listener on `port`."""
    return f'[[backend]]\ndomains = [{domains}]\nlisten = "tcp:{port}:interface=127.0.0.1"\naddress = "127.0.0.1:{port + 100}"\n'


BOTH = '"example.org", "rooms.example.org"'
ALONE = server(BOTH)
TWO = server('"example.org"') + server('"rooms.example.org"', 15271)
OTHER = server(BOTH, 15271)


class Initiated(InitiatedStream):
    """A stream of ours to a backend, of which only the end is checked."""

    def __init__(self, side: Any, pair: Pair) -> None:
        self.side, self.pair = side, pair
        self.target: Any = SimpleNamespace(host="127.0.0.1", port=15370)
        self.retired: list[Ending] = []
        self.connection: Any = self
        self.ending = None
        self.shared_stream: Any = SimpleNamespace(incoming=None)

    def when_closed(self) -> Deferred[None]:
        return Deferred()

    def retire(self, ending: Ending) -> None:
        self.retired.append(ending)


class BackendsTests(FolderCase):
    """Tests that begin with one server for two domains."""

    def setUp(self) -> None:
        super().setUp()
        self.leaf("certs/rooms", "rooms.example.org")
        self.write(ALONE)
        self.gateway = build_gateway(check_configuration(self.path).config, ThreadlessReactor())
        self.gateway.reconfiguration.open()
        self.addCleanup(self.gateway.reconfiguration.close)
        self.backends = self.gateway.backends

    def write(self, backends: str) -> None:
        head, tail = CONFIG.replace('["example.org"]', f"[{BOTH}]").split('[backend]\nkind = "echo"\n')
        self.path.write_text(head + backends + tail)

    def reload(self, backends: str) -> None:
        self.write(backends)
        done = self.gateway.reconfiguration.reload.run("the test", keep_streams=True)
        self.gateway.reactor.advance(0)
        outcome = self.successResultOf(done)
        self.assertEqual(([], True), (outcome.complaints, outcome.ok))

    def listen_of(self, domain: Domain) -> str:
        leg = self.backends.leg_of(domain)
        assert leg is not None
        return leg.backend.listen

    def test_domain_moves(self) -> None:
        """A server is added and gets a domain. Then it gets all domains, and the first server is removed. Each step is logged once."""
        first = self.backends.leg_of(HERE)
        with capturedLogs() as logged:
            self.reload(TWO)
            self.assertEqual((FIRST, SECOND), (self.listen_of(HERE), self.listen_of(ROOMS)))
            self.assertIs(first, self.backends.leg_of(HERE))
            self.reload(OTHER)
        self.assertEqual((SECOND, SECOND), (self.listen_of(HERE), self.listen_of(ROOMS)))
        events = [(each["event"], each["backend"]) for each in logged if str(each.get("event")).startswith("backend ")]
        self.assertEqual([("backend added", "127.0.0.1:15371"), ("backend removed", "127.0.0.1:15370")], events)
        self.assertEqual(["127.0.0.1:15371"], [row.identity.address for row in self.backends.health])
        self.reload(ALONE)
        self.assertIsNot(first, self.backends.leg_of(HERE))

    def test_queue_follows(self) -> None:
        """A queue that was made before uses the server that serves its domain now."""
        queue = self.gateway.custody.queues.queue(Pair(PEER, ROOMS))
        sides: list[Any] = []

        async def find(provider: PeerStreamProvider, *_: object) -> Any:
            sides.append(provider.side)
            return "stream"

        self.patch(PeerStreamProvider, "find", find)
        agent = queue.next_hop
        assert isinstance(agent, DeliveryAgent)
        for text in (ALONE, TWO):
            self.reload(text)
            self.successResultOf(Deferred.fromCoroutine(agent.provider.find(queue.pair)))
        leg = self.backends.leg_of(ROOMS)
        assert leg is not None
        self.assertIsNot(sides[0], sides[1])
        self.assertIs(leg.initiating, sides[1])

    def test_streams_of_ours(self) -> None:
        """Streams to a server that lost their domain are closed. Others, and those to peers, are not."""
        first = self.backends.leg_of(HERE)
        assert first is not None
        stay, go = Initiated(first.initiating, Pair(PEER, HERE)), Initiated(first.initiating, Pair(PEER, ROOMS))
        peer = Initiated(self.gateway.federation.initiating, Pair(HERE, PEER))
        for stream in (stay, go, peer):
            self.gateway.federation.connect_services.initiated.add(stream)
        self.reload(TWO)
        self.assertEqual([0, 1, 0], [len(each.retired) for each in (stay, go, peer)])
        self.assertEqual([Cause.RECONFIGURED], [ending.cause for ending in go.retired])

    def test_stream_that_comes_late(self) -> None:
        """No stanza is written on a stream that was being opened to the old server: it is released, and the new server is used."""
        first, opened = self.backends.leg_of(HERE), Deferred[Any]()
        assert first is not None
        late, right = Mock(), Mock()
        asked: list[Any] = []

        async def find(provider: PeerStreamProvider, *_: object) -> Any:
            asked.append(provider.side)
            if provider.side is first.initiating:
                await opened
                return late
            return right

        self.patch(PeerStreamProvider, "find", find)
        found = Deferred.fromCoroutine(self.backends.find(Pair(PEER, ROOMS), None, False))
        self.reload(TWO)
        opened.callback(None)
        self.assertIs(right, self.successResultOf(found))
        self.assertTrue(late.leave.call_args.args[0].in_order)
        self.assertEqual([first.initiating, self.backends.leg_of(ROOMS).initiating], asked)  # type: ignore[union-attr]
        right.leave.assert_not_called()

    def test_address_that_is_corrected(self) -> None:
        """Stanzas for a server whose address was wrong do not wait for the back-off of that address. Its streams are closed."""
        destinations, tried = self.gateway.destinations, list[Domain]()
        destinations.failed(HERE.ascii, Ending(Cause.CONNECTION_REFUSED), purpose="backend")
        self.patch(self.gateway.custody.queues, "retry_now", tried.append)
        leg = self.backends.leg_of(HERE)
        assert leg is not None
        old = Initiated(leg.initiating, Pair(PEER, HERE))
        self.gateway.federation.connect_services.initiated.add(old)
        self.reload(ALONE)
        self.assertEqual(([], []), (tried, old.retired))
        self.reload(ALONE.replace("127.0.0.1:15370", "127.0.0.1:15999"))
        self.assertEqual([HERE, ROOMS], tried)
        self.assertEqual([Cause.RECONFIGURED], [ending.cause for ending in old.retired])
        self.assertEqual(0.0, destinations._destinations[HERE.ascii].retry_at)

    def attempts(self) -> list[tuple[Any, Any, Deferred[Any]]]:
        """Return the attempts from now on: the leg, the interrupted stream, and the outcome that the test decides."""
        made: list[tuple[Any, Any, Deferred[Any]]] = []

        async def find(provider: PeerStreamProvider, pair: Pair, broken: Any, alone: bool) -> Any:
            made.append((provider.side, broken, Deferred()))
            return await made[-1][2]

        self.patch(PeerStreamProvider, "find", find)
        return made

    def test_attempt_that_fails_late(self) -> None:
        """An attempt with the old server fails after the domain has moved. No stanza is bounced, and the new server is tried at once."""
        for text in (TWO, ALONE.replace("127.0.0.1:15370", "127.0.0.1:15999")):
            self.reload(ALONE)
            made = self.attempts()
            queue = self.gateway.custody.queues.queue(Pair(PEER, ROOMS))
            queue.accept([self.message()])
            self.reload(text)
            self.gateway.destinations.failed(ROOMS.ascii, Ending(Cause.CONNECTION_TIMEOUT), purpose="backend")
            made[0][2].errback(StreamUnavailable(Ending(Cause.HOST_UNKNOWN)))
            leg = self.backends.leg_of(ROOMS)
            assert leg is not None
            self.assertEqual((1, "connecting"), (len(queue.pair_queue), queue.next_hop.state))
            self.assertEqual([leg.initiating], [side for side, _, _ in made[1:]])
            self.assertEqual(0.0, self.gateway.destinations._destinations[ROOMS.ascii].retry_at)
            made[1][2].errback(StreamUnavailable(Ending(Cause.HOST_UNKNOWN)))
            self.assertEqual((0, "backing off"), (len(queue.pair_queue), queue.next_hop.state))
            self.gateway.custody.queues.forget(queue.pair)

    def message(self, size: int = 0) -> Stanza:
        return Stanza("message", f"<message>{'.' * size}</message>".encode(), f"u@{ROOMS}", f"u@{PEER}", None, "1")

    def test_resumed_late(self) -> None:
        """The old server resumes a stream after the domain has moved: stanzas that it acknowledges are not in doubt."""
        made, broken, late, right = self.attempts(), Mock(), Mock(outcome=Resumed(3)), Mock()
        found = Deferred.fromCoroutine(self.backends.find(Pair(PEER, ROOMS), broken, False))
        self.reload(TWO)
        made[0][2].callback(late)
        made[1][2].callback(right)
        self.assertIs(right, self.successResultOf(found))
        self.assertEqual([broken, None], [each for _, each, _ in made])
        right.answered_before.assert_called_once_with(NotResumed(3))

    def test_limits_and_failures_are_forgotten(self) -> None:
        """The old server's limits bounce no stanza that waits for the new one. Its failures do not extend the back-off."""
        self.attempts()
        queue, destinations = self.gateway.custody.queues.queue(Pair(PEER, ROOMS)), self.gateway.destinations
        queue.limits_changed(NextHopLimits(100))
        for _ in range(12):
            destinations.failed(ROOMS.ascii, Ending(Cause.CONNECTION_REFUSED), purpose="backend")
        self.reload(TWO)
        queue.accept([self.message(200)])
        self.assertEqual(1, len(queue.pair_queue))
        self.assertEqual(0, destinations._destinations[ROOMS.ascii].failures)

    def test_streams_of_the_server(self) -> None:
        """Accepted streams are stale if their server was removed, or no longer serves a domain that sends on them."""
        first = self.backends.leg_of(HERE)
        assert first is not None
        rows = []
        for senders in ({HERE}, {ROOMS}, set()):
            connection = self.gateway.accepted.accept(first.receiving)
            owner = dict(self.gateway.accepted)[connection]
            owner.senders.update(dict.fromkeys(senders, ()))
            owner.incoming = Mock()
            rows.append(connection)
        self.assertEqual([], self.backends.stale_streams())
        self.reload(TWO)
        self.assertEqual([rows[1]], [connection for connection, _ in self.backends.stale_streams()])
        self.reload(OTHER)
        self.assertEqual(rows, [connection for connection, _ in self.backends.stale_streams()])

    def test_removed_server_is_refused(self) -> None:
        """A removed server cannot open a stream for its former domains, nor complete one that was in negotiation."""
        first = self.backends.leg_of(HERE)
        assert first is not None
        self.assertIsNone(first.receiving.excess(None, Pair(ROOMS, PEER)))  # type: ignore[arg-type]
        self.reload(TWO)
        self.assertIsNone(first.receiving.excess(None, Pair(HERE, PEER)))  # type: ignore[arg-type]
        refusal = first.receiving.excess(None, Pair(ROOMS, PEER))  # type: ignore[arg-type]
        assert refusal is not None
        self.assertEqual(Cause.INVALID_FROM, refusal.ending.cause)
        self.reload(OTHER)
        self.assertIsNotNone(first.receiving.excess(None, Pair(HERE, PEER)))  # type: ignore[arg-type]

    def test_domain_taken_during_dialback(self) -> None:
        """A further domain on a stream that is proven for another: its key is verified after a reload has moved that domain."""
        first, verified = self.backends.leg_of(HERE), Deferred[Any]()
        assert first is not None

        async def verify(*_: object) -> Any:
            return await verified

        first.receiving.verify_key = verify
        connection = self.gateway.accepted.accept(first.receiving)
        owner = dict(self.gateway.accepted)[connection]
        owner.incoming = Mock()
        owner.senders[HERE] = ()
        owner.methods[Pair(HERE, PEER)] = "dialback"  # `excess` is then not used
        question = DialbackNeeded(Pair(ROOMS, PEER), "key", "id")
        outcome = Deferred.fromCoroutine(first.receiving.verify(connection, question))
        self.reload(TWO)
        verified.callback(DialbackOutcome("valid"))
        self.assertEqual("error", self.successResultOf(outcome).type)

    def test_what_was_learned_is_forgotten(self) -> None:
        """Extensions that failed with the old server are tried with the new one. Those of a server that stays are not."""
        extensions = self.gateway.extensions
        for domain in (HERE, ROOMS):
            extensions.disable(domain.ascii, "management", Ending(Cause.CLOSED))
        pings = self.backends._services.ack_selection
        known = (pings._never_answering, pings._answering)
        for domain, remembered in ((HERE, known[0]), (ROOMS, known[0]), (HERE, known[1]), (ROOMS, known[1])):
            remembered.remember(domain.ascii)
        self.reload(TWO)
        self.assertEqual((False, True), (extensions.usable(HERE.ascii, "management"), extensions.usable(ROOMS.ascii, "management")))
        self.assertEqual([(True, False)] * 2, [(HERE.ascii in each, ROOMS.ascii in each) for each in known])

    def test_not_prepared(self) -> None:
        """If the private CA cannot be used nothing is prepared, and the error is reported."""
        config = self.gateway.running.config
        self.assertEqual("", self.backends.prepare(config))
        self.assertRaises(KeyError, self.backends.leg_at, SECOND)

        def unusable(*_: object, **__: object) -> None:
            raise PrivateCAError("no key")

        self.backends._authority = None
        self.patch(backends_module, "PrivateCA", unusable)
        self.write(TWO)
        self.assertEqual("no key", self.backends.prepare(check_configuration(self.path).config))
        self.assertRaises(KeyError, self.backends.leg_at, SECOND)
        self.assertEqual([FIRST], list(self.backends.legs))

    def test_server_that_is_back(self) -> None:
        """Stanzas for a server that is up again are tried for its current domains."""
        self.reload(TWO)
        leg = self.backends.leg_of(ROOMS)
        assert leg is not None
        tried: list[Domain] = []
        self.patch(self.gateway.custody.queues, "retry_now", tried.append)
        leg.health.attempt_failed(None, Ending(Cause.CONNECTION_REFUSED))
        leg.health.opened("outbound", PEER, "EXTERNAL", None)
        self.assertEqual([ROOMS], tried)

    def test_few_queues_are_looked_at(self) -> None:
        """An attempt looks at some queues of very many, from any one on: it is made in one turn of the reactor."""
        self.patch(backends_module, "LOOKED_AT", 3)
        looked: list[int] = []

        def queue(number: int) -> Any:
            def wants_stream(_: object) -> bool:
                looked.append(number)
                return False

            return type("Queue", (Mock,), {"wants_stream": property(wants_stream)})()

        queues = [queue(number) for number in range(10)]
        self.patch(self.gateway.custody.queues, "towards", lambda domain: queues if domain == HERE else [])
        self.patch(secrets, "randbelow", lambda number: 8)
        self.reload(ALONE)
        leg = self.backends.leg_of(HERE)
        assert leg is not None
        self.assertFalse(self.backends._attempt(leg.health))
        self.assertEqual([8, 9, 0], looked)

    def test_server_that_takes_no_stream(self) -> None:
        """A server that takes connections and no stream gets one attempt in ten seconds, for stanzas that wait."""
        self.reload(ALONE)
        made, leg = self.attempts(), self.backends.leg_of(HERE)
        assert leg is not None
        queues = [self.gateway.custody.queues.queue(Pair(PEER, domain)) for domain in (HERE, ROOMS)]
        for queue in queues:
            queue.accept([self.message()])
        failed = Ending(Cause.CONNECTION_LOST, by="them")
        for _, _, outcome in list(made):
            leg.health.attempt_failed(Pair(PEER, HERE), failed)
            outcome.errback(StreamUnavailable(failed))
        allowed: list[str] = []
        self.patch(self.gateway.destinations, "retry_now", allowed.append)
        self.assertEqual(["backing off"] * 2, [queue.next_hop.state for queue in queues])
        held = self.gateway.custody.queues.queue(Pair(Domain.parse("held.example"), HERE))
        held.hold()
        held.accept([self.message()])
        self.patch(backends_module.Backends, "_knock", lambda *_: succeed(None))
        for number in (3, 4, 4):
            leg.health._checked_at = float("-inf")
            self.successResultOf(Deferred.fromCoroutine(self.backends.check()))
            self.assertEqual((number, "idle"), (len(made), held.next_hop.state))
        self.assertEqual(sorted([HERE.ascii, ROOMS.ascii]), sorted(allowed), "without the back-off of the server")
        self.assertEqual((["connecting"] * 2, "down"), ([queue.next_hop.state for queue in queues], leg.health.state))
        for queue in queues:
            queue.drop(True)
        leg.health._checked_at = float("-inf")
        self.successResultOf(Deferred.fromCoroutine(self.backends.check()))
        self.assertEqual("unknown", leg.health.state)
