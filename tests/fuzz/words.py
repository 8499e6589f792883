"""Parts of streams: random bytes alone would never pass the first angle bracket."""

from __future__ import annotations

from tests.support.transcripts import (
    CLOSE,
    ERRORS_FEATURE,
    EXTERNAL_FEATURE,
    HEAD,
    LIMITS_FEATURE,
    PROCEED,
    SASL,
    STARTTLS,
    STARTTLS_REQUIRED,
    SUCCESS,
    TLS_FAILURE,
    auth,
    dialback_error,
    error,
    features,
    header,
    message,
    result,
    sasl_failure,
    verify,
)

MANAGEMENT = "xmlns='urn:xmpp:sm:3'"

#: Fragments of XML, well formed or not.
FRAGMENTS = (*map(str.encode, (
    "<", ">", "/>", "</", "<message", "<presence", "<iq", "</message>", "</presence>", "</iq>", "<body>", "</body>", " to='a@b.example'",
    " from='c@d.example/e'", " id='1'", " type='get'", " xmlns='urn:x'", " xmlns:p='urn:p'", " xmlns='jabber:server'", " xmlns:stream='urn:s'",
    "<p:q/>", "<p:q>", "</p:q>", " p:r='s'", " xml:lang='de'", " xml:space='preserve'", "text", "&amp;", "&lt;", "&#xD;", "&#0;", "&#x1F600;",
    "&evil;", "<![CDATA[", "]]>", "<!--", "-->", "<?pi ?>", "<?xml version='1.0'?>", "<!DOCTYPE x [", "<!ENTITY a 'b'>", "<db:result>",
    "</db:result>", "<stream:features/>", CLOSE, " ", "\n", "\t", "=", "'", '"', ":", "\u2028", "ü", "\U0001f600", "x" * 70, "<x>" * 20, "</x>" * 20,
)), b"\0", b"\xff", b"\xc3", b"\xa9", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xfe\xff", b"\xff\xfe<\0")

_DECLARING = HEAD + " xmlns:p='urn:p' xmlns:q='urn:q&amp;' xml:lang='de' from='peer.example' to='ours.example' version='1.0'>"

#: Stream headers: the first four are good and different in all parts, the others may be bad.
HEADERS = tuple(map(str.encode, (
    header(from_="peer.example", to="ours.example"), header(from_="ours.example", to="peer.example", id="s7"), header(to="ours.example"), _DECLARING,
    header(from_="other.example", to="rooms.ours.example"), header(from_="peer.example", to="ours.example", version=None),
    header(from_="xn--fa-hia.example", to="ours.example"), header(from_="faß.example", to="ours.example"), HEAD + ">",
    header(from_="peer.example", to="ours.example").replace("jabber:server'", "jabber:client'", 1),
)))

#: Whole elements of negotiation, and stanzas, of the domains in `tests.support.transcripts` and of others.
ELEMENTS = tuple(map(str.encode, (
    STARTTLS, PROCEED, TLS_FAILURE, SUCCESS, CLOSE, auth(), auth("cGVlci5leGFtcGxl"), auth("!"), auth(mechanism="SCRAM-SHA-256"), auth("=", "PLAIN"),
    f"<response {SASL}>=</response>", f"<abort {SASL}/>", f"<challenge {SASL}>cj14LHM9eA==</challenge>", sasl_failure("not-authorized", "no"),
    features(), features(STARTTLS_REQUIRED), features(EXTERNAL_FEATURE), features(ERRORS_FEATURE, LIMITS_FEATURE),
    features(EXTERNAL_FEATURE, ERRORS_FEATURE, f"<sm {MANAGEMENT}/>", "<bidi xmlns='urn:xmpp:features:bidi'/>"),
    result("peer.example", "ours.example", "key"), result("peer.example", "rooms.ours.example", "key"), result("other.example", "ours.example", "k"),
    result("ours.example", "peer.example", type="valid"), result("peer.example", "ours.example", type="valid"),
    result("peer.example", "ours.example", type="invalid"), result("peer.example", "nobody.example", "key"),
    result("peer.example", "ours.example", dialback_error("item-not-found", "who?"), type="error"),
    verify("peer.example", "ours.example", "s1", "key"), verify("peer.example", "ours.example", "s1", type="valid"),
    verify("peer.example", "ours.example", "s1", type="invalid"), "<bidi xmlns='urn:xmpp:bidi'/>",
    f"<enable {MANAGEMENT} resume='true'/>", f"<enabled {MANAGEMENT} id='x' resume='true' max='600'/>", f"<r {MANAGEMENT}/>",
    f"<a {MANAGEMENT} h='0'/>", f"<a {MANAGEMENT} h='1'/>", f"<a {MANAGEMENT} h='4294967296'/>", f"<resume {MANAGEMENT} previd='x' h='0'/>",
    f"<resumed {MANAGEMENT} previd='x' h='1'/>", f"<failed {MANAGEMENT} h='1'/>",
    message(), message("juliet@peer.example", "romeo@rooms.ours.example"), message("mercutio@other.example"), message("x@faß.example"),
    message("romeo@ours.example", "juliet@peer.example"), "<iq type='get' id='1' from='peer.example' to='ours.example'><ping xmlns='urn:xmpp:ping'/></iq>",
    "<iq type='result' id='1' from='ours.example' to='peer.example'/>", "<presence from='juliet@peer.example/b' to='romeo@ours.example'/>",
    "<message from='juliet@peer.example' to='romeo@ours.example'><p:x q:y='z'><q:w/></p:x><db:v/></message>",
    "<presence xml:lang='fr' xmlns:p='urn:other' from='juliet@peer.example' to='romeo@ours.example'><p:x/>&lt;&#x20;</presence>",
    "<message from='juliet@peer.example'/>", "<p:message xmlns:p='jabber:server' from='a@peer.example' to='b@ours.example'/>",
    error("policy-violation", "no"), error("see-other-host", "there"), " ", "text",
)))
