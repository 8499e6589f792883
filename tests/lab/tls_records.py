"""Records of TLS 1.3 that no TLS library sends: a client or server that knows its traffic secret writes them by itself (RFC 8446 §5)."""

from __future__ import annotations

import struct
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

#: The cipher suite that these records use: the client must offer no other.
SUITE = b"TLS_AES_128_GCM_SHA256"
#: Types of records, and of handshake messages.
HANDSHAKE, DATA = 22, 23
_SESSION_TICKET, _KEY_UPDATE = 4, 24
_TAG_BYTES, _KEY_BYTES, _IV_BYTES, _SECRET_BYTES = 16, 16, 12, 32


class Secrets:
    """The secrets of the connections of a context, by their labels: `CLIENT_TRAFFIC_SECRET_0`, `SERVER_TRAFFIC_SECRET_0`."""

    def __init__(self, context: SSL.Context) -> None:
        self._found: dict[str, bytes] = {}
        context.set_tls13_ciphersuites(SUITE)
        context.set_keylog_callback(self._note)

    def _note(self, connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.decode().split()
        self._found[label] = bytes.fromhex(secret)

    def client(self) -> Records:
        """Return the records of the client, which has sent none after its handshake."""
        return Records(self._found["CLIENT_TRAFFIC_SECRET_0"])

    def server(self, number: int) -> Records:
        """Return the records of the server, which has sent `number` after its handshake."""
        return Records(self._found["SERVER_TRAFFIC_SECRET_0"], number)


class Records:
    """Makes the records of one side, one after another."""

    def __init__(self, secret: bytes, number: int = 0) -> None:
        self._change(secret)
        self._number = number

    def _change(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(_expand(secret, b"key", _KEY_BYTES))
        self._iv = int.from_bytes(_expand(secret, b"iv", _IV_BYTES))
        self._number = 0

    def record(self, kind: int, content: bytes) -> bytes:
        """Return one record."""
        inner = content + bytes((kind,))
        head = struct.pack("!BHH", DATA, 0x303, len(inner) + _TAG_BYTES)
        nonce = (self._iv ^ self._number).to_bytes(_IV_BYTES)
        self._number += 1
        return head + self._key.encrypt(nonce, inner, head)

    def key_update(self, requested: bool = False) -> bytes:
        """Return a KeyUpdate; `requested`: the other side must update its key too."""
        record = self.record(HANDSHAKE, bytes((_KEY_UPDATE, 0, 0, 1, requested)))
        self._change(_expand(self._secret, b"traffic upd", _SECRET_BYTES))
        return record

    def session_tickets(self, number: int) -> bytes:
        """Return one record with `number` of the smallest NewSessionTickets."""
        bodies = (struct.pack("!IIBBH", 60, 0, 1, at % 256, 1) + b"\0\0\0" for at in range(number))
        return self.record(HANDSHAKE, b"".join(bytes((_SESSION_TICKET,)) + len(body).to_bytes(3) + body for body in bodies))


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446 §7.1)."""
    label = b"tls13 " + label
    info: Any = struct.pack("!HB", length, len(label)) + label + b"\0"
    return HKDFExpand(hashes.SHA256(), length, info).derive(secret)
