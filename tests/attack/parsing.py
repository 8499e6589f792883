"""Data from peers: XML that is too large, too deep, forbidden or ambiguous, before and after a domain is proven."""

from __future__ import annotations

from tests.attack.shared import GUESTS, VICTIM, Case, Cases, no_dial, played, stage
from tests.attack.world import INSIDE, AttackWorld
from tests.lab.scenario import expect


def _message(domain: str, inside: str = "<body>x</body>", attributes: str = "") -> bytes:
    return f"<message from='a@{domain}' to='b@{INSIDE}'{attributes}>{inside}</message>".encode()


def _prefixes(number: int) -> str:
    return "".join(f" xmlns:p{each}='u:{each}'" for each in range(number))


def _header(attributes: str = "", before: str = "") -> bytes:
    return (
        f"<?xml version='1.0'?>{before}<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "
        f"to='{INSIDE}' from='x.{GUESTS}' version='1.0'{attributes}>"
    ).encode()


_LAUGHS = "<!DOCTYPE l [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in zip("abcdefghi", "bcdefghij", strict=True)
) + "]>"
_RESTRICTED, _BROKEN = ("restricted-xml", "not-well-formed"), ("not-well-formed", "invalid-xml", "unsupported-encoding")
_TOO_MUCH = ("policy-violation",)

_FORBIDDEN: Cases = {
    "entities in the header": Case("raw", lambda _: _header(before=_LAUGHS), _RESTRICTED),
    "an external entity": Case("raw", lambda _: _header(before="<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"), _RESTRICTED),
    "a DTD in the stream": Case("proven", lambda _: _LAUGHS.encode(), _RESTRICTED),
    "an entity": Case("proven", lambda domain: _message(domain, "<body>&j;</body>"), _RESTRICTED),
    "a comment": Case("proven", lambda domain: _message(domain, "<!-- x -->"), _RESTRICTED),
    "a processing instruction": Case("proven", lambda domain: _message(domain, "<?php x ?>"), _RESTRICTED),
    "a comment before TLS": Case("header", lambda _: b"<!-- x -->", _RESTRICTED),
}
_LARGE: Cases = {
    "nested 100,000 deep": Case("proven", lambda domain: _message(domain, "<a>" * 100_000), _TOO_MUCH),
    "nested 10,000 deep before a proof": Case("tls", lambda _: b"<a>" * 10_000, (*_TOO_MUCH, "unsupported-stanza-type")),
    "50,000 attributes": Case("proven", lambda domain: _message(domain, attributes="".join(f" a{n}='1'" for n in range(50_000))), _TOO_MUCH),
    "an attribute of 2 MB": Case("proven", lambda domain: _message(domain, attributes=f" a='{'x' * 2_000_000}'"), _TOO_MUCH),
    "an attribute of 100 kB in the header": Case("raw", lambda _: _header(f" a='{'x' * 100_000}'"), _TOO_MUCH),
    "10,000 prefixes in the header": Case("raw", lambda _: _header(_prefixes(10_000)), _TOO_MUCH),
    "20,000 prefixes": Case("proven", lambda domain: _message(domain, f"<a{_prefixes(20_000)}/>"), _TOO_MUCH),
    "a stanza of 2 MB": Case("proven", lambda domain: _message(domain, f"<body>{'x' * 2_000_000}</body>"), _TOO_MUCH),
    "a name of 300 kB": Case("proven", lambda domain: _message(domain, f"<{'x' * 300_000}/>"), _TOO_MUCH),
    "300 kB before a proof": Case("tls", lambda _: b"<a>" + b"x" * 300_000, (*_TOO_MUCH, "unsupported-stanza-type")),
}
_ENCODED: Cases = {
    "UTF-16": Case("raw", lambda _: _header().decode().encode("utf-16"), _BROKEN),
    "another encoding": Case("raw", lambda _: _header().replace(b"'1.0'?", b"'1.0' encoding='iso-8859-1'?"), _BROKEN),
    "XML 1.1": Case("raw", lambda _: _header().replace(b"'1.0'?", b"'1.1'?"), _BROKEN),
    "an overlong slash": Case("proven", lambda domain: _message(domain, "<body>@</body>").replace(b"@", b"\xc0\xaf"), _BROKEN),
    "a surrogate": Case("proven", lambda domain: _message(domain, "<body>@</body>").replace(b"@", b"\xed\xa0\x80"), _BROKEN),
    "a NUL": Case("proven", lambda domain: _message(domain, "<body>@</body>").replace(b"@", b"\0"), _BROKEN),
    "a control character by number": Case("proven", lambda domain: _message(domain, "<body>&#8;</body>"), _BROKEN),
    "an unbound prefix": Case("proven", lambda domain: _message(domain, "<x:y/>"), _BROKEN),
    "half an element": Case("proven", lambda domain: _message(domain, "<a></b>"), _BROKEN),
    "the second of one attribute": Case("proven", lambda domain: _message(domain, attributes=f" to='c@{INSIDE}'"), _BROKEN),
    "text between stanzas": Case("proven", lambda _: b"hello", ("bad-format",)),
}
_SMUGGLED: Cases = {
    "the name of another domain": Case("proven", lambda _: _message(VICTIM), ("invalid-from",)),
    "a domain that is not served": Case("proven", lambda d: f"<message from='a@{d}' to='b@elsewhere.example'/>".encode(), ("host-unknown",)),
    "no sender": Case("proven", lambda _: f"<message to='b@{INSIDE}'/>".encode(), ("improper-addressing",)),
    "no recipient": Case("proven", lambda domain: f"<message from='a@{domain}'/>".encode(), ("improper-addressing",)),
    "a sender in a namespace": Case(
        "proven", lambda domain: _message(domain, attributes=f" xmlns:x='u:x' x:from='a@{VICTIM}'"), ("bad-format",)),
    "a start tag with a prefix": Case(
        "proven", lambda domain: f"<s:message xmlns:s='jabber:server' from='a@{domain}' to='b@{INSIDE}'/>".encode(),
        ("bad-namespace-prefix",)),
    "a sender with a line break": Case(
        "proven", lambda d: f"<message from='a@{d}&#10;from=b@{VICTIM}' to='b@{INSIDE}'/>".encode(), ("improper-addressing", "invalid-from")),
    "a stanza of clients": Case(
        "proven", lambda d: f"<message xmlns='jabber:client' from='a@{d}' to='b@{INSIDE}'/>".encode(),
        ("invalid-namespace", "unsupported-stanza-type")),
    "a stream in the stream": Case("proven", lambda _: _header()[21:] + b"</stream:stream>", ("unsupported-stanza-type",)),
    "an unknown element": Case("proven", lambda _: b"<x xmlns='u:x'/>", ("unsupported-stanza-type",)),
}
CASES: Cases = {**_FORBIDDEN, **_LARGE, **_ENCODED, **_SMUGGLED}


@stage.scenario("entity bombs, DTDs, comments and processing instructions", quick=True)
async def _forbidden(at: AttackWorld) -> None:
    await played(at, __name__, _FORBIDDEN)


@stage.scenario("deep nesting, huge attributes, names and stanzas, thousands of prefixes")
async def _large(at: AttackWorld) -> None:
    await played(at, __name__, _LARGE, threads=3)


@stage.scenario("other encodings, characters that XML forbids, and data that is not well-formed")
async def _encoded(at: AttackWorld) -> None:
    await played(at, __name__, _ENCODED)


@stage.scenario("a proven peer that speaks for others, smuggles addresses, or names a domain that is not served", quick=True)
async def _smuggled(at: AttackWorld) -> None:
    with no_dial() as dials:
        await played(at, __name__, _SMUGGLED)
        expect(dials(), 0, "stanzas that were accepted for another domain")
