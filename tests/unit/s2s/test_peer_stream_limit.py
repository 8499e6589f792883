"""Tests of the limit of our streams to one server."""

from __future__ import annotations

from contextlib import ExitStack

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.stream_limits import REST_SECONDS, RETRY_SECONDS, LimitReached, PeerStreamLimit
from s2sgw.xmpp.ending import Cause
from tests.support.wires import Solo

PEER = "peer.example"


class PeerStreamLimitTests(SynchronousTestCase):
    """R37: tests of `limits.streams` for a peer."""

    def setUp(self) -> None:
        self.peer_streams = PeerStreamLimit()

    def join(self, number: int) -> list[Solo]:
        """Add streams that are used one second apart."""
        streams = []
        for second in range(number):
            solo = Solo(role="initiating")
            solo.clock.advance(second)
            solo.connection.write(b"<message/>")
            self.peer_streams.joined(PEER, solo.connection)
            streams.append(solo)
        return streams

    def enter(self, limit: int, now: float = 0.0) -> None:
        with self.peer_streams.entering(PEER, limit, now):
            pass

    def test_room(self) -> None:
        """There is room below the limit, and for another server. Without a limit there is always room."""
        self.join(3)
        self.enter(4)
        self.enter(0)
        with self.peer_streams.entering("other.example", 1, 0.0):
            pass

    def test_all_at_work(self) -> None:
        """If all streams are busy, none is closed, and the queue tries again soon."""
        streams = self.join(2)
        full = self.assertRaises(LimitReached, self.enter, 2, REST_SECONDS - 0.1)
        self.assertEqual((full.ending.cause, full.wait), (Cause.TOO_MANY_STREAMS, RETRY_SECONDS))
        self.assertEqual([each.ending for each in streams], [None, None])

    def test_one_at_rest_makes_room(self) -> None:
        """R37: the stream that has been idle longest is closed in order."""
        streams = self.join(2)
        streams[0].clock.advance(3)
        streams[0].connection.write(b"<message/>")  # one at 3, the other at 1
        self.enter(2, REST_SECONDS + 1)
        self.assertIsNone(streams[0].ending)
        assert streams[1].ending is not None
        self.assertEqual(streams[1].ending.cause, Cause.IDLE)
        self.assertIn(b"CLOSE\n", streams[1].written())
        self.enter(2, REST_SECONDS + 1)  # the closing one no longer counts

    def test_those_on_their_way_count(self) -> None:
        """Attempts count like streams until they have failed."""
        with ExitStack() as attempts:
            for _ in range(2):
                attempts.enter_context(self.peer_streams.entering(PEER, 2, 0.0))
            self.assertRaises(LimitReached, self.enter, 2, 1000.0)
        self.enter(2)

    def test_gone(self) -> None:
        """A closed stream takes no room, and no reference to it is kept."""
        streams = self.join(2)
        for each in streams:
            each.lose()
        self.enter(1)
        self.assertEqual((self.peer_streams._open, self.peer_streams._entering), ({}, {}))
