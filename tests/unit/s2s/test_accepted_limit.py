"""Tests of the limit of streams that a peer may have open to us: proven streams count, and dead ones make room."""

from __future__ import annotations

from math import inf
from typing import Any, cast
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.admission import ConnectionLimits
from s2sgw.net.connection import StreamConnection
from s2sgw.s2s.accepted_limit import ASKED, LOOK, PING_SECONDS, PROOF_SECONDS, AcceptedStreamLimit
from s2sgw.stream.management import REQUEST
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

PEER = Domain.parse("peer.example")


class Newest:
    """The connection on which the next stream is about to be proven."""

    ending: Ending | None = None


NEWEST = cast(StreamConnection, Newest())


class FakeStream:
    """A stream and its connection. With `alive` the other machine acknowledges what is written."""

    ending: Ending | None = None

    def __init__(self, world: World, *, managed: bool = False, alive: bool = True) -> None:
        self.connection: Any = self
        self.managed = managed
        self.unacknowledged_bytes = 0
        self.last_received = world.clock.seconds()
        self.read_since = 0.0
        self.sent: list[bytes] = []
        self._alive = alive
        self._world = world

    def keep_alive(self, data: bytes) -> None:
        self.sent.append(data)
        self.unacknowledged_bytes = 0 if self._alive else len(data)

    def abort(self, ending: Ending) -> None:
        self.ending = ending
        for streams in (self._world.streams, self._world.siblings):
            if self in streams:
                streams.remove(self)

    def hear(self) -> None:
        self.last_received = self._world.clock.seconds()


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.streams: list[FakeStream] = []
        #: those of other names below the same registered domain, and the connections of all
        self.siblings: list[FakeStream] = []
        self.limits = ConnectionLimits(total=20)
        self.others = 0
        self.hits: list[str] = []
        self.limit = AcceptedStreamLimit(self.clock, self, self, self.hits.append)

    @property
    def proven(self) -> int:
        return len(self.streams) + len(self.siblings) + self.others

    def below(self, registered: str) -> list[FakeStream]:
        return [*self.streams, *self.siblings] if registered == "peer.example" else []

    def of_peer(self, peer: Domain) -> list[FakeStream]:
        return list(self.streams) if peer == PEER else []

    def open(self, number: int, *, managed: bool = False, alive: bool = True) -> list[FakeStream]:
        """Open further streams, one second apart."""
        made = []
        for _ in range(number):
            self.clock.advance(1)
            made.append(FakeStream(self, managed=managed, alive=alive))
        self.streams += made
        return made

    def room(self, limit: int) -> Deferred[Ending | None]:
        return Deferred.fromCoroutine(self.limit.room(PEER, limit, NEWEST))

    def wait(self, seconds: float = PING_SECONDS) -> None:
        self.clock.pump([LOOK] * round(seconds / LOOK + 1))


class LimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def siblings(self, number: int, *, alive: bool = True) -> list[FakeStream]:
        """Open further streams of other peers of the registered domain."""
        made = self.world.open(number, alive=alive)
        self.world.streams = [stream for stream in self.world.streams if stream not in made]
        self.world.siblings += made
        return made

    def refused(self, answer: Deferred[Ending | None]) -> Ending:
        ending = self.successResultOf(answer)
        assert ending is not None
        self.assertEqual(Cause.TOO_MANY_STREAMS, ending.cause)
        return ending

    def test_below_the_limit(self) -> None:
        """Below the limit the open streams are not probed."""
        streams = self.world.open(3)
        self.assertIsNone(self.successResultOf(self.world.room(4)))
        self.assertEqual([[]] * 3, [stream.sent for stream in streams])

    def test_alive(self) -> None:
        """With four live streams a fifth is refused soon. The record says that all counted streams were proven."""
        streams = self.world.open(4)
        answer = self.world.room(4)
        self.assertNoResult(answer)
        self.assertEqual([[b" "]] * 4, [stream.sent for stream in streams])
        self.world.wait(LOOK)
        self.assertIn("4 streams are open, all of them proven; at most 4", self.refused(answer).detail)

    def test_dead_machine(self) -> None:
        """Of several streams with dead machines only the one that was silent longest is ended."""
        first, *others = self.world.open(4, alive=False)
        others[0].last_received = -1.0
        answer = self.world.room(4)
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual([Cause.UNRESPONSIVE], [stream.ending.cause for stream in (first, *others) if stream.ending])
        self.assertIsNotNone(others[0].ending)

    def test_held(self) -> None:
        """A stream that is not read cannot show an answer: it is ended only if the other machine is dead."""
        for alive in (True, False):
            self.world = World()
            (held,) = self.world.open(1, managed=True, alive=alive)
            held.read_since = inf
            answer = self.world.room(1)
            self.world.wait()
            if alive:
                self.refused(answer)
            else:
                self.assertIsNone(self.successResultOf(answer))
            self.assertEqual(held.ending is None, alive)

    def test_dead_among_the_living(self) -> None:
        """A live stream is not ended, although it was silent longest."""
        alive, dead = *self.world.open(1), *self.world.open(1, alive=False)
        answer = self.world.room(2)
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual((None, Cause.UNRESPONSIVE), (alive.ending, dead.ending and dead.ending.cause))

    def test_acknowledging_stream(self) -> None:
        """A stream with XEP-0198 must answer `<r/>`. A TCP acknowledgement is not enough."""
        answering, silent = self.world.open(2, managed=True)
        answer = self.world.room(2)
        self.assertEqual([[REQUEST]] * 2, [answering.sent, silent.sent])
        self.world.wait(LOOK)
        answering.hear()
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual((None, Cause.UNRESPONSIVE), (answering.ending, silent.ending and silent.ending.cause))

    def test_all_answer_late(self) -> None:
        """Streams that answer in time stay, and the newest is refused."""
        streams = self.world.open(2, managed=True)
        answer = self.world.room(2)
        self.world.wait(PING_SECONDS - 5 * LOOK)
        for stream in streams:
            stream.hear()
        self.world.wait(LOOK)
        self.refused(answer)

    def test_ended_meanwhile(self) -> None:
        """A stream that ends while it is probed (its machine has restarted) makes room at once."""
        streams = self.world.open(2, managed=True)
        answer = self.world.room(2)
        streams[1].abort(Ending(Cause.CONNECTION_LOST))
        self.world.wait(LOOK)
        self.assertIsNone(self.successResultOf(answer))
        self.assertIsNone(streams[0].ending)

    def test_several_newcomers(self) -> None:
        """Each new stream ends one dead stream. A third one finds none."""
        streams = self.world.open(2, alive=False)
        answers = [self.world.room(2)]
        self.world.wait()
        streams += self.world.open(1)  # the first stream is proven
        answers.append(self.world.room(2))
        self.world.wait()
        streams += self.world.open(1)
        answers.append(self.world.room(2))
        self.world.wait()
        self.assertEqual([None, None], [self.successResultOf(answer) for answer in answers[:2]])
        self.refused(answers[2])
        self.assertEqual(2, sum(stream.ending is not None for stream in streams))

    def test_registered_domain(self) -> None:
        """The peers of a registered domain have a quarter of all connections, whatever each of them has. Other domains are not concerned."""
        self.world.siblings = self.world.open(5)
        self.world.streams = []
        for peer in ("peer.example", "new.peer.example", "a.b.peer.example"):
            excess = self.world.limit.excess(Domain.parse(peer), 4, NEWEST)
            assert excess is not None, peer
            self.assertIn("5 connections of peer.example, with all its sub-domains, are open; their share is 5", excess.detail)
            self.assertEqual(excess.cause, Cause.TOO_MANY_STREAMS)
        self.assertEqual(self.world.hits, ["connections"] * 3)
        self.assertIsNone(self.world.limit.excess(Domain.parse("peer2.example"), 4, NEWEST))
        self.assertIsNone(self.world.limit.excess(PEER, 4, self.world.siblings[0].connection))
        self.world.siblings.pop()
        self.assertIsNone(self.world.limit.excess(PEER, 4, NEWEST))

    def test_registered_domain_is_alive(self) -> None:
        """If all streams of a registered domain at its share are alive, the next peer is refused soon, and no stream is ended."""
        siblings = self.siblings(5)
        answer = self.world.room(4)
        self.assertNoResult(answer)
        self.world.wait(LOOK)
        self.refused(answer)
        self.assertEqual([(stream.sent, stream.ending) for stream in siblings], [([b" "], None)] * 5)

    def test_registered_domain_was_cut_off(self) -> None:
        """At the share of a registered domain, one dead stream of any of its peers makes room for each new one. Live ones stay."""
        alive, *dead = [*self.siblings(1), *self.siblings(4, alive=False)]
        for number in range(1, 5):
            answer = self.world.room(4)
            self.world.wait()
            self.assertIsNone(self.successResultOf(answer))
            self.assertEqual([stream.ending is not None for stream in dead], [True] * number + [False] * (4 - number))
            self.world.siblings += [FakeStream(self.world)]
        self.assertIsNone(alive.ending)

    def newcomers(self, number: int, limit: int) -> list[bool]:
        """Let so many new streams be judged at once. Each proves itself a moment later. Return which may."""
        connections = [FakeStream(self.world) for _ in range(number)]
        answers = [Deferred.fromCoroutine(self.world.limit.room(PEER, limit, cast(StreamConnection, each))) for each in connections]
        self.world.wait()
        proven = []
        for connection, answer in zip(connections, answers, strict=True):
            refused = self.successResultOf(answer) or self.world.limit.excess(PEER, limit, cast(StreamConnection, connection))
            proven.append(refused is None)
            if refused is None:
                self.world.streams.append(connection)
        return proven

    def test_newcomers_at_once(self) -> None:
        """If a machine was cut off, all of its streams come back at once: each newcomer ends one dead stream, and none is refused."""
        dead = self.siblings(5, alive=False)
        self.assertEqual(self.newcomers(3, limit=4), [True] * 3)
        self.assertEqual(sum(stream.ending is not None for stream in dead), 3)
        self.world.siblings.clear()
        self.world.streams = self.world.open(4, alive=False)[-4:]
        self.assertEqual(self.newcomers(3, limit=4), [True] * 3)

    def made_room(self) -> Newest:
        """Return a newcomer for whom one of two dead streams was ended."""
        self.world.open(2, alive=False)
        newcomer = Newest()
        answer = Deferred.fromCoroutine(self.world.limit.room(PEER, 2, cast(StreamConnection, newcomer)))
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual(1, len(self.world.streams))
        return newcomer

    def test_newcomer_waits(self) -> None:
        """As long as a newcomer may yet prove itself, the next one makes room of its own."""
        newcomer = self.made_room()
        self.world.room(2)
        self.world.wait()
        self.assertEqual((None, []), (newcomer.ending, self.world.streams))

    def test_newcomer_is_proven(self) -> None:
        """A newcomer that has proven itself is counted once, as a stream."""
        newcomer = self.made_room()
        self.assertIsNone(self.world.limit.excess(PEER, 2, cast(StreamConnection, newcomer)))
        (dead,) = self.world.streams
        self.assertIsNone(self.successResultOf(self.world.room(2)))
        self.assertEqual([dead], self.world.streams)

    def test_newcomer_has_ended(self) -> None:
        """A newcomer that has ended, or proves nothing in its time, leaves its place to the next one: no further stream is ended for it."""
        ended = self.made_room()
        ended.ending = Ending(Cause.CONNECTION_LOST)
        self.assertIsNone(self.successResultOf(self.world.room(2)))
        self.world.streams.clear()
        waiting = self.made_room()
        self.world.clock.advance(PROOF_SECONDS)
        self.assertIsNone(self.successResultOf(self.world.room(2)))
        self.assertEqual((None, 1), (waiting.ending, len(self.world.streams)))

    def test_newcomer_leaves_memory(self) -> None:
        """The limit keeps no connection in memory that has left it."""
        self.assertIsNone(ref(self.made_room())())

    def test_registered_domain_with_many_streams(self) -> None:
        """Only a few streams of a registered domain are asked at once: those that were silent longest, and others the next time."""
        self.world.limits = ConnectionLimits(total=4 * 3 * ASKED)
        alive, dead = self.siblings(2 * ASKED), self.siblings(ASKED, alive=False)
        for asked in ([1, 0, 0], [1, 1, 0]):
            answer = self.world.room(4)
            self.world.wait()
            self.refused(answer)
            streams = [*alive, *dead]
            sent = [sum(len(stream.sent) for stream in streams[at * ASKED : (at + 1) * ASKED]) for at in range(3)]
            self.assertEqual(sent, [each * ASKED for each in asked])
        answer = self.world.room(4)
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual([stream.ending is not None for stream in (*alive, *dead)], [False] * 2 * ASKED + [True] + [False] * (ASKED - 1))

    def test_peer_of_a_full_registered_domain(self) -> None:
        """A peer at its own limit whose streams are alive is refused without a question to the streams of others."""
        own = self.world.open(2)
        siblings = self.siblings(5, alive=False)
        answer = self.world.room(2)
        self.world.wait()
        self.refused(answer)
        self.assertEqual([stream.sent for stream in (*own, *siblings)], [[b" "]] * 2 + [[]] * 5)

    def test_what_is_free_for_others(self) -> None:
        """A registered domain has no more connections than are free for the others. One without any gets one in any case."""
        self.world.siblings = self.world.open(3)
        self.world.streams = []
        for others, total, admitted in ((13, 20, True), (14, 20, False), (20, 20, False), (14, 0, True), (14, 40, True)):
            self.world.others, self.world.limits = others, ConnectionLimits(total=total)
            self.assertEqual(self.world.limit.excess(PEER, 4, NEWEST) is None, admitted, (others, total))
        self.world.siblings, self.world.others, self.world.limits = [], 30, ConnectionLimits(total=20)  # lowered by a reload
        self.assertIsNone(self.world.limit.excess(PEER, 4, NEWEST))

    def test_limit_that_was_lowered(self) -> None:
        """If there are more streams than a lowered limit permits, as many dead ones are ended as are too many."""
        streams = self.world.open(4, alive=False)
        answer = self.world.room(2)
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual(3, sum(stream.ending is not None for stream in streams))

    def test_own_stream(self) -> None:
        """The new stream itself is not counted among the others."""
        (stream,) = self.world.open(1)
        self.assertIsNone(self.world.limit.excess(PEER, 1, stream.connection))
        self.assertIsNotNone(self.world.limit.excess(PEER, 1, NEWEST))
