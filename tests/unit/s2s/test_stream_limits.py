"""Room for streams of ours, in all: who rests makes room, who waits gets it in order (R37)."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.connection import StreamConnection
from s2sgw.s2s.stream_limits import AT_REST, LOOK, StreamLimit
from s2sgw.xmpp.ending import Cause
from tests.support.wires import Solo


class OpenStream:
    """A stream on a transport that the test closes."""

    def __init__(self) -> None:
        self.solo = Solo(role="initiating")
        self.connection: StreamConnection = self.solo.connection
        self.busy = False

    @property
    def closed(self) -> bool:
        return self.connection.ending is not None and self.connection.ending.cause is Cause.IDLE


class RoomTests(SynchronousTestCase):
    """At most two."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.room = StreamLimit(self.clock, 2)
        self.streams: dict[str, OpenStream] = {}
        self.order: list[str] = []

    def want(self, name: str, fails: bool = False) -> Deferred[None]:
        """An attempt that needs no time, once it has its place."""
        return Deferred.fromCoroutine(self._attempt(name, fails))

    async def _attempt(self, name: str, fails: bool) -> None:
        async with self.room.entering():
            self.order.append(name)
            if fails:
                raise ValueError(name)
            stream = self.streams[name] = OpenStream()
            self.use(name)
            self.room.joined(stream)

    def use(self, name: str) -> None:
        connection = self.streams[name].connection
        connection.last_sent = connection.last_received = self.clock.seconds()

    def closed(self) -> str:
        return "".join(name for name, stream in self.streams.items() if stream.closed)

    def test_room(self) -> None:
        """Nobody waits while there is room; an attempt that fails gives its place back."""
        self.failureResultOf(self.want("a", fails=True), ValueError)
        self.want("b")
        self.failureResultOf(self.want("c", fails=True), ValueError)
        self.want("d")
        self.assertEqual(("abcd", 0, []), ("".join(self.order), len(self.room), self.clock.getDelayedCalls()))

    def test_those_on_their_way_count(self) -> None:
        """A place is taken from the beginning of the attempt."""
        entering = [self.room.entering() for _ in range(3)]
        waits = [Deferred.fromCoroutine(each.__aenter__()) for each in entering]
        self.assertNoResult(waits[2])
        self.successResultOf(Deferred.fromCoroutine(entering[0].__aexit__(None, None, None)))
        self.successResultOf(waits[2])

    def test_longest_unused_first(self) -> None:
        """The one that has rested longest is closed in order, and its place is free when it is gone."""
        self.want("a")
        self.want("b")
        self.clock.advance(1)
        self.use("a")
        self.clock.advance(AT_REST)
        self.want("c")
        self.assertEqual(("b", "ab", 1), (self.closed(), "".join(self.order), len(self.room)))
        self.assertIn(b"CLOSE\n", self.streams["b"].solo.written())
        self.clock.advance(LOOK)
        self.assertEqual("b", self.closed())  # one is enough
        self.streams["b"].solo.lose()
        self.assertEqual(("abc", 0), ("".join(self.order), len(self.room)))
        self.clock.advance(LOOK)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_at_work(self) -> None:
        """Neither what is used nor what waits for an acknowledgement is closed; it is looked at again."""
        self.want("a")
        self.want("b")
        self.streams["a"].busy = True
        self.clock.advance(AT_REST - LOOK)
        self.use("b")
        self.want("c")
        self.clock.advance(LOOK)
        self.assertEqual("", self.closed())
        for _ in range(round(AT_REST - LOOK)):
            self.clock.advance(LOOK)
        self.assertEqual("b", self.closed())

    def test_no_starvation(self) -> None:
        """Places go in the order in which they were asked for; who comes later waits behind."""
        for name in "abcd":
            self.want(name)
        self.clock.advance(AT_REST)
        self.assertEqual("ab", self.closed())
        self.streams["b"].solo.lose()
        self.want("e")
        self.streams["a"].solo.lose()
        self.assertEqual(("abcd", 1), ("".join(self.order), len(self.room)))
        self.streams["c"].solo.lose()
        self.assertEqual("abcde", "".join(self.order))

    def test_given_up(self) -> None:
        """Who no longer waits gets no place."""
        for name in "ab":
            self.want(name)
        given_up, behind = self.want("c"), self.want("d")
        given_up.cancel()
        self.failureResultOf(given_up)
        self.streams["a"].solo.lose()
        self.successResultOf(behind)
        self.assertEqual("abd", "".join(self.order))
