"""The PROXY header of a connection that one node hands on to another: it says for which leg, and is authenticated.

The extension (of a type for private use, 0xE0 to 0xEF) has an HMAC of the addresses and the leg, and the leg as text. Its key is
a secret that the nodes share. So only a node can name an address, or hand a connection on as one of a backend.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from s2sgw.net.proxy_protocol import LOCAL, ProxyHeader, write
from s2sgw.xmpp.host_port import HostPort

#: The type of the extension.
TYPE = 0xE5
_DIGEST, _DIGEST_BYTES = "sha256", 32
_LONGEST = 512


class NodeHeaders:
    """Writes and reads such headers. `key` is the shared secret."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, source: HostPort, destination: HostPort, leg: str) -> bytes:
        """Return a header for a connection between two IP addresses; b"": they are of different families."""
        value = self._proof(source, destination, leg) + leg.encode()
        header = write(source, destination, struct.pack("!BH", TYPE, len(value)) + value)
        return b"" if header == LOCAL else header

    def leg(self, header: ProxyHeader) -> str | None:
        """Return the leg in a header; None: no node has written it."""
        if header.source is None or header.destination is None:
            return None
        value = next((value for kind, value in _extensions(header.extensions) if kind == TYPE), b"")
        if not _DIGEST_BYTES < len(value) <= _LONGEST:
            return None
        leg = value[_DIGEST_BYTES:].decode("ascii", "replace")
        proof = self._proof(_place(header.source), _place(header.destination), leg)
        return leg if hmac.compare_digest(proof, value[:_DIGEST_BYTES]) else None

    def _proof(self, source: HostPort, destination: HostPort, leg: str) -> bytes:
        ends = b"".join(ip_address(end.host).packed + struct.pack("!H", end.port) for end in (source, destination))
        return hmac.digest(self._key, ends + leg.encode(), _DIGEST)


def _extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the value of each extension. What follows a malformed one is left out."""
    while len(data) >= 3:
        kind, length = struct.unpack_from("!BH", data)
        if len(data) < 3 + length:
            return
        yield kind, data[3 : 3 + length]
        data = data[3 + length :]


def _place(address: Any) -> HostPort:
    return HostPort(address.host, address.port)
