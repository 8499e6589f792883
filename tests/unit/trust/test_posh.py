"""Tests of POSH (R23)."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust.evidence import Attempt, Evidence, POSHLookup
from s2sgw.trust.posh import (
    DOCUMENT_BYTES,
    FINGERPRINTS,
    LONGEST,
    Document,
    InvalidPOSH,
    Reference,
    checked_url,
    document_url,
    parse,
    prove_posh,
)
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, Issued, leaf_for, self_signed, shared_issuer

HASHES = {"sha-1": hashlib.sha1, "sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}
URL = "https://host.example/.well-known/posh/xmpp-server.json"


def fingerprint(certificate: bytes, *names: str) -> dict[str, str]:
    return {name: base64.b64encode(HASHES[name](certificate).digest()).decode() for name in names or ("sha-256",)}


def written(*fingerprints: object, **fields: object) -> bytes:
    """Return a document with these fingerprints, valid for an hour. A field given as None is left out."""
    content = {"fingerprints": list(fingerprints) or None, "expires": 3600, **fields}
    return json.dumps({name: value for name, value in content.items() if value is not None}).encode()


def prove(issued: Issued, *fingerprints: object, later: timedelta = timedelta(0)) -> Attempt:
    document = parse(written(*fingerprints))
    assert isinstance(document, Document)
    return prove_posh(Evidence(Domain.parse("a.example"), "receiving", AT + later, issued.der_chain, posh=document.lookup(AT)))


class DocumentTests(SynchronousTestCase):
    def test_url(self):
        """R23: the document's URL has A-labels."""
        self.assertEqual("https://a.example/.well-known/posh/xmpp-server.json", document_url(Domain.parse("a.example")))
        self.assertIn("https://xn--bcher-kva.example/", document_url(Domain.parse("bücher.example")))

    def test_fingerprints(self):
        """R23: the digests of every listed certificate are read, for known hashes. Others are skipped."""
        leaf = leaf_for("a.example").der
        document = parse(written(fingerprint(leaf, "sha-1", "sha-256", "sha-512"), {"md5": "x"}, url=URL))
        self.assertEqual(Document(({"sha-256": hashlib.sha256(leaf).digest(), "sha-512": hashlib.sha512(leaf).digest()}, {}), timedelta(hours=1)), document)

    def test_reference(self):
        """R23: a document may refer to another."""
        self.assertEqual(Reference(URL, timedelta(hours=1)), parse(written(url=URL)))

    def test_lifetime(self):
        """R23: `expires` is respected, and the lesser one after a reference. Its maximum is limited."""
        document = Document((), timedelta(hours=2))
        self.assertEqual(AT + timedelta(hours=2), document.lookup(AT).expires)
        self.assertEqual(AT + timedelta(hours=1), document.lookup(AT, Reference(URL, timedelta(hours=1))).expires)
        self.assertEqual(AT + timedelta(hours=2), document.lookup(AT, Reference(URL, timedelta(hours=3))).expires)
        self.assertEqual(timedelta(seconds=1), parse(written(url=URL, expires=1)).lifetime)
        for seconds in (10**9, 10**30):
            self.assertEqual(LONGEST, parse(written(url=URL, expires=seconds)).lifetime)

    def test_invalid(self):
        """R23: a text that is not a valid document is refused with the reason."""
        good = fingerprint(b"x")
        wrong = (
            b"", b"junk", b"\xff", b"[]", b"7", b"[" * 60000, b" " * (DOCUMENT_BYTES + 1), written(),
            written(good, expires=None), written(good, expires=0), written(good, expires=-1), written(good, expires="60"),
            written(good, expires=True), written(good, expires=1.5), written(fingerprints=[]), written(fingerprints={}), written(fingerprints={"sha-256": "x"}),
            written(*[good] * (FINGERPRINTS + 1)), written("x"), written({"sha-256": 7}), written({"sha-256": "AAAA"}),
            written({"sha-256": "ä"}), written({"sha-512": good["sha-256"]}), written({"sha-256": good["sha-256"] + "\n"}), written(url=7),
        )
        for data in wrong:
            self.assertRaises(InvalidPOSH, parse, data)

    def test_urls(self):
        """R23: only an HTTPS URL, with a host and without a user, is followed."""
        self.assertEqual("https://a.example:8443/x?y", checked_url("https://a.example:8443/x?y"))
        for url in (
            "http://a.example/", "https:///x", "https://u@a.example/", "https://[", "https://a.example:99999/", "https://a.example:0/",
            "ftp://a.example", "//a.example/", "https://a.example/\n", "https://bücher.example/", "", None,
        ):
            self.assertRaises(InvalidPOSH, checked_url, url)


class ProofTests(SynchronousTestCase):
    def test_proven(self):
        """R23: a certificate in the document is proven, whatever its name, date and issuer."""
        for issued in (leaf_for("a.example"), self_signed(dns=["b.example"], not_after=AT - timedelta(days=1))):
            for name in ("sha-256", "sha-384", "sha-512"):
                attempt = prove(issued, fingerprint(b"another"), fingerprint(issued.der, name))
                self.assertEqual(("posh", True, None), (attempt.method, attempt.proven, attempt.cause))

    def test_not_listed(self):
        """R23: another certificate is not proven, nor is one of which only the authority is listed."""
        attempt = prove(leaf_for("a.example"), fingerprint(leaf_for("b.example").der), fingerprint(shared_issuer().der))
        self.assertEqual((Cause.NOT_PROVEN, False), (attempt.cause, attempt.veto))

    def test_strongest_hash(self):
        """R23: of several hashes the strongest decides. Unknown hashes decide nothing."""
        leaf = leaf_for("a.example")
        self.assertFalse(prove(leaf, {**fingerprint(leaf.der, "sha-256"), **fingerprint(b"x", "sha-512")}).proven)
        self.assertTrue(prove(leaf, {**fingerprint(b"x", "sha-1"), **fingerprint(leaf.der, "sha-512")}).proven)
        self.assertFalse(prove(leaf, fingerprint(leaf.der, "sha-1")).proven)

    def test_expiry(self):
        """R23: an expired document proves nothing."""
        leaf = leaf_for("a.example")
        self.assertTrue(prove(leaf, fingerprint(leaf.der), later=timedelta(seconds=3599)).proven)
        self.assertIn("expired", prove(leaf, fingerprint(leaf.der), later=timedelta(seconds=3600)).reasons[0])

    def test_nothing_to_compare(self):
        """Without a certificate, a look-up, or its success there is no proof, and the reason is given."""
        plain = Evidence(Domain.parse("a.example"), "receiving", AT, leaf_for("a.example").der_chain)
        self.assertEqual(("no POSH document was looked up",), prove_posh(plain).reasons)
        self.assertIn("404", prove_posh(replace(plain, posh=POSHLookup(failure="404"))).reasons[0])
        self.assertIn("expired", prove_posh(replace(plain, posh=POSHLookup())).reasons[0])
        self.assertEqual(Cause.NO_CERTIFICATE, prove_posh(replace(plain, chain=())).cause)
