"""R33, R35: two gateways whose connections are cut at any byte, and that resume their streams. No stanza is lost, doubled or reordered."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.outbound_stream import BIDI_RESUME_SECONDS, StreamUnavailable
from s2sgw.ingress.stream_ingress import CLOSING_SECONDS
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.two_gateways import HERE, THERE, World

OUT = Pair(HERE, THERE)
BACK = OUT.inverse

#: (action, number, side): see `play`
Action = tuple[str, int, int]
WHAT = ["say", "say", "answer", "take", "cut", "turn", *["carry"] * 7]
ACTIONS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(1, 3000), st.integers(0, 2)), max_size=80)


class Play:
    """Two gateways, and the messages sent by each, by pair."""

    def __init__(self, world: World, pairs: tuple[Pair, ...]) -> None:
        self.world = world
        self.said: dict[Pair, list[str]] = {pair: [] for pair in pairs}

    def begin(self) -> None:
        """Send from every user, until both sides know that streams can be resumed. Before that, stanzas may be in doubt."""
        for _ in range(2):
            for what in ("say", "answer"):
                self.act(what, 1, 0)
                self.world.calm()

    def act(self, what: str, number: int, side: int) -> None:
        """Send some messages, carry some bytes, let the far hop take some stanzas, cut the line for one end or both, or wait."""
        world = self.world
        ways = [pair for pair in self.said if (pair.recipient == THERE) == (what == "say")]
        if what in ("say", "answer") and ways:
            pair = ways[(number - 1) % len(ways)]
            for _ in range(number % 4 + 1):
                self.said[pair].append(str(len(self.said[pair])))
                gateway = world.near if pair.recipient == THERE else world.far
                gateway.say(self.said[pair][-1], pair.recipient, pair.sender)
        elif what == "carry" and world.wires:
            wire = world.wires[-1 - side // 2 % len(world.wires)][side % 2]
            wire.carry(number)
        elif what == "take":
            for gateway in (world.near, world.far):
                for sink in gateway.sinks.values():
                    sink.acknowledge(number % 5)
        elif what == "cut" and world.wires:
            world.cut(near=side != 1, far=side != 2)
        world.turn(0.01)

    def end(self) -> None:
        """Report the cut to each side; then let everything arrive."""
        self.act("say", 1, 0)
        for wires in self.world.wires:
            if any(wire.lost for wire in wires):
                for wire in wires:
                    wire.lose()
        self.world.calm()

    def heard(self) -> dict[Pair, list[str]]:
        """Return the received messages."""
        return {
            pair: (self.world.far if pair.recipient == THERE else self.world.near).heard(pair) for pair in self.said
        }


class ClosingTests(SynchronousTestCase):
    """R35: a sender closes its stream directly after its last stanza."""

    def setUp(self) -> None:
        self.world = world = World()
        world.near.say("0", THERE)
        world.calm()
        data = f"<message from='{HERE}' to='{THERE}' id='i'><body>1</body></message>".encode()
        self.last = Stanza("message", data, HERE.text, THERE.text, None, "i")
        world.near.queues.queue(OUT).accept([self.last])
        near, self.far = world.link
        near.protocol.close(Ending(Cause.IDLE))
        world.dials = lambda gateway: False  # type: ignore[method-assign]
        near.carry(len(near.written))
        world.turn()
        self.assertEqual((world.far.heard(OUT), self.far.closing, self.far.protocol.writable), (["0", "1"], False, False))
        self.assertEqual(self.far.written, b"<a xmlns='urn:xmpp:sm:3' h='1'/>")  # because it had asked
        self.far.written = b""

    def assertEnded(self, written: bytes) -> None:
        self.assertEqual((self.far.written, self.far.closing, list(self.world.far.accepted)), (written, True, []))
        self.world.turn(CLOSING_SECONDS)

    def test_acknowledged(self) -> None:
        """The sender gets the acknowledgement before the gateway's closing tag."""
        self.world.far.sinks[OUT].acknowledge(1)
        self.assertEnded(b"<a xmlns='urn:xmpp:sm:3' h='2'/></stream:stream>")

    def test_bounded(self) -> None:
        """The wait is short. An unacknowledged stanza may be sent again, and is passed on once."""
        self.world.turn(CLOSING_SECONDS)
        self.assertEnded(b"</stream:stream>")
        self.assertEqual(self.world.far.ingress_services.duplicates.divide(OUT, [self.last])[0], [])

    def test_gone(self) -> None:
        """A sender that does not wait has still closed its stream normally: it is not a broken stream."""
        ((_, owner),) = self.world.far.accepted
        endings: list[Ending] = []
        self.patch(owner.shared_stream, "lost", endings.append)
        self.far.lose()
        self.assertEqual(endings, [Ending(Cause.CLOSED, by="them")])
        self.world.turn(CLOSING_SECONDS)


class CutTests(SynchronousTestCase):
    """R33, R35: cuts of any stream, at any time."""

    def play(self, actions: list[Action], pairs: tuple[Pair, ...]) -> Play:
        play = Play(World(bidi=BACK in pairs), pairs)
        play.begin()
        for action in actions:
            play.act(*action)
        play.end()
        self.assertEqual(play.heard(), play.said)
        left = [len(queue.pair_queue) for gateway in (play.world.near, play.world.far) for queue in gateway.queues]
        self.assertFalse(any(left), "what arrived was not acknowledged")
        return play

    @settings(max_examples=60, deadline=None)
    @given(ACTIONS)
    def test_one_way(self, actions: list[Action]) -> None:
        """R33, R35: one pair on one stream."""
        self.play(actions, (OUT,))

    @settings(max_examples=60, deadline=None)
    @given(ACTIONS)
    def test_both_ways(self, actions: list[Action]) -> None:
        """R33, R35, R36: both directions of one stream."""
        self.play(actions, (OUT, BACK))


class StandingTests(SynchronousTestCase):
    """R35: the state of each side when a stream breaks and is resumed."""

    def setUp(self) -> None:
        self.begin()

    def begin(self, *, bidi: bool = False, resume: int = 120, granted: int = 120) -> None:
        """Return a stream on which stanzas have passed, in both directions if it carries both."""
        self.world = World(bidi=bidi, resume=resume, granted=granted)
        self.play = Play(self.world, (OUT, BACK) if bidi else (OUT,))
        self.play.begin()

    def next_hop(self) -> DeliveryAgent:
        next_hop = self.world.near.queues.queue(OUT).next_hop
        assert isinstance(next_hop, DeliveryAgent)
        return next_hop

    def outcomes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the outcomes on the near side, which opens the streams, and on the far one."""
        near, far = self.world.near.record.resumptions, self.world.far.record.resumptions
        return (
            {outcome: number for (role, outcome), number in near.items() if role == "initiating"},
            {outcome: number for (role, outcome), number in far.items() if role == "receiving"},
        )

    def say(self, number: int = 3) -> None:
        for _ in range(number):
            self.play.act("say", 4, 0)

    def check(self) -> None:
        self.assertEqual(self.play.heard(), self.play.said)

    def away(self, seconds: float) -> None:
        """Cut the line for this time, for both sides. Each new connection is cut."""
        left = seconds
        while left > 0:
            step = min(left, 0.5)
            self.world.turn(step)
            left -= step
            for near, far in self.world.wires:
                near.lose()
                far.lose()

    def test_resumed(self) -> None:
        """R35: stanzas that arrived are not sent again; the others are sent first. Operators can see it."""
        self.say()
        self.world.link[0].carry(200)
        self.world.turn()
        self.world.cut()
        queue = self.world.near.queues.queue(OUT)
        self.assertTrue(queue.pair_queue.in_flight_count)
        self.say()
        self.assertFalse(queue.idle)
        self.world.calm()
        self.check()
        self.assertEqual(self.outcomes(), ({"resumed": 1}, {"resumed": 1}))
        engines = [wire.protocol.engine for wire in self.world.link]
        self.assertEqual([engine.continues for engine in engines], [True, True])  # type: ignore[attr-defined]
        self.assertEqual((len(self.world.far.accepted.sessions), queue.pair_queue.in_flight_count), (0, 0))
        self.assertEqual(self.world.near.record.stanzas["outbound", "message", "resent"], 0)  # nothing was in doubt

    def test_sources(self) -> None:
        """R35: each side knows the streams that may bring stanzas of a pair, until they are gone."""
        for bidi in (False, True):
            self.begin(bidi=bidi)
            sources = [gateway.ingress_services.sources for gateway in (self.world.near, self.world.far)]
            self.assertEqual([int(bidi), 1], [*map(len, sources)])
            self.world.cut()
            self.world.turn()
            self.assertEqual([0, 0], [*map(len, sources)])

    def test_handled_meanwhile(self) -> None:
        """R35: stanzas that the next hop takes while the stream is broken count in the `h` of its resumption."""
        self.say(1)
        self.world.link[0].carry(100_000)
        self.world.turn()
        self.world.cut()
        self.world.far.sinks[OUT].acknowledge(5)
        self.world.queue()
        self.assertEqual(len(self.world.near.queues.queue(OUT).pair_queue), 0)
        self.check()

    def test_taken_over(self) -> None:
        """R35: if the far side has not noticed the loss, the old stream is ended with `<conflict/>`."""
        self.say()
        self.world.cut(far=False)
        old = self.world.link[1]
        self.world.calm()
        self.check()
        assert old.protocol.ending is not None
        self.assertEqual(old.protocol.ending.condition, "conflict")
        self.assertEqual(self.outcomes(), ({"resumed": 1}, {"resumed": 1}))

    def test_idle(self) -> None:
        """R35: without stanzas in flight there is no new connection. The next stanza is sent on a resumed stream."""
        wires = len(self.world.wires)
        self.world.cut()
        self.world.queue()
        self.assertEqual((len(self.world.wires), self.next_hop().state), (wires, "broken"))
        self.say()
        self.world.calm()
        self.check()
        self.assertEqual(self.outcomes(), ({"resumed": 1}, {"resumed": 1}))

    def test_too_late_there(self) -> None:
        """R35: an expired stream is not resumed, but its last `h` settles the stanzas that it covers. None is sent twice."""
        for _ in range(3):
            self.say(1)
            self.world.link[0].carry(100_000)
            self.world.turn()
        self.world.far.sinks[OUT].acknowledge(2)
        self.world.cut()
        sessions = self.world.far.accepted.sessions
        for session in list(sessions._suspended.values()):
            sessions._expire(session)
        self.world.calm()
        self.assertEqual(self.world.near.record.stanzas["outbound", "message", "resent"], 1)
        self.assertEqual(self.outcomes(), ({"refused": 1}, {"expired": 1, "refused": 1}))

    def test_refused(self) -> None:
        """R35: an unknown stream: stanzas in flight are in doubt, and are sent again."""
        self.say()
        self.world.cut()
        self.world.far.accepted.sessions._suspended.clear()
        self.world.calm()
        self.check()
        self.assertEqual(self.outcomes(), ({"refused": 1}, {"refused": 1}))
        self.assertEqual(self.world.near.record.stanzas["outbound", "message", "resent"], 3)

    def test_refused_with_a_count(self) -> None:
        """R35: what the `h` of the refusal covers has arrived, and only the rest goes again."""
        self.say()
        self.world.link[0].carry(200)
        self.world.turn()
        self.world.cut()
        self.world.far.sinks[OUT].acknowledge(5)
        sessions = self.world.far.accepted.sessions
        for session in list(sessions._suspended.values()):
            sessions._expire(session)
        self.assertEqual(self.world.near.queues.queue(OUT).pair_queue.in_flight_count, 3)
        self.world.calm()
        self.check()
        self.assertEqual(self.world.near.record.stanzas["outbound", "message", "resent"], 1)

    def test_too_late_here(self) -> None:
        """R35: after the time limit no stream is resumed. Stanzas in flight wait like all others."""
        self.say()
        self.world.cut()
        self.away(121)
        self.assertEqual((self.world.near.queues.queue(OUT).pair_queue.in_flight_count, self.next_hop().resume_wait.stream), (0, None))
        self.world.calm()
        self.check()
        self.assertEqual(self.outcomes(), ({"expired": 1}, {"expired": 1}))

    def test_final(self) -> None:
        """A final cause also bounces stanzas in flight."""
        self.say()
        self.world.cut()
        self.next_hop().attempt_failed(_refused(Cause.NOT_ALLOWED))
        self.assertEqual((len(self.world.near.queues.queue(OUT).pair_queue), self.next_hop().resume_wait.stream), (0, None))

    def test_without(self) -> None:
        """R35: if either side does not support resumption, everything works as without it."""
        for resume, granted in ((0, 120), (120, 0)):
            self.begin(resume=resume, granted=granted)
            self.say()
            self.world.cut()
            self.assertEqual((self.world.near.queues.queue(OUT).pair_queue.in_flight_count, len(self.world.far.accepted.sessions)), (0, 0))
            self.world.calm()
            self.check()
            self.assertEqual(self.outcomes(), ({}, {}))

    def test_ended(self) -> None:
        """R35: a stream that was closed by either side is not resumed."""
        for side in (0, 1):
            self.begin()
            self.say()
            self.world.link[side].protocol.fail(
                Refusal(StreamCondition.RESET, "", Ending(Cause.CLOSED, condition="reset")),
            )
            self.world.turn(0.001)
            self.world.queue(2)
            self.assertEqual((self.next_hop().resume_wait.stream, len(self.world.far.accepted.sessions)), (None, 0))
            self.world.calm()
            self.assertEqual(sorted(set(map(int, self.play.heard()[OUT]))), list(range(len(self.play.said[OUT]))))

    def test_balks(self) -> None:
        """A server that ends the stream on `<resume/>` is not asked again for a day. Stanzas in flight are in doubt."""
        self.say()
        self.world.cut()
        far = self.world.far.accepted.sessions

        def balk(id: str, owner: object) -> None:
            self.world.link[1].protocol.fail(Refusal(StreamCondition.UNSUPPORTED_STANZA_TYPE, "", Ending(Cause.PROTOCOL_ERROR)))
            raise AssertionError("the stream is over")

        far.claim = balk  # type: ignore[assignment, method-assign]
        self.world.queue()
        self.flushLoggedErrors()
        self.assertFalse(self.world.near.extensions.usable("there.example", "resumption"))
        del far.claim
        self.world.calm()
        self.check()
        self.assertEqual(self.outcomes()[0], {"refused": 1})

    def test_both_directions(self) -> None:
        """R35, R36: the side that accepted the stream waits for the other side, for a short time."""
        self.begin(bidi=True)
        self.play.act("answer", 4, 0)
        far = self.world.far.queues.queue(BACK)
        self.world.cut()
        self.assertEqual((far.next_hop.state, far.pair_queue.in_flight_count), ("broken", 1))
        self.world.far.queues.retry_now(HERE)
        self.assertEqual(far.next_hop.state, "broken")
        self.away(BIDI_RESUME_SECONDS + 1)
        self.assertEqual((far.next_hop.state, far.pair_queue.in_flight_count, len(self.world.far.accepted.sessions)), ("backing off", 0, 0))
        self.world.calm()
        self.assertEqual(self.play.heard()[OUT], self.play.said[OUT])

    def test_silent(self) -> None:
        """R35, R37: a peer that has acknowledged before and is now silent is considered dead. The stream breaks, and is resumed."""
        self.say()
        for _ in range(3):
            self.world.turn(30.0)
        self.assertEqual(self.next_hop().resume_wait.stream is not None or self.next_hop().state == "ready", True)
        self.world.calm()
        self.check()
        self.assertEqual(self.outcomes(), ({"resumed": 1}, {"resumed": 1}))
        self.assertTrue(self.world.near.extensions.usable("there.example", "management"))

    def test_not_before_resumed(self) -> None:
        """R35, R36: stanzas that wait for a stream that may carry them back do not overtake its resumption."""
        self.begin(bidi=True)
        pings = self.world.near.sinks[BACK].pings
        self.world.cut()
        self.play.act("answer", 4, 0)
        self.world.calm()
        self.check()
        self.assertEqual((self.world.near.sinks[BACK].pings, self.outcomes()[0]), (pings, {"resumed": 1}))

    def test_stopped(self) -> None:
        """An agent that waits for its stream stops like any other."""
        self.say()
        self.world.cut()
        self.next_hop().stop(Cause.SHUTDOWN)
        self.assertIsNone(self.next_hop().resume_wait.stream)


def _refused(cause: Cause) -> StreamUnavailable:
    return StreamUnavailable(Ending(cause))
