"""Tests of the stream with jabberd2's router: both sides' elements, and the stanzas."""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.events import Announced, Bound, Ended, Event, Refusal, Routed, StanzasReceived
from s2sgw.stream.jabberd2_router import RouterOptions, RouterStream, wrapped
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, StreamCondition
from s2sgw.xmpp.jid import Domain

COMPONENT = "xmlns='http://jabberd.jabberstudio.org/ns/component/1.0'"
SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
HEAD = "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"
ANSWER = HEAD + " id='1'>"
FEATURES = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>{}</stream:features>"
OFFER = FEATURES.format(f"<mechanisms {SASL}><mechanism>DIGEST-MD5</mechanism></mechanisms>")
CHALLENGE = b'realm="jabberd-router", nonce="bb963H52Dqlm0sfj40OEnA==", qop="auth", charset=utf-8, algorithm=md5-sess'
#: the answer of jabberd2 2.7.0 to user "jabberd", secret "secret", nonce "abcdef" at 127.0.0.1
PROOF = b"rspauth=ce348ce2bf2a9842e29d9b59384af284"
RESPONSE = "d62735237e3ea3ed7cac5d36fd43b92a"
BOUND = f"<bind {COMPONENT}><default></default></bind>"
IQ = "<iq xmlns='jabber:client' type='get' id='1' from='a@in.example/x' to='b@out.example'><q xmlns='urn:q'/></iq>"


def encoded(tag: str, data: bytes) -> str:
    return f"<{tag} {SASL}>{base64.b64encode(data).decode()}</{tag}>"


def route(inside: str, to: str = "out.example", more: str = "") -> str:
    return f"<route {COMPONENT} to='{to}' from='sm'{more}>{inside}</route>"


class ComponentTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stream = RouterStream(RouterOptions("127.0.0.1", "jabberd", "secret", lambda: "abcdef"))
        self.events: list[Event] = []

    def hear(self, *texts: str, bytewise: bool = False) -> str:
        for text in texts:
            data = text.encode()
            for piece in [data[at:at + 1] for at in range(len(data))] if bytewise else [data]:
                self.events += self.stream.receive(piece)
        return self.stream.data_to_send().decode()

    def bind(self, bytewise: bool = False) -> None:
        self.stream.begin()
        self.hear(ANSWER, OFFER, encoded("challenge", CHALLENGE), encoded("success", PROOF), ANSWER, FEATURES.format(""), BOUND, bytewise=bytewise)
        self.assertEqual([Bound(True)], self.events)
        self.events.clear()

    def ending(self) -> Ending:
        [ended] = [each for each in self.events if isinstance(each, Ended)]
        return ended.ending


class BindingTests(ComponentTestCase):
    """Tests of the time until we are the default route."""

    def test_conversation(self) -> None:
        """The conversation is the one recorded with jabberd2 2.7.0: no default namespace, proof of the secret on both sides, then the default route."""
        self.stream.begin()
        self.assertEqual(HEAD + ">", self.stream.data_to_send().decode())
        self.assertEqual(f"<auth {SASL} mechanism='DIGEST-MD5'/>", self.hear(ANSWER, OFFER))
        answer = self.hear(encoded("challenge", CHALLENGE))
        self.assertIn(RESPONSE.encode(), base64.b64decode(answer.partition(">")[2].partition("<")[0]))
        self.assertEqual(HEAD + ">", self.hear(encoded("success", PROOF)))
        self.assertEqual(f"<bind {COMPONENT} name='s2s'><default/></bind>", self.hear(ANSWER, FEATURES.format("")))
        self.assertFalse(self.stream.hears)
        self.hear(BOUND)
        self.assertEqual([Bound(True)], self.events)
        self.assertTrue(self.stream.hears)

    def test_early_proof(self) -> None:
        """The proof may come as a separate challenge. The result is the same byte by byte."""
        self.stream.begin()
        self.hear(ANSWER, OFFER, encoded("challenge", CHALLENGE))
        self.assertEqual(f"<response {SASL}/>", self.hear(encoded("challenge", PROOF)))
        self.assertEqual(HEAD + ">", self.hear(f"<success {SASL}/>", bytewise=True))

    def test_refusals(self) -> None:
        """Each failure is explained in words for the operator."""
        proven = [ANSWER, OFFER, encoded("challenge", CHALLENGE), encoded("success", PROOF), ANSWER, FEATURES.format("")]
        for texts, cause, words in (
            ([ANSWER, FEATURES.format("")], Cause.NO_COMMON_METHOD, "DIGEST-MD5"),
            ([ANSWER, OFFER, f"<failure {SASL}><not-authorized/></failure>"], Cause.SASL_FAILED, "router-users.xml"),
            ([ANSWER, OFFER, encoded("challenge", b"nonsense")], Cause.SASL_FAILED, "RFC 2831"),
            ([ANSWER, OFFER, encoded("challenge", CHALLENGE), encoded("success", b"rspauth=0")], Cause.SASL_FAILED, "prove"),
            ([*proven, f"<bind {COMPONENT} error='403'/>"], Cause.SASL_FAILED, "default-route"),
            ([*proven, f"<bind {COMPONENT} error='409'/>"], Cause.SASL_FAILED, "must not run"),
            ([*proven, f"<bind {COMPONENT} error='7'/>"], Cause.SASL_FAILED, "error 7"),
        ):
            self.setUp()
            self.stream.begin()
            self.hear(*texts)
            self.assertEqual(cause, self.ending().cause)
            self.assertIn(words, self.ending().detail)

    def test_unexpected(self) -> None:
        """Any element out of order ends the stream."""
        for text in (encoded("challenge", b"x"), encoded("success", b"x"), f"<failure {SASL}/>", BOUND, f"<unbind {COMPONENT}/>",
                     f"<presence {COMPONENT} from='x'/>", "<x xmlns='urn:x'/>", route(IQ)):
            self.setUp()
            self.stream.begin()
            self.hear(ANSWER, text)
            self.assertEqual(Cause.PROTOCOL_ERROR, self.ending().cause)
        self.setUp()
        self.stream.begin()
        self.hear(ANSWER, OFFER, OFFER)
        self.assertEqual(Cause.PROTOCOL_ERROR, self.ending().cause)
        self.assertEqual([], self.stream.unbind())

    def test_our_own_mistakes(self) -> None:
        """A stream begins once. Before that nothing is sent."""
        self.assertEqual([Ended(Ending(Cause.SHUTDOWN))], self.stream.close(Ending(Cause.SHUTDOWN)))
        self.assertEqual(b"", self.stream.data_to_send())
        self.setUp()
        self.stream.begin()
        self.assertRaises(LocalFault, self.stream.begin)

    def test_no_stream(self) -> None:
        """If the other side does not send a stream, the error is sent inside one."""
        self.stream.begin()
        self.hear("<html>")
        self.assertEqual(Cause.PROTOCOL_ERROR, self.ending().cause)


class UnopenedTests(ComponentTestCase):
    """Tests of the time before our header is sent."""

    def test_ends_without_an_error(self) -> None:
        """R15: a stream that has not begun ends without an error: its header is the one that every stream begins with."""
        self.events += self.stream.fail(Refusal(StreamCondition.POLICY_VIOLATION, "no", Ending(Cause.NOT_ALLOWED)))
        self.assertEqual("", self.hear())
        self.assertEqual([Ended(Ending(Cause.NOT_ALLOWED))], self.events)
        begun, anyhow = (RouterStream(RouterOptions("127.0.0.1", "jabberd", "secret", lambda: "abcdef")) for _ in range(2))
        begun.begin()
        anyhow.open_anyhow()
        self.assertEqual(begun.data_to_send(), anyhow.data_to_send())


class CarryingTests(ComponentTestCase):
    """Tests of stanzas on the default route."""

    def setUp(self) -> None:
        super().setUp()
        self.bind()

    def runs(self) -> list[tuple[str, list[str]]]:
        return [(str(each.pair), [stanza.data.decode() for stanza in each.stanzas]) for each in self.events if isinstance(each, StanzasReceived)]

    def test_stanzas(self) -> None:
        """A run of one pair is one event. Each stanza has the namespace jabber:server and is otherwise unchanged, byte by byte."""
        expected = "<iq type='get' id='1' from='a@in.example/x' to='b@out.example'><q xmlns='urn:q'/></iq>"
        self.hear(route(IQ) + route(IQ) + route(IQ.replace("b@out", "c@other")))
        self.assertEqual([("in.example -> out.example", [expected] * 2), ("in.example -> other.example", [expected.replace("b@out", "c@other")])], self.runs())
        stanza = next(each.stanzas[0] for each in self.events if isinstance(each, StanzasReceived))
        self.assertEqual(("iq", "get", "1", ("urn:q}q",)), (stanza.kind, stanza.type, stanza.id, stanza.payloads))
        self.events.clear()
        self.hear(route(IQ), bytewise=True)
        self.assertEqual([("in.example -> out.example", [expected])], self.runs())

    def test_passed_over(self) -> None:
        """Broadcasts, log copies, messages for ourselves, non-stanzas and unknown elements are not forwarded, as in jabberd2's s2s."""
        self.hear(
            route(IQ, more=" type='broadcast'"), route(IQ, more=" type='log'"), route(IQ, to="s2s"), route("<session xmlns='urn:s'/>"),
            route(""), route("<ping xmlns='urn:xmpp:ping'/>", to="s2s"), f"<throttle {COMPONENT}/>", f"<presence {COMPONENT}/>", " ",
        )
        self.assertEqual([], self.events)

    def test_returned(self) -> None:
        """A stanza of ours that comes back has its number. One without valid addresses has none."""
        self.hear(route(IQ, more=" error='404'"), route(IQ.replace("b@out.example", "@@")))
        self.assertEqual(["404", None], [each.error for each in self.events if isinstance(each, Routed)])

    def test_announcements(self) -> None:
        """The components that begin or cease to serve a domain are reported."""
        self.hear(f"<presence {COMPONENT} from='in.example'/><presence {COMPONENT} from='in.example' type='unavailable'/>")
        self.assertEqual([Announced("in.example", True), Announced("in.example", False)], self.events)

    def test_unbound(self) -> None:
        """The route is requested once. Elements that arrive before the answer are still processed."""
        self.stream.unbind()
        self.stream.unbind()
        self.assertEqual(f"<unbind {COMPONENT} name='s2s'/>", self.stream.data_to_send().decode())
        self.hear(route(IQ) + f"<unbind {COMPONENT}/>")
        self.assertEqual([1], [len(each.stanzas) for each in self.events if isinstance(each, StanzasReceived)])
        self.assertEqual(Bound(False), self.events[-1])

    def test_the_end(self) -> None:
        """The router's closing tag and its error end the stream."""
        self.hear("</stream:stream>")
        self.assertEqual((Cause.CLOSED, "them"), (self.ending().cause, self.ending().by))
        self.assertEqual([], self.stream.handled(1))
        self.stream.rest()

    def test_wrapped(self) -> None:
        """R29: a route has the domains of the pair, whatever the stanza says. The content of a stanza stays inside it."""
        data = wrapped(Domain.parse("in.example"), [b"<message to='x@y'><body>&lt;/route></body></message>"])
        self.assertEqual(
            f"<route {COMPONENT} to='in.example' from='s2s'><message xmlns='jabber:client' to='x@y'><body>&lt;/route></body></message></route>", data.decode(),
        )
