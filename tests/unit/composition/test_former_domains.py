"""Domains that a reload gives up, over the components of a gateway: what is delivered, what is bounced, and what a restart knows."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import capturedLogs

from s2sgw.admin.server import VerbError
from s2sgw.composition.former_domains import REMEMBERED_SECONDS, WIND_DOWN_SECONDS
from s2sgw.composition.gateway import build_gateway
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.outbound_stream import StreamUnavailable
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.runtime import domain_file
from s2sgw.runtime.domain_file import FILE
from s2sgw.runtime.preflight import check_configuration
from s2sgw.s2s.stream_provider import PeerStreamProvider
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.fakes import ThreadlessReactor
from tests.unit.composition.test_backends import HERE, OTHER, ROOMS, Initiated
from tests.unit.composition.test_reconfiguration import CONFIG, PEER, FolderCase

FROM, TO = Pair(ROOMS, PEER), Pair(PEER, ROOMS)
BOTH, ONE = '["example.org", "rooms.example.org"]', '["example.org"]'


def stanza(pair: Pair, id: str = "1", type: str | None = None) -> Stanza:
    to, from_ = f"u@{pair.recipient}", f"u@{pair.sender}"
    text = f"<message to='{to}' from='{from_}' id='{id}'{'' if type is None else f' type={type!r}'}/>"
    return Stanza("message", text.encode(), to, from_, type, id)


class GatewayCase(FolderCase):
    """One server for two domains, of which the second is given up. Attempts to open streams end as the test says."""

    def setUp(self) -> None:
        super().setUp()
        self.leaf("certs/rooms", "rooms.example.org")
        self.made: list[tuple[Any, Pair, Deferred[Any]]] = []

        async def find(provider: PeerStreamProvider, pair: Pair, *_: object) -> Any:
            self.made.append((provider.side, pair, Deferred()))
            return await self.made[-1][2]

        self.patch(PeerStreamProvider, "find", find)
        self.write(BOTH)
        self.gateway = self.build()

    def write(self, domains: str, backend: str = 'kind = "s2s"\n') -> None:
        self.path.write_text(CONFIG.replace(ONE, domains).replace('kind = "echo"\n', backend))

    def build(self) -> Any:
        self.clock: Any = ThreadlessReactor()
        gateway = build_gateway(check_configuration(self.path).config, self.clock)
        gateway.reconfiguration.open()
        self.addCleanup(gateway.reconfiguration.close)
        return gateway

    def reload(self, domains: str = ONE, backend: str = 'kind = "s2s"\n') -> list[str]:
        self.write(domains, backend)
        done = self.gateway.reconfiguration.reload.run("the test", keep_streams=True)
        self.clock.advance(0)
        complaints: list[str] = self.successResultOf(done).complaints
        return complaints

    def queue(self, pair: Pair) -> DeliveryQueue:
        queue: DeliveryQueue = self.gateway.custody.queues.queue(pair)
        return queue

    def waiting(self, pair: Pair) -> list[tuple[str | None, str | None]]:
        """Return the id and the type of each stanza of the pair."""
        return [(held.stanza.id, held.stanza.type) for held in self.queue(pair).pair_queue.not_in_flight()]

    def pass_seconds(self, seconds: float) -> None:
        for delay in (seconds, 0, 0, 0):
            self.clock.advance(delay)

    @property
    def written(self) -> list[str]:
        names: list[str] = json.loads((self.gateway.state / FILE).read_text())
        return names

    def turn(self) -> None:
        done = Deferred.fromCoroutine(self.gateway.former_domains.turn())
        self.pass_seconds(0)
        self.successResultOf(done)


class GivenUpTests(GatewayCase):
    """A reload gives the domain up."""

    def test_what_waits_for_its_server(self) -> None:
        """Waiting stanzas may be delivered for some seconds. Then they are bounced, as for a domain that is not served."""
        self.queue(TO).accept([stanza(TO)])
        self.assertEqual([], self.reload())
        self.pass_seconds(WIND_DOWN_SECONDS - 0.1)
        self.assertEqual([("1", None)], self.waiting(TO))
        self.pass_seconds(0.2)
        self.assertEqual(([], [("1", "error")]), (self.waiting(TO), self.waiting(FROM)))
        self.assertIn(b"remote-server-not-found", next(iter(self.queue(FROM).pair_queue.not_in_flight())).stanza.data)

    def test_what_its_users_sent(self) -> None:
        """Stanzas of its users still wait for the peer. The stream to the peer is in the name of the domain."""
        self.queue(FROM).accept([stanza(FROM)])
        self.reload()
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.assertEqual([("1", None)], self.waiting(FROM))
        self.assertEqual([(self.gateway.federation.initiating, FROM)], [each[:2] for each in self.made])
        self.assertIsNotNone(self.gateway.running.credential(ROOMS, PEER))
        receiving = self.gateway.federation.receiving.engine(False).options
        self.assertEqual((False, True), (receiving.serves(ROOMS), receiving.answers_verify(ROOMS)))
        self.assertTrue(receiving.serves_spelling("Rooms.Example.org"))

    def test_errors_to_its_users(self) -> None:
        """Errors still go to its server after the wind-down; where that cannot be reached they are dropped at once."""
        self.reload()
        self.pass_seconds(WIND_DOWN_SECONDS)
        (leg,) = self.gateway.backends.legs.values()
        queue = self.queue(TO)
        queue.accept([stanza(TO, "2", "error")])
        self.assertEqual([(leg.initiating, TO)], [each[:2] for each in self.made])
        self.made[0][2].errback(StreamUnavailable(Ending(Cause.BACKEND_TIMEOUT)))
        self.assertEqual(([], []), (self.waiting(TO), self.waiting(FROM)))

    def test_server_that_is_removed(self) -> None:
        """The same applies if the server is removed with the domain."""
        (leg,) = self.gateway.backends.legs.values()
        self.queue(TO).accept([stanza(TO)])
        self.reload(ONE, OTHER.replace("[[backend]]\n", "").replace(BOTH, ONE))
        self.made[0][2].errback(StreamUnavailable(Ending(Cause.BACKEND_TIMEOUT)))
        self.assertEqual([("1", None)], self.waiting(TO))
        self.assertIs(leg, self.gateway.backends.source_of(ROOMS))
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.assertEqual(([], [("1", "error")]), (self.waiting(TO), self.waiting(FROM)))

    def test_held_by_an_operator(self) -> None:
        """Stanzas that an operator holds are bounced too."""
        queue = self.queue(TO)
        queue.hold()
        queue.accept([stanza(TO)])
        self.reload()
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.assertEqual([("1", "error")], self.waiting(FROM))

    def test_verbs(self) -> None:
        """An operator may name lanes of the domain until it is forgotten."""
        queue = self.queue(FROM)
        queue.accept([stanza(FROM)])
        self.reload()
        asked = {"target": [ROOMS.ascii, PEER.ascii], "by": "the test"}
        dropped = maybeDeferred(self.gateway.verbs["queue drop"], asked)
        self.pass_seconds(0)
        self.successResultOf(dropped)
        self.assertEqual([], self.waiting(FROM))
        asked["target"] = ["stranger.example", PEER.ascii]
        self.failureResultOf(maybeDeferred(self.gateway.verbs["queue drop"], asked), VerbError)

    def test_drop_under_way(self) -> None:
        """A quiet drop goes on: its stanzas are not bounced. Later stanzas are bounced."""
        queue = self.queue(TO)
        queue.accept([stanza(TO, str(number)) for number in range(100)])
        queue.drop(quietly=True)
        queue.accept([stanza(TO, "late")])
        self.reload()
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.pass_seconds(0)
        self.assertEqual(([], [("late", "error")]), (self.waiting(TO), self.waiting(FROM)))

    def test_taken_back(self) -> None:
        """If the next reload takes the domain back, during the wind-down or later, its server is tried at once and nothing is bounced."""
        for seconds in (0.0, WIND_DOWN_SECONDS):
            self.reload(BOTH)
            self.reload()
            self.pass_seconds(seconds)
            self.made.clear()
            self.assertEqual([], self.reload(BOTH))
            queue = self.queue(TO)
            queue.accept([stanza(TO)])
            self.pass_seconds(WIND_DOWN_SECONDS)
            self.assertEqual([TO], [pair for _, pair, _ in self.made])
            self.assertEqual(([("1", None)], set()), (self.waiting(TO), self.gateway.running.former_domains))
            self.made[0][2].errback(StreamUnavailable(Ending(Cause.BACKEND_TIMEOUT)))
            self.assertEqual([("1", None)], self.waiting(TO))
            queue.drop(quietly=True)
            queue.next_hop.stop(Cause.SHUTDOWN)
            self.gateway.custody.queues.forget(TO)

    def test_given_up_twice(self) -> None:
        """If it is taken back and given up again, the wind-down begins anew, and the first one bounces nothing."""
        self.reload()
        self.pass_seconds(WIND_DOWN_SECONDS - 1)
        self.reload(BOTH)
        self.queue(TO).accept([stanza(TO)])
        self.reload()
        self.pass_seconds(1)
        self.assertEqual([("1", None)], self.waiting(TO))
        self.pass_seconds(WIND_DOWN_SECONDS - 1)
        self.assertEqual([("1", "error")], self.waiting(FROM))

    def test_during_a_stop(self) -> None:
        """A stop during the wind-down bounces nothing: the spool keeps the waiting stanzas for the next start."""
        self.queue(TO).accept([stanza(TO)])
        self.reload()
        self.gateway.custody.quiesce()
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.assertEqual([("1", None)], self.waiting(TO))

    def test_it_is_a_peer_now(self) -> None:
        """Users of the other domain write to the new place of the domain, in the DNS; and it may send to them."""
        self.reload()
        self.assertEqual("outbound", self.queue(Pair(HERE, ROOMS)).direction)
        self.queue(Pair(HERE, ROOMS)).accept([stanza(Pair(HERE, ROOMS))])
        self.assertEqual([self.gateway.federation.initiating], [side for side, _, _ in self.made])
        self.assertEqual("inbound", self.queue(Pair(ROOMS, HERE)).direction)
        self.assertIsNone(self.gateway.federation.receiving.refuses_sender(ROOMS))
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.assertEqual([("1", None)], self.waiting(Pair(HERE, ROOMS)))

    def test_stanzas_between_its_users_and_others(self) -> None:
        """Stanzas that wait for its old server go to its new place, and to the old server again when the domain is taken back."""
        pair = Pair(HERE, ROOMS)
        queue = self.queue(pair)
        queue.accept([stanza(pair)])
        (leg,) = self.gateway.backends.legs.values()
        self.reload()
        self.assertEqual(([leg.initiating, self.gateway.federation.initiating], "outbound"), ([side for side, _, _ in self.made], queue.direction))
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.reload(BOTH)
        self.assertEqual((leg.initiating, "inbound"), (self.made[-1][0], queue.direction))
        self.assertEqual([("1", None)], self.waiting(pair))

    def test_streams_with_peers(self) -> None:
        """Streams that bring stanzas to the domain are closed; those of other domains, and those from it, are not."""
        side, pairs = self.gateway.federation.receiving, (TO, Pair(PEER, HERE))
        rows = [self.gateway.accepted.accept(side) for _ in pairs]
        for connection, pair in zip(rows, pairs, strict=True):
            dict(self.gateway.accepted)[connection].methods[pair] = "dialback"
            dict(self.gateway.accepted)[connection].incoming = Mock()
        for pair, incoming in ((FROM, True), (FROM, False), (Pair(HERE, PEER), True)):
            stream = Initiated(self.gateway.federation.initiating, pair)
            stream.engine, stream.retiring = Mock(), False  # type: ignore[attr-defined]
            stream.shared_stream = SimpleNamespace(incoming=Mock() if incoming else None, pairs=[], users=[])
            self.gateway.federation.connect_services.initiated.add(stream)
            rows.append(stream)
        self.assertEqual([], self.gateway.streams_to_former_domains())
        self.reload()
        self.assertEqual([rows[0], rows[2]], [stream.connection for stream, _ in self.gateway.streams_to_former_domains()])
        rows[0].retiring = True
        self.assertEqual([rows[2]], [stream.connection for stream, _ in self.gateway.streams_to_former_domains()])

    def test_streams_to_its_server(self) -> None:
        """Streams to its server stay open for the wind-down. Then they are closed in order."""
        (leg,) = self.gateway.backends.legs.values()
        stay, go = (Initiated(leg.initiating, pair) for pair in (Pair(PEER, HERE), TO))
        for stream in (stay, go):
            stream.target.port = 15269
            self.gateway.federation.connect_services.initiated.add(stream)
        self.reload()
        self.assertEqual([[], []], [stay.retired, go.retired])
        self.pass_seconds(WIND_DOWN_SECONDS)
        self.assertEqual([[], [Cause.RECONFIGURED]], [[ending.cause for ending in each.retired] for each in (stay, go)])


class EndTests(GatewayCase):
    """The gateway forgets the domain when nothing of it is left."""

    def test_nothing_is_left(self) -> None:
        """The domain is forgotten after some minutes, and not before its last stanza is gone. Then its streams to peers are closed."""
        stream = Initiated(self.gateway.federation.initiating, FROM)
        self.gateway.federation.connect_services.initiated.add(stream)
        self.queue(FROM).accept([stanza(FROM)])
        self.reload()
        self.pass_seconds(REMEMBERED_SECONDS)
        self.turn()
        self.assertEqual({ROOMS}, self.gateway.running.former_domains)
        self.queue(FROM).drop(quietly=True)
        with capturedLogs() as logged:
            self.turn()
        self.assertEqual((set(), ["example.org"], 1), (self.gateway.running.former_domains, self.written, len(stream.retired)))
        self.assertEqual(["domain ended"], [each["event"] for each in logged if each.get("local") == str(ROOMS)])
        self.assertIsNone(self.gateway.backends.source_of(ROOMS))

    def test_too_early(self) -> None:
        """The domain is remembered for a while in any case: stanzas that were read before may wait for a look-up."""
        self.reload()
        self.pass_seconds(REMEMBERED_SECONDS - 1)
        self.turn()
        self.assertEqual({ROOMS}, self.gateway.running.former_domains)

    def test_late_stanzas(self) -> None:
        """Stanzas between two domains that are not ours are bounced. They go to no peer in the name of another."""
        self.reload()
        self.pass_seconds(REMEMBERED_SECONDS)
        self.turn()
        self.queue(TO).accept([stanza(TO)])
        self.assertEqual(([], [], []), (self.made, self.waiting(TO), self.waiting(FROM)))

    def test_stanzas_of_a_peer(self) -> None:
        """Stanzas to the domain at its new place do not keep it."""
        self.reload()
        pair = Pair(HERE, ROOMS)
        self.queue(pair).accept([stanza(pair)])
        self.pass_seconds(REMEMBERED_SECONDS)
        self.turn()
        self.assertEqual((set(), [("1", None)]), (self.gateway.running.former_domains, self.waiting(pair)))


class FileTests(GatewayCase):
    """`domains.json` over restarts, and on a disk that fails."""

    def fail_to_write(self, *_: object) -> None:
        raise OSError(28, "No space left on device", FILE)

    def restart(self) -> None:
        self.gateway.peer_records.database.close()
        for path in self.gateway.state.glob("peers.sqlite*"):  # its thread may not have closed it yet
            path.unlink(missing_ok=True)
        self.gateway = self.build()

    def test_restart(self) -> None:
        """A restart during the wind-down, or one that gives the domain up itself, bounces the stanzas that wait for its server."""
        for reloaded in (True, False):
            self.write(BOTH)
            self.restart()
            if reloaded:
                self.reload()
            self.write(ONE)
            self.restart()
            self.made.clear()
            self.assertEqual({ROOMS}, self.gateway.running.former_domains)
            self.queue(TO).accept([stanza(TO)])
            self.assertEqual(([], [("1", "error")]), (self.waiting(TO), self.waiting(FROM)))
            self.assertEqual([(self.gateway.federation.initiating, FROM)], [each[:2] for each in self.made])

    def test_held_over_a_restart(self) -> None:
        """After a restart held stanzas are bounced too, once the spool is read."""
        self.write(ONE)
        self.restart()
        self.queue(TO).hold()
        self.queue(TO).accept([stanza(TO)])
        self.pass_seconds(60)
        self.assertEqual([("1", None)], self.waiting(TO))
        self.turn()
        self.assertEqual(([], [("1", "error")]), (self.waiting(TO), self.waiting(FROM)))

    def test_refused_reload(self) -> None:
        """A domain of a reload that is refused in the end leaves the file again."""
        self.write(ONE)
        self.restart()
        self.pass_seconds(REMEMBERED_SECONDS)
        self.turn()
        self.assertEqual(["example.org"], self.written)
        complaint = SimpleNamespace(text="the port is in use")
        self.gateway.reconfiguration.listeners = SimpleNamespace(prepare=lambda config: [complaint], abandon=lambda: None)
        self.assertNotEqual([], self.reload(BOTH))
        self.assertEqual(["example.org", "rooms.example.org"], self.written)
        self.turn()
        self.assertEqual(["example.org"], self.written)

    def test_taken_back_while_it_is_written(self) -> None:
        """A domain that a reload takes back while the disk writes the file without it is in the file soon after."""
        self.reload()
        self.pass_seconds(REMEMBERED_SECONDS)
        written: Deferred[None] = Deferred()
        writes: list[Any] = []

        def run(call: Any, *arguments: Any) -> Deferred[None]:
            writes.append((call, arguments))
            return written

        domains = self.gateway.former_domains
        services = domains._services
        domains._services = replace(services, threads=SimpleNamespace(run=run))
        turning = Deferred.fromCoroutine(domains.turn())
        self.pass_seconds(0)
        domains._services = services
        self.assertEqual([], self.reload(BOTH))
        ((call, arguments),) = writes
        call(*arguments)
        written.callback(None)
        self.successResultOf(turning)
        self.assertEqual(["example.org"], self.written)
        self.turn()
        self.assertEqual(["example.org", "rooms.example.org"], self.written)

    def test_written_before(self) -> None:
        """The file has old and new domains before a reload is in force."""
        self.assertEqual(["example.org", "rooms.example.org"], self.written)
        self.reload()
        self.assertEqual(["example.org", "rooms.example.org"], self.written)

    def test_full_disk(self) -> None:
        """A start and a reload that adds a domain need no room; a reload that gives one up without a file is refused."""
        (self.gateway.state / FILE).unlink()
        self.patch(domain_file, "write_atomically", self.fail_to_write)
        with capturedLogs() as logged:
            self.write(ONE)
            self.restart()
            self.assertEqual([], self.reload(BOTH))
        self.assertEqual(1, len([each for each in logged if each.get("event") == "domains not written"]))
        (complaint,) = self.reload()
        self.assertEqual("gateway.domains: domains.json cannot be written: No space left on device", complaint)
        self.assertTrue(self.gateway.running.is_local(ROOMS))
        with capturedLogs():
            self.turn()
        self.patch(domain_file, "write_atomically", lambda path, data: path.write_bytes(data))
        self.turn()
        self.assertEqual(["example.org", "rooms.example.org"], self.written)
        self.assertEqual([], self.reload())


class OtherKindTests(GatewayCase):
    """A reload gives a domain another kind of server."""

    def test_echo_takes_over(self) -> None:
        """The echo answers stanzas that waited for the server. It is the next hop of their queue."""
        queue = self.queue(TO)
        body = b"<message to='u@rooms.example.org' from='u@peer.example' id='1'><body>a</body></message>"
        queue.accept([Stanza("message", body, f"u@{ROOMS}", f"u@{PEER}", None, "1")])
        idle = self.queue(Pair(PEER, HERE))
        self.assertEqual([], self.reload(BOTH, 'kind = "echo"\n'))
        self.made[0][2].errback(StreamUnavailable(Ending(Cause.BACKEND_TIMEOUT)))
        self.pass_seconds(0)
        self.assertEqual(("EchoNextHop", []), (type(queue.next_hop).__name__, self.waiting(TO)))
        self.assertEqual([("1", None)], self.waiting(FROM))
        self.assertIsInstance(idle.next_hop, DeliveryAgent)
        idle.accept([stanza(Pair(PEER, HERE))])
        self.pass_seconds(0)
        self.assertEqual("EchoNextHop", type(idle.next_hop).__name__)

    def test_echo_is_removed(self) -> None:
        """A server takes the domain over from the echo at once."""
        self.reload(BOTH, 'kind = "echo"\n')
        queue = self.queue(TO)
        self.assertEqual("EchoNextHop", type(queue.next_hop).__name__)
        self.assertEqual([], self.reload(BOTH))
        queue.accept([stanza(TO)])
        self.assertEqual(([TO], [("1", None)]), ([pair for _, pair, _ in self.made], self.waiting(TO)))

    def test_echo_given_up(self) -> None:
        """The echo does not answer for a domain that was given up: new stanzas are bounced."""
        self.reload(BOTH, 'kind = "echo"\n')
        queue = self.queue(TO)
        self.reload(ONE, 'kind = "echo"\n')
        queue.accept([stanza(TO)])
        self.assertEqual(([], [("1", "error")]), (self.waiting(TO), self.waiting(FROM)))

    def test_echo_and_back_at_once(self) -> None:
        """If the next reload takes the change to the echo back before it is made, the queue uses the server."""
        queue = self.queue(TO)
        self.reload(BOTH, 'kind = "echo"\n')
        asked = Deferred.fromCoroutine(self.gateway.backends.find(TO, None, False))
        self.assertNoResult(asked)
        self.reload(BOTH)
        self.pass_seconds(0)
        queue.accept([stanza(TO)])
        self.assertEqual(([TO], "connecting"), ([pair for _, pair, _ in self.made], queue.next_hop.state))
        asked.addErrback(lambda _: None)
        asked.cancel()

    def test_router(self) -> None:
        """A router is added and connected to, changed in place, and removed."""
        secret = self.folder / "secret"
        secret.write_text("sesame")
        secret.chmod(0o600)
        router = 'kind = "jabberd2-router"\naddress = "127.0.0.1:5999"\nsecret_file = "secret"\n'
        backends = self.gateway.backends
        backends.start()
        self.assertEqual([], self.reload(BOTH, router))
        (link,) = backends.links.values()
        self.assertEqual(([link], "connecting"), ([backends.source_of(each) for each in (HERE,)], link.state))
        self.assertEqual(["127.0.0.1:5999"], [health.identity.address for health in backends.health])
        self.assertEqual([], self.reload(BOTH, router + 'user = "other"\n'))
        self.assertEqual(([link], "other"), (list(backends.links.values()), link.router.user))
        self.assertEqual([], self.reload(ONE, router))
        self.assertEqual(({HERE}, {ROOMS}, link), (set(link.router.domains), set(link.former), backends.source_of(ROOMS)))
        self.assertEqual([], self.reload(BOTH))
        self.pass_seconds(0)
        self.assertEqual(({}, set(), True), (backends.links, backends._leaving, link._stopping))
        self.successResultOf(backends.stop())
