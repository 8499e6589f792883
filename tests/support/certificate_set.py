"""A generated set of certificates with the verdict on each that the rules demand (R17–R19, R21).

A row is a name, a function that makes the certificate, the requested domain, and the causes of the refusal in their order of
precedence. Without causes the certificate proves the domain. The verdicts come from the rules and the RFCs, not from the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from s2sgw.xmpp.ending import Cause
from tests.support.certificates import (
    AT,
    BOTH,
    CLIENT_AUTH,
    MD5_WITH_RSA,
    NOT_AFTER,
    NOT_BEFORE,
    SERVER_AUTH,
    SHA1_WITH_ECDSA,
    SHA1_WITH_RSA,
    Authority,
    Issued,
    Key,
    der,
    dns_constraints,
    leaf_for,
    new_key,
    resigned,
    rsa_key,
    self_signed,
    shared_issuer,
    shared_root,
    srv_id,
    usage,
    xmpp_addr,
)

A = "a.example"
IDN, A_LABEL = "bücher.example", "xn--bcher-kva.example"
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
OTHER_NAME, EMAIL_NAME, DNS_NAME, URI, ADDRESS = 0xA0, 0x81, 0x82, 0x86, 0x87
UTF8, PRINTABLE, IA5, BMP, OCTETS = 0x0C, 0x13, 0x16, 0x1E, 0x04
ANY_USAGE, EMAIL_USAGE, CODE, TIME, OCSP = (
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.CODE_SIGNING,
    ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.OCSP_SIGNING,
)
SMART_CARD = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.2")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")

BAD, EXPIRED, EARLY, WEAK = Cause.BAD_CHAIN, Cause.EXPIRED, Cause.NOT_YET_VALID, Cause.WEAK_KEY
USAGE, SELF, ISSUER, NAME = Cause.WRONG_USAGE, Cause.SELF_SIGNED, Cause.UNKNOWN_ISSUER, Cause.NAME_MISMATCH


class Row(NamedTuple):
    name: str
    make: Callable[[], Issued]
    domain: str = A
    causes: tuple[Cause, ...] = ()


def leaf(**options) -> Callable[[], Issued]:
    """Return a leaf under the shared issuer, with the domain as dNSName unless names are given."""
    if not {"dns", "xmpp", "srv", "san_der", "other_sans", "common_name"} & set(options):
        options["dns"] = [A]
    return lambda: shared_issuer().issue(**options)


def below(*authorities: dict[str, Any], **options) -> Callable[[], Issued]:
    """Return a leaf under a chain of new authorities, each with these options, below the shared root."""
    def make() -> Issued:
        authority = shared_root()
        for number, each in enumerate(authorities):
            authority = authority.intermediate(f"Authority {number}", **each)
        return authority.issue(**(options or {"dns": [A]}))
    return make


def raw(*names: bytes) -> Callable[[], Issued]:
    """Return a leaf whose subjectAltName holds these GeneralNames unchanged."""
    return leaf(san_der=der(0x30, b"".join(names)))


def edited(old: str, new: str, **options) -> Callable[[], Issued]:
    """Return a leaf with some bytes (in hexadecimal) replaced and signed again."""
    def make() -> Issued:
        issued = leaf(**options)()
        certificate = resigned(issued.certificate, shared_issuer().key, edit=(bytes.fromhex(old), bytes.fromhex(new)))
        assert certificate != issued.certificate
        return Issued(certificate, issued.key, (certificate, *issued.chain[1:]))
    return make


def keyed(key: Callable[[], Key]) -> Callable[[], Issued]:
    """Return a leaf with a key that is made only when it is needed."""
    return lambda: leaf(key=key())()


def signed(algorithm: bytes, digest: hashes.HashAlgorithm, key: Callable[[], Key] = new_key) -> Callable[[], Issued]:
    """Return a leaf whose authority signs with another algorithm."""
    def make() -> Issued:
        authority = shared_root().intermediate("Signer", key=key())
        issued = authority.issue(dns=[A])
        certificate = resigned(issued.certificate, authority.key, algorithm, digest=digest)
        return Issued(certificate, issued.key, (certificate, *issued.chain[1:]))
    return make


@cache
def stranger() -> Authority:
    return Authority.root("Stranger")


def rows() -> Iterator[Row]:
    for group in (_dates, _names, _wildcards, _internationalised, _malformed, _usages, _keys, _signatures, _chains, _authorities, _constraints, _extensions, _several):
        yield from group()


def _dates() -> Iterator[Row]:
    yield Row("valid", leaf())
    for name, options, causes in (
        ("expired long ago", {"not_after": AT - 365 * DAY}, (EXPIRED,)),
        ("expired a second ago", {"not_after": AT - SECOND}, (EXPIRED,)),
        ("in its last second", {"not_after": AT}, ()),
        ("in its first second", {"not_before": AT}, ()),
        ("valid in a second", {"not_before": AT + SECOND}, (EARLY,)),
        ("valid next year", {"not_before": AT + 365 * DAY}, (EARLY,)),
        ("valid for one second", {"not_before": AT, "not_after": AT}, ()),
        ("valid until after 2050", {"not_after": datetime(2120, 1, 1, tzinfo=UTC)}, ()),
        ("valid for ten years", {"not_before": AT - DAY, "not_after": AT + 3650 * DAY}, ()),
        ("over before 1970", {"not_before": datetime(1960, 1, 1, tzinfo=UTC), "not_after": datetime(1969, 1, 1, tzinfo=UTC)}, (EXPIRED,)),
    ):
        yield Row(name, leaf(**options), A, causes)
    yield Row("its authority expired", below({"not_after": AT - DAY}), A, (EXPIRED,))
    yield Row("its authority not yet valid", below({"not_before": AT + DAY}), A, (EARLY,))
    yield Row("the upper of two authorities expired", below({"not_after": AT - DAY}, {}), A, (EXPIRED,))
    yield Row("authority in its last second", below({"not_after": AT}))
    yield Row("leaf outlives its authority", below({"not_after": AT + DAY}))


def _names() -> Iterator[Row]:
    for kind in ("dns", "xmpp", "srv"):
        yield Row(f"{kind} only", leaf(**{kind: [A]}))
        yield Row(f"{kind} of another domain", leaf(**{kind: ["b.example"]}), A, (NAME,))
        yield Row(f"{kind} of the parent", leaf(**{kind: ["example.net"]}), "a.example.net", (NAME,))
        yield Row(f"{kind} of a child", leaf(**{kind: ["x.a.example"]}), A, (NAME,))
        yield Row(f"{kind} with a common ending", leaf(**{kind: ["aa.example"]}), A, (NAME,))
        yield Row(f"{kind} in upper case", leaf(**{kind: ["A.EXAMPLE"]}))
        yield Row(f"{kind} among many", leaf(**{kind: [f"n{number}.example" for number in range(50)] + [A]}))
    yield Row("each kind for another domain", leaf(dns=["b.example"], xmpp=["c.example"], srv=[A]))
    yield Row("client service", leaf(srv=["_xmpp-client.a.example"]), A, (NAME,))
    yield Row("direct TLS service", leaf(srv=["_xmpps-server.a.example"]), A, (NAME,))
    yield Row("service in upper case", leaf(srv=["_XMPP-SERVER.a.example"]))
    yield Row("common name alone", leaf(common_name=A), A, (NAME,))
    yield Row("common name beside another name", leaf(common_name=A, dns=["b.example"]), A, (NAME,))
    yield Row("common name that differs", leaf(common_name="b.example", dns=[A]))
    yield Row("no name at all", lambda: shared_issuer().issue(), A, (NAME,))
    yield Row("an empty list of names", raw(), A, (NAME,))
    yield Row("address alone", raw(der(ADDRESS, b"\xc0\0\2\1")), A, (NAME,))
    yield Row("URI alone", raw(der(URI, b"xmpp:a.example")), A, (NAME,))
    yield Row("e-mail alone", raw(der(EMAIL_NAME, b"admin@a.example")), A, (NAME,))
    yield Row("address as a dNSName", raw(der(DNS_NAME, b"192.0.2.1")), "192.0.2.1", (NAME,))
    yield Row("other names beside a good one", raw(der(ADDRESS, b"\xc0\0\2\1"), der(URI, b"xmpp:x"), der(EMAIL_NAME, b"x@y"), der(DNS_NAME, b"a.example")))
    yield Row("user name as dNSName", leaf(common_name="x", other_sans=[x509.RFC822Name("a@a.example")]), A, (NAME,))
    yield Row("single label", leaf(dns=["localhost"]), "localhost")
    yield Row("underscore", leaf(dns=["a_b.example"]), "a_b.example")
    yield Row("digits", leaf(dns=["1.2.example"]), "1.2.example")
    yield Row("longest label", leaf(dns=["x" * 63 + ".example"]), "x" * 63 + ".example")


def _wildcards() -> Iterator[Row]:
    for name, pattern, domain, causes in (
        ("one label", "*.a.example", "x.a.example", ()),
        ("one label in upper case", "*.A.Example", "x.a.example", ()),
        ("not the parent", "*.a.example", "a.example", (NAME,)),
        ("not two labels", "*.a.example", "y.x.a.example", (NAME,)),
        ("not an ending", "*.a.example", "xa.example", (NAME,)),
        ("of a top-level domain", "*.example", "a.example", (NAME,)),
        ("of everything", "*", "a.example", (NAME,)),
        ("in the second label", "x.*.example", "x.a.example", (NAME,)),
        ("in two labels", "*.*.example", "x.a.example", (NAME,)),
        ("before letters", "*x.a.example", "yx.a.example", (NAME,)),
        ("after letters", "x*.a.example", "xy.a.example", (NAME,)),
        ("between letters", "x*z.a.example", "xyz.a.example", (NAME,)),
        ("doubled", "**.a.example", "x.a.example", (NAME,)),
        ("in an A-label", "xn--*.a.example", "xn--bcher-kva.a.example", (NAME,)),
        ("for an A-label", "*.a.example", "xn--bcher-kva.a.example", (NAME,)),
        ("above an A-label", "*." + A_LABEL, "x." + IDN, ()),
        ("at the end", "a.*", "a.example", (NAME,)),
    ):
        yield Row(f"wildcard {name}", leaf(dns=[pattern]), domain, causes)
    yield Row("wildcard in an SRV-ID", leaf(srv=["_xmpp-server.*.a.example"]), "x.a.example", (NAME,))
    yield Row("wildcard in an xmppAddr", leaf(xmpp=["*.a.example"]), "x.a.example", (NAME,))
    yield Row("wildcard beside the name", leaf(dns=["*.a.example", A]))


def _internationalised() -> Iterator[Row]:
    for name, options, causes in (
        ("A-label as dNSName", {"dns": [A_LABEL]}, ()),
        ("A-label as SRV-ID", {"srv": [A_LABEL]}, ()),
        ("U-label as xmppAddr", {"xmpp": [IDN]}, ()),
        ("U-label in upper case as xmppAddr", {"xmpp": ["BÜCHER.example"]}, ()),
        ("decomposed U-label as xmppAddr", {"xmpp": ["bu\u0308cher.example"]}, ()),
        ("A-label in upper case", {"dns": [A_LABEL.upper()]}, ()),
        ("without its dots", {"dns": ["bucher.example"]}, (NAME,)),
        ("another U-label", {"xmpp": ["bücker.example"]}, (NAME,)),
        ("full-width letters", {"xmpp": ["ｂücher.example"]}, (NAME,)),
        ("ideographic dot", {"xmpp": ["bücher。example"]}, (NAME,)),
        ("zero-width joiner", {"xmpp": ["bü\u200dcher.example"]}, (NAME,)),
        ("U-label as dNSName", {"san_der": der(0x30, der(DNS_NAME, IDN.encode()))}, (NAME,)),
        ("Latin-1 as dNSName", {"san_der": der(0x30, der(DNS_NAME, IDN.encode("latin-1")))}, (BAD, NAME)),
        ("U-label as SRV-ID", {"other_sans": [srv_id(f"_xmpp-server.{IDN}")]}, (NAME,)),
    ):
        yield Row(name, leaf(**options), IDN, causes)
        yield Row(f"{name}, asked by A-label", leaf(**options), A_LABEL, causes)
    yield Row("Cyrillic look-alike", leaf(xmpp=["а.example"]), A, (NAME,))
    yield Row("A-label that is none", leaf(dns=["xn--a.example"]), A, (NAME,))


def _malformed() -> Iterator[Row]:
    good = der(DNS_NAME, b"a.example")
    for name, bad in (
        ("NUL in a dNSName", der(DNS_NAME, b"a.example\0.evil.example")),
        ("NUL at the end", der(DNS_NAME, b"a.example\0")),
        ("NUL alone", der(DNS_NAME, b"\0")),
        ("empty dNSName", der(DNS_NAME, b"")),
        ("space before", der(DNS_NAME, b" a.example")),
        ("space after", der(DNS_NAME, b"a.example ")),
        ("new line", der(DNS_NAME, b"a.example\n")),
        ("dot before", der(DNS_NAME, b".a.example")),
        ("dot after", der(DNS_NAME, b"a.example.")),
        ("empty label", der(DNS_NAME, b"a..example")),
        ("URL", der(DNS_NAME, b"https://a.example")),
        ("port", der(DNS_NAME, b"a.example:5269")),
        ("address of three bytes", der(ADDRESS, b"123")),
        ("address of seventeen bytes", der(ADDRESS, b"\0" * 17)),
        ("URI that is not ASCII", der(URI, "xmpp:ä".encode())),
    ):
        yield Row(f"{name}, alone", raw(bad), A, (NAME,))
        yield Row(f"{name}, beside a good name", raw(bad, good))
    for name, other in (
        ("xmppAddr as IA5String", xmpp_addr(A, IA5)), ("xmppAddr as PrintableString", xmpp_addr(A, PRINTABLE)),
        ("xmppAddr as BMPString", xmpp_addr(A.encode("utf-16-be"), BMP)), ("xmppAddr as bytes", xmpp_addr(A, OCTETS)),
        ("xmppAddr with a user", xmpp_addr("admin@a.example")), ("xmppAddr with a resource", xmpp_addr("a.example/x")),
        ("xmppAddr with NUL", xmpp_addr("a.example\0")), ("xmppAddr with NUL inside", xmpp_addr("a.example\0.evil.example")),
        ("empty xmppAddr", xmpp_addr("")), ("xmppAddr that is not UTF-8", xmpp_addr(b"\xffa.example")),
        ("xmppAddr with a space", xmpp_addr("a.example ")), ("xmppAddr that is too long", xmpp_addr("x." * 600 + "example")),
        ("SRV-ID as UTF8String", srv_id(A, UTF8)), ("SRV-ID without a service", srv_id(b"a.example")),
        ("SRV-ID without a domain", srv_id(b"_xmpp-server.")), ("SRV-ID with a protocol", srv_id(b"_xmpp-server._tcp.a.example")),
        ("SRV-ID with NUL", srv_id(b"_xmpp-server.a.example\0")), ("empty SRV-ID", srv_id(b"")),
    ):
        yield Row(f"{name}, alone", leaf(other_sans=[other]), A, (NAME,))
        yield Row(f"{name}, beside a good name", leaf(dns=[A], other_sans=[other]))
    yield Row("not even UTF-8, beside a good name", raw(good, der(DNS_NAME, b"\xff.example")), A, (BAD,))
    yield Row("names that break off", leaf(san_der=der(0x30, good) + b"\x82"), A, (BAD, NAME))
    yield Row("a name that breaks off", raw(good, b"\x82\x20short"), A, (BAD,))
    yield Row("names that are no sequence", leaf(san_der=good), A, (BAD, NAME))


def _usages() -> Iterator[Row]:
    for name, eku, causes in (
        ("none", (), ()), ("both", BOTH, ()), ("serverAuth", (SERVER_AUTH,), ()), ("clientAuth", (CLIENT_AUTH,), ()),
        ("any", (ANY_USAGE,), ()), ("e-mail and serverAuth", (EMAIL_USAGE, SERVER_AUTH), ()), ("e-mail", (EMAIL_USAGE,), (USAGE,)),
        ("code signing", (CODE,), (USAGE,)), ("time stamping", (TIME,), (USAGE,)), ("OCSP", (OCSP,), (USAGE,)),
        ("smart card", (SMART_CARD,), (USAGE,)), ("e-mail and code signing", (EMAIL_USAGE, CODE), (USAGE,)),
    ):
        yield Row(f"extended usage: {name}", leaf(eku=eku), A, causes)
        yield Row(f"authority's extended usage: {name}", below({"eku": eku}), A, causes)
    for bits, causes in (
        (("digital_signature",), ()), (("digital_signature", "key_encipherment"), ()), (("digital_signature", "key_agreement"), ()),
        (("key_encipherment",), (USAGE,)), (("key_agreement",), (USAGE,)), (("content_commitment",), (USAGE,)),
        (("digital_signature", "key_cert_sign"), (BAD,)), (("data_encipherment",), (USAGE,)),
    ):
        yield Row(f"usage: {' and '.join(bits)}", leaf(key_usage=usage(**dict.fromkeys(bits, True))), A, causes)


def _keys() -> Iterator[Row]:
    for name, key, causes in (
        ("RSA 1024", lambda: rsa_key(1024), (WEAK,)), ("RSA 2047", lambda: rsa_key(2047), (WEAK,)),
        ("RSA 2048", lambda: rsa_key(2048), ()), ("RSA 3072", lambda: rsa_key(3072), ()),
        ("P-224", lambda: ec.generate_private_key(ec.SECP224R1()), (WEAK,)), ("P-192", lambda: ec.generate_private_key(ec.SECP192R1()), (WEAK,)),
        ("P-256", new_key, ()), ("P-384", lambda: ec.generate_private_key(ec.SECP384R1()), ()),
        ("P-521", lambda: ec.generate_private_key(ec.SECP521R1()), ()), ("Ed25519", ed25519.Ed25519PrivateKey.generate, ()),
        ("Ed448", ed448.Ed448PrivateKey.generate, ()), ("DSA", lambda: dsa.generate_private_key(1024), (WEAK,)),
    ):
        yield Row(f"key: {name}", keyed(key), A, causes)
    yield Row("authority's key: RSA 1024", lambda: below({"key": rsa_key(1024)})(), A, (WEAK,))
    yield Row("authority's key: RSA 2048", lambda: below({"key": rsa_key(2048)})())
    yield Row("authority's key: P-384", lambda: below({"key": ec.generate_private_key(ec.SECP384R1())})())


def _signatures() -> Iterator[Row]:
    yield Row("signed with SHA-384", leaf(digest=hashes.SHA384()))
    yield Row("signed with SHA-512", leaf(digest=hashes.SHA512()))
    yield Row("signed with SHA-1 and ECDSA", signed(SHA1_WITH_ECDSA, hashes.SHA1()), A, (BAD,))
    yield Row("signed with SHA-1 and RSA", signed(SHA1_WITH_RSA, hashes.SHA1(), rsa_key), A, (BAD,))
    yield Row("signed with MD5 and RSA", signed(MD5_WITH_RSA, hashes.MD5(), rsa_key), A, (BAD,))
    yield Row("said to be SHA-1", signed(SHA1_WITH_ECDSA, hashes.SHA256()), A, (BAD,))
    yield Row("signed by another key", leaf(signed_by=new_key()), A, (BAD,))
    yield Row("signed by a key of another kind", lambda: leaf(signed_by=rsa_key())(), A, (BAD,))
    yield Row("authority signed by another key", below({"signed_by": new_key()}), A, (BAD,))
    yield Row("changed after signing", _tampered, A, (BAD,))


def _tampered() -> Issued:
    issued = leaf(dns=["b.example"])()
    certificate = x509.load_der_x509_certificate(issued.der.replace(b"b.example", b"a.example"))
    return Issued(certificate, issued.key, (certificate, *issued.chain[1:]))


def _chains() -> Iterator[Row]:
    good = leaf_for(A)
    issuer, root = shared_issuer().certificate, shared_root().certificate
    yield Row("with the root", lambda: good.with_chain(issuer, root))
    yield Row("in another order", lambda: good.with_chain(root, issuer))
    yield Row("the issuer twice", lambda: good.with_chain(issuer, issuer))
    yield Row("the leaf twice", lambda: good.with_chain(good.certificate, issuer))
    yield Row("with strangers", lambda: good.with_chain(stranger().certificate, issuer, leaf_for("b.example").certificate))
    yield Row("without its issuer", good.with_chain, A, (ISSUER,))
    yield Row("the root alone", lambda: good.with_chain(root), A, (ISSUER,))
    yield Row("of a stranger", lambda: stranger().issue(dns=[A]), A, (ISSUER,))
    yield Row("of a stranger, complete", lambda: stranger().issue(dns=[A]).with_chain(stranger().certificate), A, (ISSUER,))
    yield Row("of a namesake of the root", lambda: Authority.root().issue(dns=[A]), A, (ISSUER,))
    yield Row("of a namesake of the issuer", lambda: stranger().intermediate().issue(dns=[A]).with_chain(issuer), A, (ISSUER,))
    yield Row("straight from the root", lambda: shared_root().issue(dns=[A]))
    yield Row("self-signed", lambda: self_signed(dns=[A]), A, (SELF,))
    yield Row("self-signed authority", lambda: self_signed(dns=[A], ca=True, key_usage=usage(digital_signature=True, key_cert_sign=True)), A, (SELF,))
    yield Row("self-signed beside a trusted chain", lambda: self_signed(dns=[A]).with_chain(issuer, root), A, (SELF,))
    yield Row("self-signed under the root's name", lambda: self_signed(dns=[A], common_name="Test Root"), A, (SELF,))
    for length in (2, 4, 7, 8):
        yield Row(f"{length} authorities", below(*[{}] * length))
    yield Row("9 authorities", below(*[{}] * 9), A, (BAD,))
    yield Row("20 authorities", below(*[{}] * 20), A, (BAD,))
    yield Row("a hundred strangers", lambda: good.with_chain(issuer, *[stranger().certificate] * 100))


def _authorities() -> Iterator[Row]:
    yield Row("authority without basic constraints", below({"basic_constraints": False}), A, (BAD,))
    yield Row("authority that is none", below({"ca": False}), A, (BAD,))
    yield Row("authority that may not sign", below({"key_usage": usage(digital_signature=True)}), A, (BAD,))
    yield Row("authority for lists alone", below({"key_usage": usage(crl_sign=True)}), A, (BAD,))
    yield Row("path length 0, leaf", below({"path_length": 0}))
    yield Row("path length 0, authority", below({"path_length": 0}, {}), A, (BAD,))
    yield Row("path length 1, authority", below({"path_length": 1}, {}))
    yield Row("path length 1, two authorities", below({"path_length": 1}, {}, {}), A, (BAD,))
    yield Row("path length 5, then 0", below({"path_length": 5}, {"path_length": 0}))
    yield Row("path length grows", below({"path_length": 0}, {"path_length": 5}), A, (BAD,))
    yield Row("authority as leaf", leaf(ca=True, key_usage=usage(digital_signature=True)), A, (BAD,))
    yield Row("leaf without basic constraints", leaf(basic_constraints=False))
    yield Row("leaf without the key identifier of its authority", leaf(authority_key_identifier=False), A, (BAD,))
    yield Row("leaf without a key identifier", leaf(subject_key_identifier=False))


def _constraints() -> Iterator[Row]:
    only, but = dns_constraints(["example"]), dns_constraints((), ["a.example"])
    both = dns_constraints(["example"], ["bad.example"])
    for name, constraints, kind, domain, dns_causes, other_causes in (
        ("within", only, A, A, (), ()), ("itself", dns_constraints([A]), A, A, (), ()),
        ("outside", dns_constraints(["test"]), A, A, (BAD, NAME), (NAME,)), ("excluded", but, A, A, (BAD, NAME), (NAME,)),
        ("below what is excluded", but, "x.a.example", "x.a.example", (BAD, NAME), (NAME,)),
        ("beside what is excluded", but, "b.example", "b.example", (), ()),
        ("permitted and not excluded", both, A, A, (), ()), ("permitted and excluded", both, "bad.example", "bad.example", (BAD, NAME), (NAME,)),
        ("a common ending", dns_constraints(["a.example"]), "aa.example", "aa.example", (BAD, NAME), (NAME,)),
        ("the parent", dns_constraints(["x.a.example"]), A, A, (BAD, NAME), (NAME,)),
    ):
        yield Row(f"constraints: {name}, dNSName", below({"constraints": constraints}, dns=[kind]), domain, dns_causes[:1])
        yield Row(f"constraints: {name}, xmppAddr", below({"constraints": constraints}, xmpp=[kind]), domain, other_causes)
        yield Row(f"constraints: {name}, SRV-ID", below({"constraints": constraints}, srv=[kind]), domain, other_causes)
    yield Row("constraints: one name of two outside", below({"constraints": only}, dns=[A, "a.test"]), A, (BAD,))
    yield Row("constraints: of two authorities", below({"constraints": only}, {"constraints": dns_constraints(["b.example"])}, xmpp=[A]), A, (NAME,))
    yield Row("constraints: wider below", below({"constraints": dns_constraints(["b.example"])}, {"constraints": only}, xmpp=[A]), A, (NAME,))
    yield Row("constraints: of another kind", below({"constraints": x509.NameConstraints([x509.RFC822Name("b.example")], None)}, dns=[A]))
    yield Row("constraints: on xmppAddr itself", below({"constraints": x509.NameConstraints([xmpp_addr(A)], None)}, xmpp=[A]), A, (BAD,))
    yield Row("constraints: U-label within", below({"constraints": dns_constraints([A_LABEL])}, xmpp=[IDN]), IDN)
    yield Row("constraints: U-label excluded", below({"constraints": dns_constraints((), [A_LABEL])}, xmpp=[IDN]), IDN, (NAME,))


def _extensions() -> Iterator[Row]:
    yield Row("unknown extension", leaf(extra=[(UNKNOWN, False)]))
    yield Row("unknown critical extension", leaf(extra=[(UNKNOWN, True)]), A, (BAD,))
    yield Row("authority's unknown extension", below({"extra": [(UNKNOWN, False)]}))
    yield Row("authority's unknown critical extension", below({"extra": [(UNKNOWN, True)]}), A, (BAD,))
    alt_name = "0603551d11"
    issuer_alt_name = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.18"), der(0x30, der(DNS_NAME, b"b.example")))
    yield Row("names twice", edited("0603551d12", alt_name, extra=[(issuer_alt_name, False)]), A, (BAD, NAME))
    yield Row("names under another extension", leaf(common_name="x", extra=[(issuer_alt_name, False)]), "b.example", (NAME,))
    yield Row("extended usage that is none", leaf(eku=(), extra=[(x509.UnrecognizedExtension(x509.ExtendedKeyUsage.oid, b"\5\0"), False)]), A, (BAD,))


def _several() -> Iterator[Row]:
    old: dict[str, Any] = {"not_after": AT - DAY}
    yield Row("expired, wrong name", leaf(dns=["b.example"], **old), A, (EXPIRED, NAME))
    yield Row("expired, weak", lambda: leaf(key=rsa_key(1024), **old)(), A, (EXPIRED, WEAK))
    yield Row("expired, other usage", leaf(eku=(CODE,), **old), A, (EXPIRED, USAGE))
    yield Row("expired, self-signed", lambda: self_signed(dns=[A], **old), A, (EXPIRED, SELF))
    yield Row("expired, unknown issuer", lambda: stranger().issue(dns=[A], **old), A, (EXPIRED, ISSUER))
    yield Row("expired, bad signature", leaf(signed_by=new_key(), **old), A, (BAD, EXPIRED))
    yield Row("expired, authority without basic constraints", below({"basic_constraints": False}, dns=[A], **old), A, (BAD, EXPIRED))
    yield Row("early, wrong name", leaf(dns=["b.example"], not_before=AT + DAY), A, (EARLY, NAME))
    yield Row("self-signed, wrong name", lambda: self_signed(dns=["b.example"]), A, (SELF, NAME))
    yield Row("self-signed, common name", lambda: self_signed(common_name=A), A, (SELF, NAME))
    yield Row("unknown issuer, wrong name", lambda: stranger().issue(dns=["b.example"]), A, (ISSUER, NAME))
    yield Row("other usage, wrong name", leaf(eku=(CODE,), dns=["b.example"]), A, (USAGE, NAME))
    yield Row(
        "everything", lambda: stranger().issue(dns=["b.example"], key=rsa_key(1024), eku=(CODE,), **old), A,
        (EXPIRED, WEAK, USAGE, ISSUER, NAME),
    )
    yield Row("constants", leaf(not_before=NOT_BEFORE, not_after=NOT_AFTER))
