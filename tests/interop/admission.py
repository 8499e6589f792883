"""Rules for a raw peer that follows the standards: names that prove it, STARTTLS, and the rules after it."""

from __future__ import annotations

import ssl
import time

from OpenSSL import SSL

from tests.lab.certificates import Certificate, Names
from tests.lab.guests import Door, door, visit
from tests.lab.peer import (
    STARTTLS,
    STREAMS,
    TLS,
    PeerError,
    Stream,
    client_context,
    federate,
    header,
    mechanisms,
    offers_starttls,
)
from tests.lab.scenario import Failed, Stage, check, expect, step
from tests.lab.world import INSIDE

stage = Stage("rules for a raw peer", door)
FRIEND = "friend.example"


@visit(stage, "each kind of name proves a peer by itself: xmppAddr, SRV-ID, dNSName, left-most wildcard")
def _names(at: Door) -> None:
    for domain, names in (
        ("xaddr.example", Names(xmpp=("xaddr.example",))), ("srvid.example", Names(srv=("srvid.example",))),
        ("dns.example", Names(dns=("dns.example",))), ("sub.wild.example", Names(dns=("*.wild.example",))),
    ):
        at.greets(domain, at.certificate(domain, names))


@visit(stage, "an RSA certificate proves a peer too")
def _rsa(at: Door) -> None:
    at.greets(FRIEND, at.made.authority.issue(Names(dns=(FRIEND,)), bits=2048))


@visit(stage, "before TLS STARTTLS is required and the only feature, after TLS it is not offered; a new stream has a new id")
def _starttls(at: Door) -> None:
    stream = Stream.dial(at.port)
    features = stream.open(INSIDE, FRIEND)
    expect([child.tag for child in features], [f"{TLS}starttls"], "features before TLS")
    check(features.find(f"{TLS}starttls/{TLS}required") is not None, "<required/> is missing")
    first = stream.header
    for name, wanted in (("from", INSIDE), ("to", FRIEND), ("version", "1.0")):
        expect(first.get(name), wanted, f"{name} of the header")
    stream.starttls(client_context(at.certificate(FRIEND)), INSIDE)
    features = stream.open(INSIDE, FRIEND)
    check(not offers_starttls(features), "STARTTLS is offered again")
    expect(mechanisms(features), ["EXTERNAL"], "mechanisms")
    check(stream.header["id"] != first["id"], "the stream id is the old one")
    check(len(stream.header["id"]) >= 16, "the stream id is short")
    stream.close()


@visit(stage, "the authorization identity may be empty")
def _empty_identity(at: Door) -> None:
    stream, _ = federate(at.port, INSIDE, FRIEND, at.certificate(FRIEND))
    expect(stream.external(None).tag.rpartition("}")[2], "success", "EXTERNAL with =")
    stream.close()


def _injected(at: Door, extra: bytes) -> None:
    stream = Stream.dial(at.port)
    stream.open(INSIDE, FRIEND)
    stream.send(STARTTLS + extra)
    condition, _ = stream.end()
    check(f"{TLS}proceed".rpartition("}")[2].encode() not in stream.heard, "<proceed/> was sent")
    step(f"{len(extra)} bytes after <starttls/>: ended ({condition or 'no stream error'})")


@visit(stage, "bytes after <starttls/> in the same segment end the stream")
def _injection(at: Door) -> None:
    _injected(at, at.message(FRIEND, "injected").encode())
    _injected(at, header(INSIDE, FRIEND))
    _injected(at, b"\x16\x03\x01")
    at.nothing_arrived("injected")


@visit(stage, "a malformed STARTTLS is answered with <failure/> and the end of the stream (R7)")
def _malformed(at: Door) -> None:
    stream = Stream.dial(at.port)
    stream.open(INSIDE, FRIEND)
    stream.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><nonsense/></starttls>")
    stream.expect(f"{TLS}failure")
    stream.end()
    check(stream.closed, "no </stream:stream>")


@visit(stage, "a `from` changed after TLS is judged again")
def _changed(at: Door) -> None:
    for certified, proven in (("after.example", True), ("before.example", False)):
        stream = Stream.dial(at.port)
        stream.open(INSIDE, "before.example")
        stream.starttls(client_context(at.certificate(certified)), INSIDE)
        stream.send(header(INSIDE, "after.example"))
        element = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
        expect("EXTERNAL" in mechanisms(element), proven, f"EXTERNAL for after.example with a certificate for {certified}")
        if proven:
            stream.external("after.example")
            stream.open(INSIDE, "after.example")
            stream.send(at.message("after.example", "judged afresh"))
            at.delivered("judged afresh")
            stream.send(at.message("before.example", "never proven"))
            expect(stream.end()[0], "invalid-from", "a stanza of the name before TLS")
        stream.close()
    at.nothing_arrived("never proven")


@visit(stage, "no stanza passes before authentication")
def _unauthenticated(at: Door) -> None:
    stream, _ = federate(at.port, INSIDE, FRIEND, at.certificate(FRIEND))
    stream.send(at.message(FRIEND, "too early"))
    condition, _ = stream.end()
    check(condition in ("invalid-from", "not-authorized"), f"condition {condition!r}")
    plain = Stream.dial(at.port)
    plain.open(INSIDE, FRIEND)
    plain.send(at.message(FRIEND, "too early"))
    step(f"after TLS: {condition}; before TLS: {plain.end()[0] or 'closed'}")
    at.nothing_arrived("too early")


#: title, data sent on an authenticated stream, the condition that ends it
_ENDINGS = (
    ("another `from`", "<message from='a@other.example' to='{to}'><body>wrong-{n}</body></message>", "invalid-from"),
    ("a stanza without `from`", "<message to='{to}'><body>wrong-{n}</body></message>", "improper-addressing"),
    ("a stanza without `to`", "<message from='a@friend.example'><body>wrong-{n}</body></message>", "improper-addressing"),
    ("a stanza to a domain not served", "<message from='a@friend.example' to='b@elsewhere.example'/>", "host-unknown"),
    ("a `to` that is not a JID", "<message from='a@friend.example' to='@@'><body>wrong-{n}</body></message>", "improper-addressing"),
    ("a comment", "<message from='a@friend.example' to='{to}'><!-- x --><body>wrong-{n}</body></message>", "restricted-xml"),
    ("a processing instruction", "<?x y?>", "restricted-xml"),
    ("an entity", "<message from='a@friend.example' to='{to}'><body>&wrong;</body></message>", "restricted-xml"),
    ("a document type", "<!DOCTYPE x [<!ENTITY a 'b'>]>", "restricted-xml"),
    ("an unknown top-level element", "<thing xmlns='urn:example:thing'/>", "unsupported-stanza-type"),
    ("jabber:client", "<message xmlns='jabber:client' from='a@friend.example' to='{to}'/>", "unsupported-stanza-type"),
    ("a prefixed stanza", "<x:message xmlns:x='jabber:server' from='a@friend.example' to='{to}'/>", "bad-namespace-prefix"),
    ("a prefixed from", "<message xmlns:x='urn:x' x:from='a@o.example' from='a@friend.example' to='{to}'/>", "bad-format"),
    ("text between stanzas", "hello", "bad-format"),
    ("an unbound prefix", "<message from='a@friend.example' to='{to}'><x:y/></message>", "not-well-formed"),
    ("tags that do not match", "<message from='a@friend.example' to='{to}'></iq>", "not-well-formed"),
)


def _ends_with(at: Door, sent: str | bytes, wanted: str, what: str) -> None:
    stream = at.enter(FRIEND)
    try:
        stream.send(sent)
    except OSError:
        step(f"{what}: closed while still sending")
    condition, text = stream.end()
    allowed = (wanted, "invalid-namespace") if "jabber:client" in what else (wanted,)
    check(condition in allowed, f"{what}: <{condition}/> ({text}), expected <{wanted}/>")
    step(f"{what}: {condition}, {text!r}")


@visit(stage, "errors that end an authenticated stream, and their conditions")
def _endings(at: Door) -> None:
    wrong = []
    for number, (what, sent, wanted) in enumerate(_ENDINGS):
        try:
            _ends_with(at, sent.replace("{to}", at.juliet).replace("{n}", str(number)), wanted, what)
        except (Failed, PeerError) as problem:
            wrong.append(str(problem))
            step(f"WRONG {problem}")
    check(not wrong, "; ".join(wrong))
    at.nothing_arrived("wrong-")


@visit(stage, "complete stanzas before the error are delivered")
def _before_fault(at: Door) -> None:
    stream = at.enter(FRIEND)
    stream.send(at.message(FRIEND, "just before the fault") + "<!-- x -->")
    expect(stream.end()[0], "restricted-xml", "error")
    at.delivered("just before the fault")


@visit(stage, "a stanza above the limit: <policy-violation/>; one of 200,000 bytes passes")
def _too_large(at: Door) -> None:
    stream = at.enter(FRIEND)
    text = "large " + "x" * 200_000
    stream.send(at.message(FRIEND, text))
    at.delivered(text)
    stream.close()
    _ends_with(at, at.message(FRIEND, "y" * 600_000), "policy-violation", "600,000 bytes")
    at.nothing_arrived("y" * 1000)


@visit(stage, "before authentication the limit is lower: <policy-violation/>")
def _early_flood(at: Door) -> None:
    stream = Stream.dial(at.port)
    stream.open(INSIDE, FRIEND)
    try:
        stream.send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls' a='" + b"x" * 300_000)
    except OSError:
        step("closed while still sending")
    condition, _ = stream.end()
    check(condition in ("policy-violation", ""), f"condition {condition!r}")


def _tls12(at: Door, certificate: Certificate) -> tuple[Stream, SSL.Connection]:
    stream = Stream.dial(at.port)
    stream.open(INSIDE, FRIEND)
    stream.send(STARTTLS)
    stream.expect(f"{TLS}proceed")
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate_chain_file(str(certificate.chain))
    context.use_privatekey_file(str(certificate.key))
    stream.raw.settimeout(None)
    secured = SSL.Connection(context, stream.raw)
    secured.set_connect_state()
    secured.set_tlsext_host_name(INSIDE.encode())
    secured.do_handshake()
    return stream, secured


@visit(stage, "renegotiation closes the connection at once, with no stream error (R10)")
def _renegotiation(at: Door) -> None:
    stream, secured = _tls12(at, at.certificate(FRIEND))
    secured.send(header(INSIDE, FRIEND))
    heard = b""
    while b"</stream:features>" not in heard:
        heard += secured.recv(65536)
    check(secured.renegotiate(), "the lab cannot renegotiate")
    start, after = time.monotonic(), b""
    try:
        secured.do_handshake()
        secured.send(b" ")
        while data := secured.recv(65536):
            after += data
        raise Failed(f"closed normally, received {after!r}" if after else "the handshake was accepted")
    except (SSL.SysCallError, SSL.ZeroReturnError, SSL.Error) as problem:
        seconds = time.monotonic() - start
        check(seconds < 2.0, f"closed only after {seconds:.1f} s")
        check(b"error" not in after, f"a stream error was received: {after!r}")
        step(f"closed after {seconds * 1000:.0f} ms: {problem!r}")
    stream.close()


def _visit_with(at: Door, context: ssl.SSLContext, session: object) -> Stream:
    stream = Stream.dial(at.port)
    stream.open(INSIDE, FRIEND)
    stream.send(STARTTLS)
    stream.expect(f"{TLS}proceed")
    stream.secure(context, INSIDE, session)
    expect(mechanisms(stream.open(INSIDE, FRIEND)), ["EXTERNAL"], "mechanisms")
    return stream


@visit(stage, "no TLS session is resumed: each handshake presents its whole chain (R11)")
def _resumption(at: Door) -> None:
    for maximum in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context(at.certificate(FRIEND), maximum=maximum)
        first = _visit_with(at, context, None)
        again = _visit_with(at, context, first.session)
        check(not again.reused, f"{maximum.name}: the session was resumed")
        for stream in (first, again):
            stream.close()


@visit(stage, "direct TLS with ALPN xmpp-server (XEP-0368)")
def _direct(at: Door) -> None:
    context = client_context(at.certificate(FRIEND))
    context.set_alpn_protocols(["xmpp-server"])
    stream = Stream.dial(at.made.gateway.direct)
    stream.secure(context, INSIDE)
    expect(stream.raw.selected_alpn_protocol(), "xmpp-server", "ALPN")  # type: ignore[attr-defined]
    expect(mechanisms(stream.open(INSIDE, FRIEND)), ["EXTERNAL"], "mechanisms")
    expect(stream.external(FRIEND).tag.rpartition("}")[2], "success", "EXTERNAL")
    stream.open(INSIDE, FRIEND)
    stream.send(at.message(FRIEND, "over direct TLS"))
    at.delivered("over direct TLS")
    stream.close()


@visit(stage, "direct TLS, byte by byte")
def _bytewise(at: Door) -> None:
    stream = at.enter(FRIEND)
    for byte in at.message(FRIEND, "one byte at a time").encode():
        stream.send(bytes([byte]))
    at.delivered("one byte at a time")
    stream.close()
