"""PEM (RFC 7468), for files of certificates and revocation lists.

A file may have 60 MB of base64, and is read in another thread. It is decoded in pieces, so that no single call holds the
interpreter for long.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

#: Characters of base64 that are decoded at once: a multiple of four.
PIECE = 262_144

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


def unarmoured(source: bytes, label: bytes = b"CERTIFICATE") -> Iterator[bytes]:
    """Yield the DER contents of a PEM text under that label; `source` itself if it is not PEM. Broken armour yields b""."""
    begin = _BEGIN.search(source) if source[:1] != b"\x30" else None
    if begin is None:
        yield source
    while begin:
        end = source.find(b"-----END " + begin[1] + b"-----", begin.end())
        if end >= 0 and begin[1] == label:
            yield _decoded(source, begin.end(), end)
        begin = _BEGIN.search(source, begin.end() if end < 0 else end)


def _decoded(source: bytes, begin: int, end: int) -> bytes:
    found = bytearray()
    rest = b""
    try:
        for at in range(begin, end, PIECE):
            text = rest + source[at : min(at + PIECE, end)].translate(None, b" \t\r\n")
            whole = len(text) if at + PIECE >= end else len(text) // 4 * 4
            found += binascii.a2b_base64(text[:whole], strict_mode=False)
            rest = text[whole:]
    except binascii.Error:
        return b""
    return bytes(found)
