"""Tests of bounces: which stanzas are bounced, and how (R33, R34)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.bounce import bounce, may_bounce
from s2sgw.xmpp.element import ERROR_TYPES, Element
from s2sgw.xmpp.ending import ACCOUNTS, Cause
from s2sgw.xmpp.framing import Framer
from s2sgw.xmpp.header import stream_header
from s2sgw.xmpp.namespaces import SERVER, STANZA_ERRORS
from s2sgw.xmpp.stanza import Kind, Stanza

SECRET = "nobody is to read this"
TO, FROM = "romeo@montague.example/orchard", "juliet@capulet.example/balcony"

#: kind -> types that are bounced, and types that never are
BOUNCED: dict[Kind, tuple[tuple[str | None, ...], tuple[str | None, ...]]] = {
    "message": ((None, "normal", "chat", "groupchat", "headline", "weird"), ("error", "result")),
    "iq": (("get", "set"), ("result", "error", None, "weird")),
    "presence": (
        (None, "subscribe"),
        ("error", "result", "unavailable", "subscribed", "unsubscribe", "unsubscribed", "probe", "weird", ""),
    ),
}


def stanza(kind: Kind = "message", type: str | None = None, id: str | None = "i1", to: str = TO, from_: str = FROM) -> Stanza:
    return Stanza(kind, f"<{kind}><body>{SECRET}</body></{kind}>".encode(), to, from_, type, id, (f"{SERVER}}}body",))


def bounced(stanza: Stanza, cause: Cause = Cause.NO_SUCH_DOMAIN) -> Element:
    data = bounce(stanza, cause)
    assert data is not None
    return Element.parse(data)


class BounceTests(SynchronousTestCase):
    """Tests of the one stanza error that ends a stanza's custody."""

    def test_whole(self) -> None:
        """R34: the bounce keeps the id, swaps the addresses, gives the reason, and contains nothing else."""
        self.assertEqual(
            b"<message type='error' to='juliet@capulet.example/balcony' from='romeo@montague.example/orchard' id='i1'>"
            b"<error type='cancel'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            b"<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>"
            b"The remote domain does not exist in the DNS. (dns: no-such-domain)</text></error></message>",
            bounce(stanza(), Cause.NO_SUCH_DOMAIN),
        )

    def test_stream_error_in_the_text(self) -> None:
        """R34: the condition of the next server's stream error is given with the cause."""
        self.assertIn(b" (queue: poison; policy-violation)</text>", bounce(stanza(), Cause.POISON, "policy-violation") or b"")

    def test_stanzas_that_are_bounced(self) -> None:
        """R33: an error, a result, and presence other than available and subscribe are never bounced."""
        for kind, (yes, no) in BOUNCED.items():
            for type in yes:
                self.assertTrue(may_bounce(stanza(kind, type)), (kind, type))
                self.assertEqual((kind, "error"), (bounced(stanza(kind, type)).name, bounced(stanza(kind, type)).attributes["type"]))
            for type in no:
                self.assertIsNone(bounce(stanza(kind, type), Cause.NO_SUCH_DOMAIN), (kind, type))

    def test_no_bounce_of_a_bounce(self) -> None:
        """R33: a bounce is never bounced."""
        for kind, (yes, _) in BOUNCED.items():
            for type in yes:
                _, answer = Framer().feed(stream_header() + (bounce(stanza(kind, type), Cause.POISON) or b""))
                assert isinstance(answer, Stanza)
                self.assertFalse(may_bounce(answer))
                self.assertEqual((FROM, TO, "i1"), (answer.to, answer.from_, answer.id))

    def test_addresses(self) -> None:
        """Without a sender there is no bounce. No id is invented. Special characters in an address are escaped."""
        self.assertIsNone(bounce(stanza(from_=""), Cause.NO_SUCH_DOMAIN))
        self.assertNotIn("id", bounced(stanza(id=None)).attributes)
        odd = bounced(stanza(from_="d'artagnan&\"<>@x.example/\t"))
        self.assertEqual("d'artagnan&\"<>@x.example/\t", odd.attributes["to"])

    def test_every_cause(self) -> None:
        """R34: each cause has its condition and a text with layer and cause. The text contains no name or payload."""
        for cause in Cause:
            error = bounced(stanza(), cause).children[0]
            account = ACCOUNTS[cause]
            condition, text = error.children
            self.assertEqual((str(account.condition), STANZA_ERRORS), (condition.name, condition.namespace))
            self.assertEqual(ERROR_TYPES[account.condition], error.attributes["type"])
            self.assertEqual(f"{account.bounce} ({account.layer}: {cause})", text.text)
            for word in (SECRET, "montague", "capulet", "romeo", "juliet"):
                self.assertNotIn(word, text.text)
            self.assertNotIn(SECRET.encode(), bounce(stanza(), cause) or b"")
