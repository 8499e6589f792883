"""The part of DER (X.690 §10) that is needed to read one extension of a certificate by itself.

cryptography reads all extensions of a certificate or none, and all names of a subjectAltName or none. Here only the malformed one
is left out (docs/decisions.md#evidence). Every function is linear in the bytes that it passes. Input that is not DER raises
`ValueError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

#: A certificate with more extensions than this is refused. Real ones have about ten.
MAX_EXTENSIONS = 64
#: An extended key usage with more purposes than this is refused. Real ones have about three.
MAX_KEY_PURPOSES = 64

BIT_STRING, OCTET_STRING, OID, UTF8_STRING, IA5_STRING, INTEGER, SEQUENCE = 0x03, 0x04, 0x06, 0x0C, 0x16, 0x02, 0x30
_BOOLEAN, _VERSION, _EXTENSIONS, _KEY_IDENTIFIER = 0x01, 0xA0, 0xA3, 0x80
_TBS_FIELDS, _EXTENSION_FIELDS = 10, 3  # RFC 5280 §4.1

SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")
KEY_USAGE = bytes.fromhex("551d0f")
SUBJECT_ALT_NAME = bytes.fromhex("551d11")
NAME_CONSTRAINTS = bytes.fromhex("551d1e")
AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("551d23")
EXTENDED_KEY_USAGE = bytes.fromhex("551d25")


class Span(NamedTuple):
    """The place of an element in its data: its identifier byte and three offsets."""

    tag: int
    begin: int  # of the identifier byte
    content: int  # of the first byte of its contents
    end: int  # behind its last byte


class DERElement(NamedTuple):
    """One element: its identifier byte, its contents, and its whole encoding."""

    tag: int
    content: bytes
    encoded: bytes


#: Makes a `Span` without a call of Python's own. A certificate has a hundred.
_span = partial(tuple.__new__, Span)


def span(data: bytes, begin: int = 0, end: int | None = None) -> Span:
    """Return the place of the element that begins at `begin` and must end at or before `end`."""
    end = len(data) if end is None else end
    if end - begin < 2 or data[begin] & 0x1F == 0x1F:
        raise ValueError("an element is cut short or has a long tag")
    length, content = data[begin + 1], begin + 2
    if length & 0x80:
        size = length & 0x7F
        if not 0 < size <= min(4, end - content):
            raise ValueError("an element has no definite length")
        length, content = int.from_bytes(data[content : content + size], "big"), content + size
    if length > end - content:
        raise ValueError("an element is cut short")
    return _span((data[begin], begin, content, content + length))


def spans(data: bytes, begin: int = 0, end: int | None = None) -> Iterator[Span]:
    """Yield the place of each element between two offsets, until the end or a `ValueError`."""
    end = len(data) if end is None else end
    while begin < end:
        found = span(data, begin, end)
        yield found
        begin = found.end


def some(data: bytes, begin: int, end: int, most: int) -> list[Span]:
    """Return the places of the elements between two offsets. Raises `ValueError` if there are more than `most`."""
    found: list[Span] = []
    while begin < end:
        if len(found) == most:
            raise ValueError(f"there are more than {most} elements")
        found.append(last := span(data, begin, end))
        begin = last.end
    return found


def _element(data: bytes, found: Span) -> DERElement:
    return DERElement(found.tag, data[found.content : found.end], data[found.begin : found.end])


def read(data: bytes) -> tuple[DERElement, bytes]:
    """Return the first element of `data`, and the rest."""
    found = span(data)
    return _element(data, found), data[found.end :]


def elements(data: bytes) -> Iterator[DERElement]:
    """Yield the elements of `data`, until its end or a `ValueError`."""
    return (_element(data, found) for found in spans(data))


def few(data: bytes, most: int) -> list[DERElement]:
    """Return the elements of `data`. Raises `ValueError` if there are more than `most`."""
    return [_element(data, found) for found in some(data, 0, len(data), most)]


def encode(tag: int, content: bytes) -> bytes:
    """Return one element with these contents."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def inside(data: bytes, tag: int = SEQUENCE) -> bytes:
    """Return the contents of `data`, which must be one element with this tag."""
    found = span(data)
    if found.end != len(data) or found.tag != tag:
        raise ValueError("an element of another type was expected")
    return data[found.content :]


class Fields(NamedTuple):
    """The fields of a certificate that are compared in their encoding (RFC 5280 §4.1.2)."""

    serial: bytes  # the contents of the INTEGER
    issuer: bytes
    subject: bytes
    public_key_info: bytes
    extensions: bytes  # the contents of the sequence, b"" where there are none


def fields(certificate: bytes) -> Fields:
    """Return the fields of a certificate in DER. Raises `ValueError` for an invalid one."""
    outer = span(certificate)
    if outer.end != len(certificate) or outer.tag != SEQUENCE:
        raise ValueError("a certificate is one sequence")
    tbs = span(certificate, outer.content, outer.end)
    parts = [part for part in some(certificate, tbs.content, tbs.end, _TBS_FIELDS) if part.tag != _VERSION]
    if len(parts) < 6:
        raise ValueError("a certificate lacks fields")
    extensions = next((certificate[part.content : part.end] for part in parts[6:] if part.tag == _EXTENSIONS), None)
    serial = certificate[parts[0].content : parts[0].end]
    issuer, subject, key = [certificate[parts[number].begin : parts[number].end] for number in (2, 4, 5)]
    return Fields(serial, issuer, subject, key, b"" if extensions is None else inside(extensions))


def extensions(content: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the OID and the value of each extension in `Fields.extensions`, critical or not."""
    found: list[tuple[bytes, bytes]] = []
    for item in spans(content):
        parts = [part for part in some(content, item.content, item.end, _EXTENSION_FIELDS) if part.tag != _BOOLEAN]
        if [part.tag for part in parts] != [OID, OCTET_STRING]:
            raise ValueError("an extension is malformed")
        if len(found) == MAX_EXTENSIONS:
            raise ValueError(f"there are more than {MAX_EXTENSIONS} extensions")
        found.append((content[parts[0].content : parts[0].end], content[parts[1].content : parts[1].end]))
    return tuple(found)


def single(listed: tuple[tuple[bytes, bytes], ...], oid: bytes) -> bytes | None:
    """Return the value of the extension `oid` among these; None: it is absent. Raises `ValueError` if it occurs twice."""
    found = [value for name, value in listed if name == oid]
    if len(found) > 1:
        raise ValueError("an extension is there twice")
    return found[0] if found else None


def extension(certificate: bytes, oid: bytes) -> bytes | None:
    """Return the value of the extension `oid` (the contents of the OID) of a certificate in DER; None: it is absent."""
    return single(extensions(fields(certificate).extensions), oid)


def object_identifiers(value: bytes) -> set[bytes]:
    """Return the contents of each OID in a SEQUENCE of them. Raises `ValueError` beyond `MAX_KEY_PURPOSES`."""
    found = set()
    for number, element in enumerate(elements(inside(value))):
        if number == MAX_KEY_PURPOSES:
            raise ValueError(f"there are more than {MAX_KEY_PURPOSES} key purposes")
        found.add(element.content)
    return found


def authority_key(value: bytes | None) -> bytes | None:
    """Return the keyIdentifier in an authority key identifier; None: there is none, or it is malformed."""
    try:
        parts = elements(inside(value)) if value is not None else iter(())
        return next((part.content for part in parts if part.tag == _KEY_IDENTIFIER), None)
    except ValueError:
        return None


def subject_key(value: bytes | None) -> bytes | None:
    """Return the key identifier in a subject key identifier; None: there is none, or it is malformed."""
    try:
        return None if value is None else inside(value, OCTET_STRING)
    except ValueError:
        return None
