"""As much of DER (X.690 §10) as is needed to read one extension of a certificate by itself.

cryptography reads all extensions of a certificate or none, and all names of a subjectAltName or none. Here a bad one only
drops out (decision 4). What is read was already framed by `cryptography.x509`; whatever is odd raises `ValueError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

#: Certificates of which the parts are kept: each is asked for several in one judgement, and many come by the same authorities.
KEPT = 256

BIT_STRING, OCTET_STRING, OID, UTF8_STRING, IA5_STRING = 0x03, 0x04, 0x06, 0x0C, 0x16
_BOOLEAN, _SEQUENCE, _VERSION, _EXTENSIONS, _KEY_IDENTIFIER = 0x01, 0x30, 0xA0, 0xA3, 0x80

SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")
KEY_USAGE = bytes.fromhex("551d0f")
SUBJECT_ALT_NAME = bytes.fromhex("551d11")
NAME_CONSTRAINTS = bytes.fromhex("551d1e")
AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("551d23")
EXTENDED_KEY_USAGE = bytes.fromhex("551d25")


class Element(NamedTuple):
    """One element: its identifier byte, its contents, and all of it as it was encoded."""

    tag: int
    content: bytes
    encoded: bytes


def read(data: bytes) -> tuple[Element, bytes]:
    """The first element of `data` and what follows it."""
    header, rest = data[:2], data[2:]
    if len(header) < 2 or header[0] & 0x1F == 0x1F:
        raise ValueError("an element is cut short or has a long tag")
    length = header[1]
    if length & 0x80:
        size = length & 0x7F
        if not 0 < size <= min(4, len(rest)):
            raise ValueError("an element has no definite length")
        length, rest = int.from_bytes(rest[:size], "big"), rest[size:]
    if length > len(rest):
        raise ValueError("an element is cut short")
    return Element(header[0], rest[:length], data[: len(data) - len(rest) + length]), rest[length:]


def elements(data: bytes) -> Iterator[Element]:
    """The elements that `data` is made of, until its end or a `ValueError`."""
    while data:
        element, data = read(data)
        yield element


def inside(data: bytes, tag: int = _SEQUENCE) -> bytes:
    """The contents of the one element, of this tag, that `data` is."""
    element, rest = read(data)
    if rest or element.tag != tag:
        raise ValueError("an element of another type was expected")
    return element.content


class Fields(NamedTuple):
    """The fields of a certificate that are compared as they are encoded (RFC 5280 §4.1.2)."""

    issuer: bytes
    subject: bytes
    public_key_info: bytes
    extensions: bytes  # the contents of the sequence, b"" where there are none


@lru_cache(maxsize=KEPT)
def fields(certificate: bytes) -> Fields:
    """The parts of a certificate in DER; `ValueError` where it is none."""
    tbs, _ = read(inside(certificate))
    parts = [part for part in elements(tbs.content) if part.tag != _VERSION]
    if len(parts) < 6:
        raise ValueError("a certificate lacks fields")
    extensions = next((inside(part.content) for part in parts[6:] if part.tag == _EXTENSIONS), b"")
    return Fields(parts[2].encoded, parts[4].encoded, parts[5].encoded, extensions)


def extension(certificate: bytes, oid: bytes) -> bytes | None:
    """The value of the extension `oid` (the contents of the OID), or None; twice the same is a `ValueError`."""
    found = [value for name, value in _extensions(certificate) if name == oid]
    if len(found) > 1:
        raise ValueError("an extension is there twice")
    return found[0] if found else None


def object_identifiers(value: bytes) -> set[bytes]:
    """The contents of each OID in a SEQUENCE of them."""
    return {element.content for element in elements(inside(value))}


@lru_cache(maxsize=KEPT)
def _extensions(certificate: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for item in elements(fields(certificate).extensions):
        parts = [part for part in elements(item.content) if part.tag != _BOOLEAN]
        if [part.tag for part in parts] != [OID, OCTET_STRING]:
            raise ValueError("an extension is malformed")
        found.append((parts[0].content, parts[1].content))
    return tuple(found)


def has_extension(certificate: bytes, oid: bytes) -> bool:
    """Whether the extension is there; unreadable ones count, so that what reads them all decides."""
    try:
        return any(name == oid for name, _ in _extensions(certificate))
    except ValueError:
        return True


def authority_key(certificate: bytes) -> bytes | None:
    """The keyIdentifier of the authority key identifier; None where there is none that can be read."""
    try:
        value = extension(certificate, AUTHORITY_KEY_IDENTIFIER)
        parts = elements(inside(value)) if value is not None else iter(())
        return next((part.content for part in parts if part.tag == _KEY_IDENTIFIER), None)
    except ValueError:
        return None


def subject_key(certificate: bytes) -> bytes | None:
    """The subject key identifier; None where there is none that can be read."""
    try:
        value = extension(certificate, SUBJECT_KEY_IDENTIFIER)
        return None if value is None else inside(value, OCTET_STRING)
    except ValueError:
        return None
