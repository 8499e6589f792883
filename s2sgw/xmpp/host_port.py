"""`host:port`, and IP addresses as text: parsed once, in one spelling, for configuration, DNS and sockets."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: RFC 6120 §3.2.2: the port of servers for servers. RFC 1035 §4.2: the port of name servers.
S2S_PORT = 5269
DNS_PORT = 53

#: Texts that are kept with their addresses: each handshake uses the same few many times.
_CACHED = 4096

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?\Z")


class HostPort(NamedTuple):
    """A host (name, or address without brackets) and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int) -> HostPort:
        """Parse `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address. Raises `ValueError` with the reason."""
        has_port = text.count(":") == 1 or text.startswith("[")
        if not has_port and ip_address(text) is not None:  # (a text with a port is not kept: each connection has another one)
            return cls(canonical(text), default_port)
        head, colon, tail = text.rpartition(":")
        host, port = (head, tail) if colon and not text.endswith("]") else (text, str(default_port))
        return cls(_host(host), _port(port))

    @property
    def is_address(self) -> bool:
        """Whether the host needs no look-up."""
        return is_address(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a loopback address."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(_CACHED)
def ip_address(text: str) -> IPAddress | None:
    """Return the address in `text` (without brackets); None: it is not an address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_address(text: str) -> bool:
    """Return whether `text` is an address of either family (without brackets)."""
    return ip_address(text) is not None


def is_loopback(address: str) -> bool:
    """Return whether `address` is a loopback address, also an IPv4-mapped one. A text that is no address is not."""
    return is_address(address) and ipaddress.ip_address(canonical(address)).is_loopback


@lru_cache(_CACHED)
def canonical(address: str) -> str:
    """Return the spelling for comparison: compressed, and an IPv4-mapped address as IPv4. Raises `ValueError`."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_host(text: str) -> bool:
    """Return whether `text` can name a host: letters, digits, hyphens, underscores and dots."""
    return _HOST.match(text) is not None


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        return str(ipaddress.IPv6Address(text[1:-1]))
    if not is_host(text):
        raise ValueError(f"{text!r} is no host name or address")
    return text.lower()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError(f"{text!r} is no port (1-65535)")
    return int(text)
