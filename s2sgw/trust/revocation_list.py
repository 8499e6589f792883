"""One certificate revocation list (RFC 5280 §5): parsed once, then searched for one serial number at a time.

The serial numbers go into a compact table: a list of a million takes 30 MB and is searched in microseconds. Parsing is one linear
walk in Python, which the reactor's thread can interrupt at any time. cryptography parses a list in one uninterruptible call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

import s2sgw.trust.der as der

#: Ed25519 and Ed448 sign the whole list, not a digest of it. The check of a longer list would take too long.
MAX_EDWARDS_BYTES = 1_048_576
#: Authorities for which it is known whether they signed a list.
SIGNERS_KEPT = 16

_UNDERSTOOD = (x509.AuthorityKeyIdentifier.oid, x509.IssuingDistributionPoint.oid)
_UTC_TIME, _GENERALIZED_TIME, _EXTENSIONS = 0x17, 0x18, 0xA0
_EPOCH = date(1970, 1, 1)
_LAST_DAY = 0xFFFF
#: A record of the table: the length of the serial number, the serial number, the day of its revocation.
_SERIAL_BYTES = 21
_KEY_BYTES = 1 + _SERIAL_BYTES
_RECORD_BYTES = _KEY_BYTES + 2
#: The least bytes of an entry, and the approximate number of records in a bucket of the table.
_ENTRY_BYTES, _BUCKET_RECORDS = 20, 32


class _Entries:
    """The serial numbers of a list with the day of each revocation, as a table of buckets of fixed records."""

    def __init__(self, expected: int) -> None:
        self._mask = (1 << max(0, expected // _BUCKET_RECORDS).bit_length()) - 1
        self._buckets = [bytearray() for _ in range(self._mask + 1)]
        self._longer: dict[bytes, int] = {}  # serial numbers that RFC 5280 §4.1.2.2 does not allow
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, serial: bytes, day: int) -> None:
        """Add the contents of an INTEGER, and a day since 1970."""
        self._count += 1
        if len(serial) > _SERIAL_BYTES:
            self._longer[serial] = day
            return
        self._buckets[hash(serial) & self._mask] += _key(serial) + day.to_bytes(2, "big")

    def day(self, serial: bytes) -> int | None:
        """Return the day on which the serial number was revoked, or None."""
        if len(serial) > _SERIAL_BYTES:
            return self._longer.get(serial)
        bucket, key = self._buckets[hash(serial) & self._mask], _key(serial)
        at = bucket.find(key)
        while at % _RECORD_BYTES and at >= 0:  # the match lies across two records
            at = bucket.find(key, at + 1)
        return None if at < 0 else int.from_bytes(bucket[at + _KEY_BYTES : at + _RECORD_BYTES], "big")


def _key(serial: bytes) -> bytes:
    return bytes((len(serial),)) + serial.ljust(_SERIAL_BYTES, b"\0")


class _Parts(NamedTuple):
    """The places of the parts of a list that are parsed here."""

    tbs: der.Span
    issuer: bytes
    entries: der.Span | None  # the sequence of revoked certificates
    signature: bytes


class RevocationList:
    """A list, in DER. Raises `ValueError` if `data` is invalid.

    `fault`: why the list itself is unusable (RFC 5280 §5.2); "": it is usable. An unusable list revokes nothing and clears
    nothing. `signature_checks` counts the signature checks.
    """

    def __init__(self, data: bytes) -> None:
        parts = _read(data)
        entries = parts.entries
        self.issuer = parts.issuer
        self._entries = _Entries((entries.end - entries.content) // _ENTRY_BYTES if entries else 0)
        if entries:
            for serial, day in _revoked(data, entries):
                self._entries.add(serial, day)
        # The library parses the rest: the same list without its entries, which is small.
        try:
            self._rest = x509.load_der_x509_crl(_without(data, parts))
        except x509.InvalidVersion as error:
            raise ValueError(str(error)) from error
        self._signature = parts.signature
        self._digest = b""
        self._signed = b""
        self.fault = self._size_fault(data, parts) or _fault(self._rest)
        self._signers: dict[bytes, bool] = {}
        self.signature_checks = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _size_fault(self, data: bytes, parts: _Parts) -> str:
        """Keep the signed data: a digest, or for Edwards curves the whole list, if it is not too long."""
        signed = memoryview(data)[parts.tbs.begin : parts.tbs.end]
        try:
            algorithm = self._rest.signature_hash_algorithm
        except UnsupportedAlgorithm as error:
            return f"its signature is of no known kind: {error}"
        if algorithm is not None:
            try:
                self._digest = hashlib.new(algorithm.name.replace("sha3-", "sha3_"), signed).digest()
            except ValueError:
                return f"its signature uses {algorithm.name}, which is not known"
        elif len(signed) <= MAX_EDWARDS_BYTES:
            self._signed = bytes(signed)
        else:
            return f"it is longer than {MAX_EDWARDS_BYTES} bytes and signed with an Edwards curve"
        return ""

    def revoked_on(self, serial: bytes) -> date | None:
        """Return the day on which the list revokes a serial number (the contents of its INTEGER); None: it does not."""
        day = None if self.fault else self._entries.day(serial)
        return None if day is None else _EPOCH + timedelta(days=day)

    def doubt(self, at: datetime) -> str:
        """Return why the list cannot clear a certificate at that time; "": it can."""
        if self.fault:
            return self.fault
        if self._rest.last_update_utc > at:
            return "it is not valid yet"
        expiry = self._rest.next_update_utc
        return "it is out of date" if expiry is None or expiry < at else ""

    def is_signed_by(self, public_key_info: bytes) -> bool:
        """Return whether this key (a SubjectPublicKeyInfo in DER) signed the list. Each key is checked once."""
        known = self._signers.get(public_key_info)
        if known is None:
            self.signature_checks += 1
            known = self._verify(public_key_info)
            if len(self._signers) >= SIGNERS_KEPT:
                self._signers.clear()
            self._signers[public_key_info] = known
        return known

    def _verify(self, public_key_info: bytes) -> bool:
        try:
            self._check(load_der_public_key(public_key_info))
        except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
            return False
        return True

    def _check(self, key: object) -> None:
        """Raise if the signature is not by this key."""
        how, digest = self._rest.signature_algorithm_parameters, self._rest.signature_hash_algorithm
        if isinstance(key, rsa.RSAPublicKey) and digest is not None and isinstance(how, padding.PKCS1v15 | padding.PSS):
            key.verify(self._signature, self._digest, how, Prehashed(digest))
        elif isinstance(key, ec.EllipticCurvePublicKey) and digest is not None and isinstance(how, ec.ECDSA):
            key.verify(self._signature, self._digest, ec.ECDSA(Prehashed(digest)))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and digest is None:
            key.verify(self._signature, self._signed)
        else:
            raise InvalidSignature


def _read(data: bytes) -> _Parts:
    """Find the parts of a CertificateList (RFC 5280 §5.1)."""
    outer = der.span(data)
    if outer.end != len(data) or outer.tag != der.SEQUENCE:
        raise ValueError("a list is one sequence")
    tbs, _algorithm, signature = der.some(data, outer.content, outer.end, 3)
    fields = der.some(data, tbs.content, tbs.end, 7)
    fields = fields[1:] if fields and fields[0].tag == der.INTEGER else fields
    if len(fields) < 3 or [field.tag for field in fields[:2]] != [der.SEQUENCE] * 2:
        raise ValueError("a list lacks fields")
    after = [field for field in fields[3:] if field.tag not in (_UTC_TIME, _GENERALIZED_TIME)]
    entries = after[0] if after and after[0].tag == der.SEQUENCE else None
    if signature.tag != der.BIT_STRING or data[signature.content : signature.content + 1] != b"\0":
        raise ValueError("the signature is no string of whole bytes")
    return _Parts(tbs, data[fields[1].begin : fields[1].end], entries, data[signature.content + 1 : signature.end])


def _without(data: bytes, parts: _Parts) -> bytes:
    """Return the same list without its entries."""
    begin, end = (parts.entries.begin, parts.entries.end) if parts.entries else (parts.tbs.end, parts.tbs.end)
    tbs = der.encode(der.SEQUENCE, data[parts.tbs.content : begin] + data[end : parts.tbs.end])
    return der.encode(der.SEQUENCE, tbs + data[parts.tbs.end :])


def _revoked(data: bytes, entries: der.Span) -> Iterator[tuple[bytes, int]]:
    """Yield the serial number and the day of each entry."""
    days: dict[bytes, int] = {}
    begin, end = entries.content, entries.end
    while begin < end:
        entry = der.span(data, begin, end)
        serial = der.span(data, entry.content, entry.end)
        time = der.span(data, serial.end, entry.end)
        content = data[serial.content : serial.end]
        if entry.tag != der.SEQUENCE or serial.tag != der.INTEGER or not content or _is_padded(content):
            raise ValueError("an entry is malformed")
        written = data[time.begin : time.end]
        day = days.get(written)
        if day is None:
            day = _day(time.tag, data[time.content : time.end])
            if len(days) < _LAST_DAY:
                days[written] = day
        yield content, day
        begin = entry.end


def _is_padded(integer: bytes) -> bool:
    return len(integer) > 1 and (integer[0], integer[1] & 0x80) in ((0, 0), (0xFF, 0x80))


def _day(tag: int, text: bytes) -> int:
    """Return the day since 1970 of a Time; 0 and `_LAST_DAY` stand for earlier and later ones."""
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("an entry has no date")
    year, rest = (text[:4], text[4:]) if tag == _GENERALIZED_TIME else (text[:2], text[2:])
    century = 0 if tag == _GENERALIZED_TIME else 2000 if int(year) < 50 else 1900
    found = datetime(century + int(year), int(rest[:2]), int(rest[2:4]), tzinfo=UTC).date()
    return min(max((found - _EPOCH).days, 0), _LAST_DAY)


def _fault(revocations: x509.CertificateRevocationList) -> str:
    """Return why the extensions make a list unusable (RFC 5280 §5.2); "": they do not."""
    try:
        extensions = list(revocations.extensions)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        return f"its extensions cannot be read: {error}"
    unknown = [each.oid.dotted_string for each in extensions if each.critical and each.oid not in _UNDERSTOOD]
    if unknown:
        return f"its critical extension {unknown[0]} is not understood"
    if any(isinstance(each.value, x509.IssuingDistributionPoint) and each.value.indirect_crl for each in extensions):
        return "it is an indirect list"
    return "" if any(each.oid == x509.CRLNumber.oid for each in extensions) else "it has no CRL number"
