"""How many streams a peer may have open towards us: proven ones count, and dead ones make room."""

from __future__ import annotations

from math import inf
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.connection import StreamConnection
from s2sgw.s2s.accepted_limit import LOOK, PING_SECONDS, AcceptedStreamLimit
from s2sgw.stream.management import REQUEST
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

PEER = Domain.parse("peer.example")
NEWEST = cast(StreamConnection, object())


class FakeStream:
    """A stream, and its connection too. `alive`: the other machine acknowledges what is written."""

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
        self._world.streams.remove(self)

    def hear(self) -> None:
        self.last_received = self._world.clock.seconds()


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.streams: list[FakeStream] = []
        self.limit = AcceptedStreamLimit(self.clock, self)

    def of_peer(self, peer: Domain) -> list[FakeStream]:
        return list(self.streams) if peer == PEER else []

    def open(self, number: int, *, managed: bool = False, alive: bool = True) -> list[FakeStream]:
        """Further streams, a second after each other."""
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

    def refused(self, answer: Deferred[Ending | None]) -> Ending:
        ending = self.successResultOf(answer)
        assert ending is not None
        self.assertEqual(Cause.TOO_MANY_STREAMS, ending.cause)
        return ending

    def test_below_the_limit(self) -> None:
        """Below the limit nothing is asked of the streams there are."""
        streams = self.world.open(3)
        self.assertIsNone(self.successResultOf(self.world.room(4)))
        self.assertEqual([[]] * 3, [stream.sent for stream in streams])

    def test_alive(self) -> None:
        """The fifth of four that are alive is refused, soon; the record says that all of those counted were proven."""
        streams = self.world.open(4)
        answer = self.world.room(4)
        self.assertNoResult(answer)
        self.assertEqual([[b" "]] * 4, [stream.sent for stream in streams])
        self.world.wait(LOOK)
        self.assertIn("4 streams are open, all of them proven; at most 4", self.refused(answer).detail)

    def test_dead_machine(self) -> None:
        """Of streams whose machine acknowledges nothing the one that was silent longest is ended, and no other."""
        first, *others = self.world.open(4, alive=False)
        others[0].last_received = -1.0
        answer = self.world.room(4)
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual([Cause.UNRESPONSIVE], [stream.ending.cause for stream in (first, *others) if stream.ending])
        self.assertIsNotNone(others[0].ending)

    def test_held(self) -> None:
        """A stream that we do not read cannot be seen to answer: it is ended only if the other machine is dead."""
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
        """One that is alive is not ended for having been silent longest."""
        alive, dead = *self.world.open(1), *self.world.open(1, alive=False)
        answer = self.world.room(2)
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual((None, Cause.UNRESPONSIVE), (alive.ending, dead.ending and dead.ending.cause))

    def test_acknowledging_stream(self) -> None:
        """A stream with XEP-0198 must answer `<r/>`; that its machine acknowledges is not enough."""
        answering, silent = self.world.open(2, managed=True)
        answer = self.world.room(2)
        self.assertEqual([[REQUEST]] * 2, [answering.sent, silent.sent])
        self.world.wait(LOOK)
        answering.hear()
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual((None, Cause.UNRESPONSIVE), (answering.ending, silent.ending and silent.ending.cause))

    def test_all_answer_late(self) -> None:
        """All that answer within the time stay, and the newest is refused."""
        streams = self.world.open(2, managed=True)
        answer = self.world.room(2)
        self.world.wait(PING_SECONDS - 5 * LOOK)
        for stream in streams:
            stream.hear()
        self.world.wait(LOOK)
        self.refused(answer)

    def test_ended_meanwhile(self) -> None:
        """One that ends while it is asked (its machine has restarted and knows nothing of it) makes room at once."""
        streams = self.world.open(2, managed=True)
        answer = self.world.room(2)
        streams[1].abort(Ending(Cause.CONNECTION_LOST))
        self.world.wait(LOOK)
        self.assertIsNone(self.successResultOf(answer))
        self.assertIsNone(streams[0].ending)

    def test_several_newcomers(self) -> None:
        """Each newcomer has one dead stream make room, and a third finds none."""
        streams = self.world.open(2, alive=False)
        answers = [self.world.room(2)]
        self.world.wait()
        streams += self.world.open(1)  # the first one is proven
        answers.append(self.world.room(2))
        self.world.wait()
        streams += self.world.open(1)
        answers.append(self.world.room(2))
        self.world.wait()
        self.assertEqual([None, None], [self.successResultOf(answer) for answer in answers[:2]])
        self.refused(answers[2])
        self.assertEqual(2, sum(stream.ending is not None for stream in streams))

    def test_limit_that_was_lowered(self) -> None:
        """Where there are more streams than the limit, as many dead ones are ended as are too many."""
        streams = self.world.open(4, alive=False)
        answer = self.world.room(2)
        self.world.wait()
        self.assertIsNone(self.successResultOf(answer))
        self.assertEqual(3, sum(stream.ending is not None for stream in streams))

    def test_own_stream(self) -> None:
        """The stream that is asked about is not one of the others."""
        (stream,) = self.world.open(1)
        self.assertIsNone(self.world.limit.excess(PEER, 1, stream.connection))
        self.assertIsNotNone(self.world.limit.excess(PEER, 1, NEWEST))
