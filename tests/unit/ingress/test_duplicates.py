"""Resent stanzas are recognised where ids allow."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.ingress.duplicates import LAST, MEMORY, SERVERS, Duplicates, RecentStanzas
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.stanza import Stanza

PEER, OTHER = Domain.parse("peer.example"), Domain.parse("other.example")


def stanza(id: str | None, text: str = "") -> Stanza:
    return Stanza("message", f"<message id='{id}'>{text}</message>".encode(), "a@here.example", "b@peer.example", None, id)


class DuplicatesTests(SynchronousTestCase):
    """What a server sends again after it lost a stream."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.duplicates = Duplicates(self.clock)

    def lose(self, *stanzas: Stanza, peer: Domain = PEER) -> None:
        tail = RecentStanzas()
        tail.note(list(stanzas))
        self.duplicates.lost(peer, tail)

    def fresh(self, *stanzas: Stanza, peer: Domain = PEER) -> list[str | None]:
        return [each.id for each in self.duplicates.fresh(peer, list(stanzas))]

    def test_recognised_once(self) -> None:
        """What came before and comes again is dropped, once; what is new passes."""
        self.lose(stanza("1"), stanza("2"))
        self.assertEqual(self.fresh(stanza("2"), stanza("3")), ["3"])
        self.assertEqual(self.fresh(stanza("2"), stanza("1")), ["2"])

    def test_only_what_is_the_same(self) -> None:
        """The same id with another content is another stanza, and so is one without an id, or another server's."""
        self.lose(stanza("1"), stanza(None))
        self.assertEqual(self.fresh(stanza("1", "other"), stanza(None)), ["1", None])
        self.assertEqual(self.fresh(stanza("1"), peer=OTHER), ["1"])

    def test_only_messages(self) -> None:
        """IQs and presence that look the same may well be meant twice."""
        ping = Stanza("iq", b"<iq id='ping'/>", "a@here.example", "b@peer.example", "get", "ping")
        self.lose(ping)
        self.assertEqual(self.fresh(ping), ["ping"])

    def test_for_a_while(self) -> None:
        """Long after the loss nothing is taken for a duplicate."""
        self.lose(stanza("1"))
        self.clock.advance(MEMORY + 1)
        self.assertEqual(self.fresh(stanza("1")), ["1"])

    def test_bounded(self) -> None:
        """Bounded in stanzas of a stream, in losses of a server, and in servers."""
        self.lose(*(stanza(str(number)) for number in range(LAST + 1)))
        self.assertEqual(self.fresh(stanza("0"), stanza(str(LAST))), ["0"])
        for number in range(SERVERS):
            self.lose(stanza("1"), peer=Domain.parse(f"s{number}.example"))
        self.assertEqual(self.fresh(stanza("5")), ["5"])
        for round_ in range(6):
            self.lose(*(stanza(f"{round_}-{number}") for number in range(LAST)))
        self.assertLessEqual(len(self.duplicates._expected[PEER][1]), LAST * 5)

    def test_nothing_to_expect(self) -> None:
        """A stream that carried nothing leaves nothing."""
        self.lose()
        self.assertEqual(self.fresh(stanza("1")), ["1"])
