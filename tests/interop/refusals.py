"""Peers that are refused, the error of each, and that none of their stanzas reaches the existing server (R2, R8, R14, R17)."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.lab.certificates import CLIENT, EMAIL, SERVER, Certificate, Names
from tests.lab.guests import BROKEN, NOWHERE, SILENT, Door, door, visit
from tests.lab.peer import STREAMS, Stream, client_context, federate, header, mechanisms, stream_error
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.world import INSIDE

stage = Stage("refused peers", door)


def no_proof(at: Door, domain: str, certificate: Certificate | None) -> str:
    """Connect as a peer whose certificate proves nothing. It gets <policy-violation/> instead of features. Return the error's text."""
    stream = Stream.dial(at.port)
    stream.open(INSIDE, domain)
    stream.starttls(client_context(certificate), INSIDE)
    stream.send(_header(domain))
    element = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
    check(element.tag == f"{STREAMS}error", f"offered {mechanisms(element)}: {ET.tostring(element, 'unicode')}")
    condition, text = stream_error(element)
    expect(condition, "policy-violation", f"error for {domain}")
    stream.end()
    at.nothing_arrived(domain)
    step(f"{domain}: policy-violation, {text!r}")
    return text


def _header(domain: str, to: str = INSIDE) -> bytes:
    return header(to, domain)


@visit(stage, "an untrusted certificate")
def _untrusted(at: Door) -> None:
    no_proof(at, "untrusted.example", at.stranger.issue(Names(dns=("untrusted.example",))))


@visit(stage, "a self-signed certificate")
def _self_signed(at: Door) -> None:
    no_proof(at, "selfish.example", at.stranger.self_signed("selfish.example"))


@visit(stage, "no certificate at all")
def _none(at: Door) -> None:
    no_proof(at, "other.example", None)


@visit(stage, "a certificate with another name")
def _mismatch(at: Door) -> None:
    no_proof(at, "mismatch.example", at.certificate("friend.example"))


@visit(stage, "a bare common name")
def _common_name(at: Door) -> None:
    no_proof(at, "commonname.example", at.certificate("", Names(common="commonname.example")))


@visit(stage, "an expired certificate")
def _expired(at: Door) -> None:
    no_proof(at, "expired.example", at.made.authority.issue(Names(dns=("expired.example",)), days=-1))


@visit(stage, "a wildcard does not cover the name itself, nor two labels")
def _wildcard(at: Door) -> None:
    no_proof(at, "wild.example", at.certificate("", Names(dns=("*.wild.example",))))
    no_proof(at, "sub.wild.example", at.certificate("", Names(dns=("*.example",))))


@visit(stage, "an extended key usage that is not for servers")
def _usage(at: Door) -> None:
    no_proof(at, "email-only.example", at.made.authority.issue(Names(dns=("email-only.example",)), usages=(EMAIL,)))
    at.greets("server-only.example", at.made.authority.issue(Names(dns=("server-only.example",)), usages=(SERVER,)))
    at.greets("client-only.example", at.made.authority.issue(Names(dns=("client-only.example",)), usages=(CLIENT,)))


def _unresolved(at: Door, domain: str) -> str:
    stream = Stream.dial(at.port)
    stream.send(_header(domain))
    element = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
    if element.tag == f"{STREAMS}features":
        stream.send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        element = stream.expect(f"{STREAMS}error", seconds=20.0)
    condition, text = stream_error(element)
    expect(condition, "remote-connection-failed", f"error for {domain}")
    stream.end()
    at.nothing_arrived(domain)
    step(f"{domain}: {condition}, {text!r}")
    return text


@visit(stage, "a hostname that does not resolve: does not exist, and look-up failed (SERVFAIL, no answer)")
def _nowhere(at: Door) -> None:
    final = _unresolved(at, NOWHERE)
    for domain in (BROKEN, SILENT):
        check(_unresolved(at, domain) != final, f"{domain}: the text is that of a name that does not exist")


@visit(stage, "an unresolved name that appears only after TLS")
def _nowhere_after(at: Door) -> None:
    stream = Stream.dial(at.port)
    stream.open(INSIDE, "friend.example")
    stream.starttls(client_context(at.certificate(NOWHERE)), INSIDE)
    stream.send(_header(NOWHERE))
    expect(stream.end(20.0)[0], "remote-connection-failed", "error")
    at.nothing_arrived(NOWHERE)


def _closed_with(at: Door, to: str | None, domain: str | None, wanted: str) -> None:
    stream = Stream.dial(at.port)
    stream.send(header(to, domain))
    condition, text = stream.end()
    expect(condition, wanted, f"to={to!r} from={domain!r}")
    check(stream.header and stream.closed, "the error did not come inside a whole stream (R15)")
    step(f"to={to!r} from={domain!r}: {condition}, {text!r}")


@visit(stage, "a domain that is not served: <host-unknown/>, before and after TLS")
def _not_ours(at: Door) -> None:
    _closed_with(at, "stranger.example", "friend.example", "host-unknown")
    stream = Stream.dial(at.port)
    stream.open(INSIDE, "friend.example")
    stream.starttls(client_context(at.certificate("friend.example")), INSIDE)
    stream.send(_header("friend.example", "stranger.example"))
    expect(stream.end()[0], "host-unknown", "after TLS")
    at.nothing_arrived("stranger.example")


@visit(stage, "an impossible `from`: a local domain, an address, one label: <invalid-from/>")
def _invalid_from(at: Door) -> None:
    for domain in (INSIDE, "192.0.2.7", "localhost"):
        _closed_with(at, INSIDE, domain, "invalid-from")


@visit(stage, "a header without `to`: <improper-addressing/>")
def _no_to(at: Door) -> None:
    _closed_with(at, None, "friend.example", "improper-addressing")


@visit(stage, "a client's header: <invalid-namespace/>")
def _client(at: Door) -> None:
    stream = Stream.dial(at.port)
    stream.send(header(INSIDE, "friend.example", namespace="jabber:client"))
    expect(stream.end()[0], "invalid-namespace", "error")


@visit(stage, "wrong authorization identities: <invalid-authzid/>, <incorrect-encoding/>")
def _authzid(at: Door) -> None:
    for identity, wanted in (("other.example", "invalid-authzid"), ("", "incorrect-encoding")):
        stream, features = federate(at.port, INSIDE, "friend.example", at.certificate("friend.example"))
        expect(mechanisms(features), ["EXTERNAL"], "mechanisms")
        if identity:
            answer = stream.external(identity)
        else:
            stream.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>%%%</auth>")
            answer = stream.expect("{urn:ietf:params:xml:ns:xmpp-sasl}failure")
        expect([child.tag.rpartition("}")[2] for child in answer][:1], [wanted], "SASL failure")
        stream.close()
