"""Tests of the embedded echo: which stanzas it answers, and which it must not answer."""

from __future__ import annotations

from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend.echo import EchoNextHop
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.namespaces import PING, SERVER
from s2sgw.xmpp.stanza import Stanza

PAIR = Pair(Domain.parse("peer.example"), Domain.parse("example.org"))


class EchoTests(SynchronousTestCase):
    """Messages and pings are answered. Errors, rooms and results never are (two echoes would never stop)."""

    def answers(self, *stanzas: str) -> list[Stanza]:
        delivered: list[Stanza] = []
        back = SimpleNamespace(pair_queue=SimpleNamespace(crowded=self.crowded), accept=delivered.extend)
        next_hop = EchoNextHop(PAIR, SimpleNamespace(queue={PAIR.inverse: back}.__getitem__))  # type: ignore[arg-type]
        next_hop.send([each.replace("@", "from='a@peer.example/r' to='b@example.org' id='7'").encode() for each in stanzas])
        return delivered

    crowded = False

    def test_no_room(self) -> None:
        """If the inverse queue accepts no more, no answer is made."""
        self.crowded = True
        self.assertEqual(self.answers("<message @ type='chat'><body>a</body></message>"), [])

    def test_message(self) -> None:
        """The body is returned with the same id, the addresses are swapped, and nothing else is contained."""
        [answer] = self.answers("<message @ type='chat'><body>a &lt; b</body><x xmlns='urn:x'/></message>")
        echoed = Element.parse(answer.data)
        self.assertEqual((answer.to, answer.from_, answer.id, answer.type), ("a@peer.example/r", "b@example.org", "7", "chat"))
        self.assertEqual([(child.name, child.text) for child in echoed.children], [("body", "a < b")])

    def test_ping(self) -> None:
        """A ping gets a result, another request service-unavailable."""
        ping, other = self.answers(f"<iq @ type='get'><ping xmlns='{PING}'/></iq>", "<iq @ type='set'><x xmlns='urn:x'/></iq>")
        self.assertEqual((ping.type, other.type), ("result", "error"))
        error = Element.parse(other.data).child(SERVER, "error")
        assert error is not None
        self.assertEqual(error.children[0].name, "service-unavailable")

    def test_no_answer(self) -> None:
        """Errors, rooms, results, presence and messages without a body get no answer."""
        self.assertEqual(self.answers(
            "<message @ type='error'><body>x</body></message>", "<message @ type='groupchat'><body>x</body></message>",
            "<message @><x xmlns='urn:x'/></message>", "<iq @ type='result'/>", "<presence @/>",
        ), [])

    def test_too_large(self) -> None:
        """A stanza with thousands of elements gets no answer, and the others get theirs."""
        large = f"<message @><body>a</body><x xmlns='urn:x'>{'<y/>' * 5000}</x></message>"
        self.assertEqual(len(self.answers(large, "<message @><body>b</body></message>")), 1)
