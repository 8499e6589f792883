"""Tests of the coalescing of waiting presence."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.entries import QueuedStanza
from s2sgw.queue.presence import LatestPresence, replaceable
from s2sgw.xmpp.namespaces import MUC, MUC_USER
from s2sgw.xmpp.stanza import Stanza

FROM, TO = "a@here.example/x", "b@there.example"


def presence(type: str | None = None, from_: str = FROM, to: str = TO, payloads: tuple[str, ...] = ()) -> QueuedStanza:
    """Return a waiting presence."""
    return QueuedStanza(1, Stanza("presence", b"<presence/>", to, from_, type, payloads=payloads), 0, 600)


class ReplaceableTests(SynchronousTestCase):
    """R40: tests of which presence may be replaced."""

    def test_types(self) -> None:
        """Available and unavailable presence of a resource may be replaced."""
        for type in (None, "unavailable"):
            self.assertTrue(replaceable(presence(type).stanza))
        for type in ("subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe", "error"):
            self.assertFalse(replaceable(presence(type).stanza), type)
        self.assertFalse(replaceable(presence(from_="a@here.example").stanza))

    def test_other_stanzas(self) -> None:
        """Messages and requests are never replaced."""
        for kind in ("message", "iq"):
            self.assertFalse(replaceable(Stanza(kind, b"", TO, FROM)))

    def test_rooms(self) -> None:
        """Presence of a chat room is never replaced: each join and leave counts."""
        for namespace in (MUC, MUC_USER):
            self.assertFalse(replaceable(presence(payloads=(f"{namespace}}}x",)).stanza))
        self.assertTrue(replaceable(presence(payloads=("vcard-temp:x:update}x",)).stanza))


class LatestPresenceTests(SynchronousTestCase):
    """R40: tests of the presence that the next one replaces."""

    def setUp(self) -> None:
        self.latest = LatestPresence()

    def test_replaced(self) -> None:
        """The older presence of the same addresses is replaced, and no other."""
        first, second, third = presence(), presence("unavailable"), presence(to="c@there.example")
        self.assertIsNone(self.latest.note(first))
        self.assertIsNone(self.latest.note(third))
        self.assertIs(first, self.latest.note(second))

    def test_between(self) -> None:
        """If any other stanza of the same addresses is between two presences, both are kept."""
        self.latest.note(presence())
        self.assertIsNone(self.latest.note(presence("probe")))
        self.assertIsNone(self.latest.note(presence("unavailable")))

    def test_gone(self) -> None:
        """A presence that was written, or has left its queue, is not replaced."""
        for attribute in ("written", "gone"):
            older = presence()
            self.latest.note(older)
            setattr(older, attribute, True)
            self.assertIsNone(self.latest.note(presence()), attribute)

    def test_forgotten(self) -> None:
        """A presence that no longer waits is forgotten. A newer one of the same addresses is kept."""
        older, newer = presence(), presence()
        self.latest.note(older)
        self.latest.note(newer)
        self.latest.forget(older)
        self.assertTrue(self.latest)
        self.latest.forget(newer)
        self.assertFalse(self.latest)
