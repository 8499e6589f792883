"""Tests of sessions: their duration and their number."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.console import sessions
from s2sgw.console.sessions import Sessions


class SessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sessions = Sessions(self.clock.seconds)

    def test_found(self) -> None:
        """A session is found by its id and by no other text. Ids are long and different."""
        first, second = self.sessions.begin("alice", "p"), self.sessions.begin("alice", "p")
        self.assertNotEqual(first, second)
        self.assertGreaterEqual(len(first), 43)
        found = self.sessions.find(first)
        assert found is not None
        self.assertEqual("alice", found.user)
        for other in ("", first[:-1], first.lower() + "x", "\ud800"):
            self.assertIsNone(self.sessions.find(other))

    def test_idle(self) -> None:
        """An unused session ends, and a used one continues. A look-up without `touch` is no use."""
        used, unused, looked_at = (self.sessions.begin("alice", "p") for _ in range(3))
        for _ in range(4):
            self.clock.advance(sessions.IDLE_SECONDS / 3)
            self.sessions.find(used)
            self.sessions.find(looked_at, touch=False)
        self.assertEqual([True, False, False], [self.sessions.find(each) is not None for each in (used, unused, looked_at)])

    def test_life(self) -> None:
        """Each session ends after a maximum time, however much it is used."""
        used = self.sessions.begin("alice", "p")
        for _ in range(sessions.LIFE_SECONDS // 600):
            self.assertIsNotNone(self.sessions.find(used))
            self.clock.advance(600)
        self.clock.advance(1)
        self.assertIsNone(self.sessions.find(used))
        self.assertEqual(0, len(self.sessions))

    def test_bounds(self) -> None:
        """The oldest session of a user gives way, and the oldest of all. Ended ones are removed first."""
        own = [self.sessions.begin("alice", "p") for _ in range(sessions.SESSIONS_PER_USER + 1)]
        self.assertEqual([False] + [True] * sessions.SESSIONS_PER_USER, [self.sessions.find(each) is not None for each in own])
        for number in range(sessions.SESSIONS):
            self.sessions.begin(f"user {number}", "p")
        self.assertEqual(sessions.SESSIONS, len(self.sessions))
        self.clock.advance(sessions.IDLE_SECONDS + 1)
        self.sessions.begin("alice", "p")
        self.assertEqual(1, len(self.sessions))

    def test_ended(self) -> None:
        """A session that was ended is not found."""
        identifier = self.sessions.begin("alice", "p")
        self.sessions.end(identifier)
        self.sessions.end(identifier)
        self.assertIsNone(self.sessions.find(identifier))

    def test_csrf(self) -> None:
        """Each session has its own secret for forms."""
        one, other = (self.sessions.find(self.sessions.begin("alice", "p")) for _ in range(2))
        assert one is not None
        assert other is not None
        self.assertTrue(one.carries(one.csrf))
        self.assertFalse(one.carries(other.csrf) or one.carries("") or one.carries("é\ud800"))

    def test_notice(self) -> None:
        """A notice is shown once."""
        session = self.sessions.find(self.sessions.begin("alice", "p"))
        assert session is not None
        session.notice, session.failed = "done", True
        self.assertEqual([("done", True), ("", True)], [session.take_notice(), session.take_notice()])
