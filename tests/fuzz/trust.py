"""Fuzz targets: certificates, chains and documents of a peer, and an operator's lists."""

from __future__ import annotations

import json
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import s2sgw.trust.der as der
from s2sgw.trust.anchors import Anchors
from s2sgw.trust.certificate import summarise
from s2sgw.trust.dane import RECORDS_TRIED, prove_dane
from s2sgw.trust.evidence import TLSA, Evidence, TLSALookup
from s2sgw.trust.identity import NAMES_TOLD, Constraints, matches, names
from s2sgw.trust.path import SIGNATURE_CHECKS, PresentedChain
from s2sgw.trust.posh import InvalidPOSH, parse
from s2sgw.trust.proofs import prove_pkix
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.jid import AmbiguousDomain, Domain, InvalidJID
from tests.fuzz.source import Source
from tests.support.certificates import (
    AT,
    Authority,
    dns_constraints,
    new_key,
    self_signed,
    shared_issuer,
    shared_root,
    srv_id,
    xmpp_addr,
)

DOMAIN = Domain.parse("a.example")


@cache
def certificates() -> tuple[bytes, ...]:
    """Return certificates of every kind: the root, good and unusual CAs, and leaves below them."""
    bound = shared_root().intermediate("Bound", constraints=dns_constraints(["example"], ["bad.example"]))
    namesake = Authority.root()
    leaves = (
        shared_issuer().issue(dns=["a.example", "*.b.example"], xmpp=["c.example"], srv=["d.example"]),
        bound.issue(xmpp=["a.example"]), namesake.intermediate().issue(dns=["a.example"]), self_signed(dns=["a.example"]),
        shared_issuer().issue(dns=["a.example"], signed_by=new_key()), shared_root().issue(other_sans=[xmpp_addr("bücher.example"), srv_id("a.example")]),
    )
    authorities = (shared_issuer(), bound, namesake.intermediate(), shared_root(), namesake)
    return (*(leaf.der for leaf in leaves), *(authority.der for authority in authorities))


@cache
def anchors() -> Anchors:
    """Return the one anchor."""
    return Anchors([shared_root().certificate])


@cache
def lists() -> tuple[bytes, ...]:
    """Return revocation lists, in DER and in PEM."""
    leaf = x509.load_der_x509_certificate(certificates()[0])
    found = [shared_issuer().crl([leaf]), shared_root().crl(), shared_issuer().crl(extensions=())]
    return (*found, x509.load_der_x509_crl(found[0]).public_bytes(Encoding.PEM))


def identity(data: bytes) -> None:
    """A damaged certificate has names or none. Its text is bounded. Its elements do not overlap."""
    source = Source(data)
    certificate = source.mutated(source.choose(certificates())) if source.flag() else source.rest()
    found = names(certificate)
    match = matches(found, DOMAIN, insist_on_xmpp_addr=source.flag())
    assert match.name is None or not match.reasons
    assert len(match.reasons) <= NAMES_TOLD + 2
    Constraints.of(certificate).allow("a.example")
    assert len(str(summarise(certificate))) < 20_000
    try:
        spans = list(der.spans(certificate))
    except ValueError:
        return
    assert b"".join(certificate[each.begin : each.end] for each in spans) == certificate


def chain(data: bytes) -> None:
    """A chain of damaged certificates, with damaged records, is proven or not, within its budget. A good one stays good."""
    source = Source(data)
    presented = PresentedChain([source.mutated(source.choose(certificates())) for _ in range(1 + source.byte() % 6)])
    records = tuple(
        TLSA(source.byte() % 5, source.byte() % 3, source.byte() % 4, source.choose((source.take(64), source.choose(certificates()))))
        for _ in range(source.byte() % 4)
    )
    evidence = Evidence(DOMAIN, "receiving", AT, presented.encoded, target="t.example", tlsa=(TLSALookup("t.example", records, True, True),))
    revocations = RevocationLists.parse(source.mutated(source.choose(lists()))) if source.flag() else None
    for attempt in (
        prove_pkix(evidence, anchors(), revocations=revocations, presented=presented),
        prove_dane(evidence, anchors(), revocations=revocations, presented=presented),
    ):
        assert attempt.proven is not bool(attempt.causes)
        assert attempt.reasons
    assert presented.signature_checks <= SIGNATURE_CHECKS + 1
    assert presented.path_searches <= 2
    assert len(attempt.reasons) <= RECORDS_TRIED


def revocation(data: bytes) -> None:
    """A damaged list is read, or reported."""
    source = Source(data)
    listed = source.mutated(source.choose(lists())) if source.flag() else source.rest()
    found = RevocationLists.parse(listed)
    assert len(found) or found.complaints or b"-----BEGIN" in listed
    assert Anchors.parse(listed).complaints or b"-----BEGIN" in listed


def posh(data: bytes) -> None:
    """A POSH document is valid, or refused."""
    source = Source(data)
    good = json.dumps({"fingerprints": [{"sha-256": "A" * 43 + "="}], "expires": 86400, "url": "https://a.example/posh.json"}).encode()
    try:
        parse(source.mutated(good) if source.flag() else source.rest())
    except InvalidPOSH:
        return


def address(data: bytes) -> None:
    """IDNA 2003 reads an accepted domain in the same way. In A-labels and as it is shown it is the same domain."""
    text = data.decode("utf-8", "surrogatepass") if _decodes(data) else data.decode("latin-1")
    try:
        domain = Domain.parse(text)
    except AmbiguousDomain as error:
        assert Domain.parse(str(error).rpartition(" ")[2]) == Domain.registered(text)
        return
    except InvalidJID:
        return
    assert domain.ascii.isascii()
    assert domain == Domain.parse(domain.ascii) == Domain.parse(domain.text) == Domain.registered(text)
    if not text.isascii():
        assert domain.ascii == text.removesuffix(".").encode("idna").decode("ascii").lower()


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
