"""Tests of dialback keys and elements (XEP-0185, XEP-0220)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream import dialback
from s2sgw.stream.dialback import DialbackKeys, Request, derive
from s2sgw.stream.events import DialbackOutcome
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import RemoteFault, StanzaCondition, StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.namespaces import DIALBACK, SERVER, STANZA_ERRORS
from tests.support.transcripts import OURS, PAIR, PEER, dialback_error

KEYS = DialbackKeys(b"s3cr3tf0rd14lb4ck")
MONTAGUE = Domain.parse("montague.example")
CAPULET = Domain.parse("capulet.example")
KEY = "b4835385f37fe2895af6c196b59097b16862406db80559900d96bf6fa7d23df3"


class KeyTests(SynchronousTestCase):
    """Tests of keys (XEP-0185)."""

    def test_example(self) -> None:
        """R27: the keys equal those of the examples in XEP-0220 §2.1.1 and §2.2.2."""
        self.assertEqual(KEYS.key(MONTAGUE, CAPULET, "D60000229F"), KEY)
        verifying = DialbackKeys(b"d14lb4ck43v3r").key(CAPULET, MONTAGUE, "417GAF25")
        self.assertEqual(verifying, "225cc5aa6a071133249d25fef42ae516fc7a86c523aa1c6980a7f73e784c972d")

    def test_verify(self) -> None:
        """R27: a key is valid only for its own receiving and originating domain, stream and secret."""
        self.assertTrue(KEYS.verify(MONTAGUE, CAPULET, "D60000229F", KEY))
        self.assertTrue(DialbackKeys(b"s3cr3tf0rd14lb4ck").verify(MONTAGUE, CAPULET, "D60000229F", KEY))
        self.assertFalse(KEYS.verify(CAPULET, MONTAGUE, "D60000229F", KEY))
        self.assertFalse(KEYS.verify(MONTAGUE, CAPULET, "D60000229E", KEY))
        self.assertFalse(KEYS.verify(MONTAGUE, CAPULET, "D60000229F", KEY[:-1] + "4"))
        self.assertFalse(DialbackKeys(b"").verify(MONTAGUE, CAPULET, "D60000229F", KEY))

    def test_any_text(self) -> None:
        """R27: a key or a stream id may be any text. It is then simply wrong."""
        for text in ("", "é", "\ud800", KEY.upper()):
            self.assertFalse(KEYS.verify(MONTAGUE, CAPULET, "D60000229F", text))
            self.assertFalse(KEYS.verify(MONTAGUE, CAPULET, text, KEY))

    def test_international(self) -> None:
        """R18, R27: a domain has one key, however it is spelled."""
        spelled = [Domain.parse(name) for name in ("bücher.example", "xn--bcher-kva.example", "BÜCHER.example")]
        self.assertEqual(len({KEYS.key(MONTAGUE, domain, "x") for domain in spelled}), 1)

    def test_derive(self) -> None:
        """R27: the two legs have secrets of their own, and neither is the gateway's secret."""
        federation, inner = derive(b"secret", "federation"), derive(b"secret", "backend")
        self.assertEqual(len({federation, inner, b"secret"}), 3)
        self.assertEqual(len(federation), 32)
        self.assertEqual(federation, derive(b"secret", "federation"))


def element(name: str, text: str = "", **attributes: str) -> Element:
    return Element(name, DIALBACK, {key.rstrip("_"): value for key, value in attributes.items()}, text=text)


class RequestTests(SynchronousTestCase):
    """Tests of requests and their answers."""

    def refused(self, condition: StreamCondition, request: Element) -> None:
        fault = self.assertRaises(RemoteFault, Request.read, request)
        self.assertEqual(fault.condition, condition)
        self.assertTrue(fault.text)

    def test_written(self) -> None:
        """XEP-0220 §2.1: a result goes from sender to recipient. A verify goes the other way, with the id."""
        self.assertEqual(dialback.result(PAIR, "k").to_xml(), b"<db:result from='peer.example' to='ours.example'>k</db:result>")
        written = dialback.verify(PAIR, "i<d", "k").to_xml()
        self.assertEqual(written, b"<db:verify from='ours.example' to='peer.example' id='i&lt;d'>k</db:verify>")

    def test_read(self) -> None:
        """A request is read with any white space around its key."""
        read = Request.read(element("verify", "\n  k\n", from_="Peer.example", to="ours.example", id="7"))
        self.assertEqual((read.name, read.pair, read.key, read.stream_id), ("verify", PAIR, "k", "7"))
        self.assertEqual(Request.read(element("result", "k", from_="peer.example", to="ours.example")).stream_id, "")

    def test_malformed(self) -> None:
        """Requests without addresses, key or id are refused."""
        self.refused(StreamCondition.IMPROPER_ADDRESSING, element("result", "k", to="ours.example"))
        self.refused(StreamCondition.IMPROPER_ADDRESSING, element("result", "k", from_="peer.example", to="romeo@ours.example"))
        self.refused(StreamCondition.BAD_FORMAT, element("result", " ", from_="peer.example", to="ours.example"))
        self.refused(StreamCondition.BAD_FORMAT, element("verify", "k", from_="peer.example", to="ours.example"))
        self.refused(StreamCondition.BAD_FORMAT, element("verify", "k", from_="peer.example", to="ours.example", id=""))

    def test_unsolicited(self) -> None:
        """R27: an answer is not a request."""
        for type in ("valid", "invalid", "error", ""):
            self.refused(StreamCondition.INVALID_FROM, element("result", "k", from_="peer.example", to="ours.example", type=type))

    def test_answer(self) -> None:
        """The answer has the swapped addresses, spelled as in the request, and nothing else of it."""
        asked = Request.read(element("verify", "k", from_="PEER.example", to="ours.example.", id="7", other="x"))
        answer = asked.answer(DialbackOutcome("valid")).to_xml()
        self.assertEqual(answer, b"<db:verify from='ours.example.' to='PEER.example' id='7' type='valid'/>")

    def test_error(self) -> None:
        """R28: errors are sent as errors, with the conditions of XEP-0220 §2.5 and without internal details."""
        asked = Request.read(element("result", "k", from_="peer.example", to="ours.example"))
        for ending, condition, type in (
            (Ending(Cause.DNS_UNREACHABLE, "ns1"), "remote-server-timeout", "wait"),
            (Ending(Cause.NO_SUCH_DOMAIN, "ns1"), "remote-server-not-found", "cancel"),
            (Ending(Cause.HOST_UNKNOWN, "ns1"), "item-not-found", "cancel"),
            (Ending(Cause.DIALBACK_INVALID, "ns1"), "forbidden", "auth"),
        ):
            text = dialback_error(condition, ending.account.bounce, type)
            answer = asked.answer(DialbackOutcome("error", ending)).to_xml().decode()
            self.assertEqual(answer, f"<db:result from='ours.example' to='peer.example' type='error'>{text}</db:result>")
        self.assertIn(b"<remote-server-timeout ", asked.answer(DialbackOutcome("error")).to_xml())

    def test_error_text(self) -> None:
        """The answer to a request that cannot be served gives the reason."""
        asked = Request.read(element("result", "k", from_="peer.example", to="ours.example"))
        answer = asked.error(StanzaCondition.ITEM_NOT_FOUND, "no & no")
        self.assertIn(b">no &amp; no</text>", answer.to_xml())


class OutcomeTests(SynchronousTestCase):
    """Tests of received answers."""

    def test_plain(self) -> None:
        """The types are "valid" and "invalid"."""
        self.assertEqual(dialback.outcome(element("result", type="valid")), DialbackOutcome("valid"))
        invalid = dialback.outcome(element("result", type="invalid"))
        assert invalid.ending is not None
        self.assertEqual((invalid.type, invalid.ending.cause, invalid.ending.by), ("invalid", Cause.DIALBACK_INVALID, "them"))

    def test_unknown(self) -> None:
        """An element with another type, or none, is not an answer."""
        for attributes in ({}, {"type": "VALID"}, {"type": ""}):
            fault = self.assertRaises(RemoteFault, dialback.outcome, element("result", **attributes))
            self.assertEqual(fault.condition, StreamCondition.BAD_FORMAT)

    def error(self, *children: Element) -> Ending:
        told = dialback.outcome(Element("result", DIALBACK, {"type": "error"}, list(children)))
        self.assertEqual(told.type, "error")
        assert told.ending is not None
        self.assertEqual(told.ending.by, "them")
        return told.ending

    def test_error(self) -> None:
        """An error's condition and text are recorded. The condition item-not-found means that the domain is not served."""
        condition = Element("remote-connection-failed", STANZA_ERRORS)
        text = Element("text", STANZA_ERRORS, text="x" * 5000)
        ending = self.error(Element("error", SERVER, children=[Element("x", SERVER), text, condition]))
        self.assertEqual(ending.cause, Cause.DIALBACK_ERROR)
        self.assertTrue(ending.detail.startswith("remote-connection-failed: xxx"))
        self.assertEqual(len(ending.detail), 500)
        ending = self.error(Element("error", SERVER, children=[Element("item-not-found", STANZA_ERRORS)]))
        self.assertEqual((ending.cause, ending.detail), (Cause.HOST_UNKNOWN, "item-not-found"))

    def test_empty_error(self) -> None:
        """An empty error is an error."""
        self.assertEqual(self.error().detail, "undefined-condition")
        self.assertEqual(self.error(Element("error", SERVER)).detail, "undefined-condition")

    def test_addresses(self) -> None:
        """The addresses of any dialback element are domains."""
        self.assertEqual(dialback.addresses(element("result", from_="ours.example", to="peer.example")), Pair(OURS, PEER))
