"""Tests of the extensions that a server does not support: they are found and remembered for a day."""

from __future__ import annotations

from unittest.mock import Mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.extensions import DISABLED_SECONDS, LOSS_SECONDS, WORKED_SECONDS, ExtensionMemory, ExtensionTrial
from s2sgw.stream.events import Acknowledged
from s2sgw.xmpp.ending import Cause, Ending

REFUSED = Ending(Cause.CONNECTION_REFUSED)
PEER = "peer.example"


class ExtensionMemoryTests(SynchronousTestCase):
    """Tests of `ExtensionMemory`. `ExtensionTrial` is tested with the attempts (`test_connecting`)."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[tuple[str, str, Cause]] = []
        self.extensions = ExtensionMemory(self.clock, lambda name, extension, ending: self.told.append((name, extension, ending.cause)))

    def state(self) -> tuple[bool, bool]:
        """Return whether the next stream is a trial, and whether XEP-0198 may be used."""
        return self.extensions.suspects(PEER), self.extensions.usable(PEER, "management")

    def test_for_a_day(self) -> None:
        """A disabled extension is reported once, listed, and tried again after a day."""
        self.assertTrue(self.extensions.usable(PEER, "direct-tls"))
        for _ in range(2):
            self.extensions.disable(PEER, "direct-tls", REFUSED)
        self.assertEqual(self.told, [(PEER, "direct-tls", Cause.CONNECTION_REFUSED)])
        self.assertEqual(list(self.extensions.disabled()), [(PEER, ("direct-tls",))])
        self.assertEqual([self.extensions.usable(PEER, each) for each in ("direct-tls", "bidi")], [False, True])
        self.clock.advance(DISABLED_SECONDS)
        self.assertTrue(self.extensions.usable(PEER, "direct-tls"))
        self.assertEqual(list(self.extensions.disabled()), [])

    def test_suspicion(self) -> None:
        """A suspect is not used on the next stream. If that helps it is disabled, otherwise it is cleared."""
        self.extensions.suspect(PEER, "management", REFUSED)
        self.assertEqual(self.state(), (True, False))
        self.extensions.clear(PEER)
        self.assertEqual(self.state(), (False, True))
        self.extensions.suspect(PEER, "management", REFUSED)
        self.extensions.confirm(PEER)
        self.assertEqual(self.state(), (False, False))
        self.assertEqual(self.told, [(PEER, "management", Cause.CONNECTION_REFUSED)])

    def test_unknown_server(self) -> None:
        """For an unknown server `confirm` and `clear` have no effect, and do not add it."""
        self.extensions.confirm(PEER)
        self.extensions.clear(PEER)
        self.assertEqual((self.state(), self.told, len(self.extensions._servers)), ((False, True), [], 0))

    def test_bounded(self) -> None:
        """Strangers choose the names: the number of remembered servers is bounded, and the latest are kept."""
        self.extensions._servers.limit = 3
        for number in range(5):
            self.extensions.disable(f"p{number}.example", "bidi", REFUSED)
            self.extensions.disable("p0.example", "bidi", REFUSED)
        self.assertEqual({name for name, _ in self.extensions.disabled()}, {"p0.example", "p3.example", "p4.example"})

    def test_sub_domains(self) -> None:
        """A peer with many sub-domains does not make the gateway forget other servers."""
        for names in (self.extensions._servers, self.extensions._worked):
            names.limit = 3
        self.extensions.disable("p.example", "bidi", REFUSED)
        self.extensions.work("p.example", ["management"])
        for number in range(9):
            self.extensions.disable(f"p{number}.many.example", "bidi", REFUSED)
            self.extensions.work(f"p{number}.many.example", ["management"])
        self.assertFalse(self.extensions.usable("p.example", "bidi"))
        self.assertEqual({"management"}, self.extensions.have_worked("p.example"))

    def test_worked(self) -> None:
        """Extensions that worked are remembered for an hour. Those of a forgotten server are not."""
        self.extensions.work(PEER, ["bidi"])
        self.assertEqual(self.extensions.have_worked(PEER), {"bidi"})
        self.clock.advance(WORKED_SECONDS)
        self.assertEqual(self.extensions.have_worked(PEER), frozenset())
        self.extensions.work(PEER, ["bidi"])
        self.extensions.forget(PEER)
        self.assertEqual(self.extensions.have_worked(PEER), frozenset())


class LossTests(SynchronousTestCase):
    """A lost connection does not make extensions suspect that have worked. An error of the other side does."""

    LOST = Ending(Cause.CONNECTION_LOST, by="them")

    def setUp(self) -> None:
        self.clock = Clock()
        self.extensions = ExtensionMemory(self.clock)

    def trial(self) -> ExtensionTrial:
        engine = Mock(managed=True, bidi=True, resuming=False, enabling=False)
        return ExtensionTrial(engine, PEER, self.extensions, self.clock)

    def usable(self) -> list[bool]:
        return [self.extensions.usable(PEER, each) for each in ("management", "bidi")]

    def test_never_worked(self) -> None:
        """If the first stream is lost at once, the next one is opened without its extensions."""
        self.trial().end(self.LOST)
        self.assertEqual(self.usable(), [False, False])

    def test_acknowledged(self) -> None:
        """A stream was acknowledged, and the next is lost during its negotiation: the extensions stay in use."""
        before = self.trial()
        before.begin()
        before.event(Acknowledged(1))
        self.trial().end(self.LOST)
        self.assertEqual(self.usable(), [True, True])

    def test_lived(self) -> None:
        """A stream lived longer than a server needs to end it because of an extension. Two losses at once then change nothing."""
        before = self.trial()
        before.begin()
        self.clock.advance(LOSS_SECONDS + 0.1)
        before.end(self.LOST)
        for _ in range(2):
            young = self.trial()
            young.begin()
            young.end(self.LOST)
            self.assertEqual(self.usable(), [True, True])

    def test_an_error(self) -> None:
        """An error of the other side makes even proven extensions suspect: the server may be a different one by now."""
        before = self.trial()
        before.begin()
        before.event(Acknowledged(1))
        self.trial().end(Ending(Cause.STREAM_ERROR, condition="undefined-condition", by="them"))
        self.assertFalse(self.extensions.usable(PEER, "bidi"))
