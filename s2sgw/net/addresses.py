"""Where a connection may go: `host:port` as written in the configuration, and which addresses are public.

Public means globally reachable by the special-purpose registries of IANA (RFC 6890), written out here so that the
answer does not vary with the version of Python. NAT64, 6to4 and mapped addresses, which may lead anywhere, are not.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import lru_cache
from typing import NamedTuple

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?\Z")
_CACHED = 4096

_IPV4_SPECIAL = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
            *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
_IPV6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_IPV6_SPECIAL = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


class HostPort(NamedTuple):
    """A host (name, or address without brackets) and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int) -> HostPort:
        """`host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address; raises `ValueError` in words."""
        if _address(text) is not None:
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
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def spelled(address: object) -> str:
    """One end of a transport, as Twisted gives it: host and port; what is of another kind in its own words."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return str(address) if host is None else str(HostPort(host, port or 0))


@lru_cache(_CACHED)
def is_public(address: str) -> bool:
    """Whether a stranger's DNS may send us to `address`; what is no address is not public."""
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _IPV4_SPECIAL)
    return parsed is not None and parsed in _IPV6_GLOBAL and not any(parsed in network for network in _IPV6_SPECIAL)


def is_address(text: str) -> bool:
    """Whether `text` is an address of either family (without brackets)."""
    return _address(text) is not None


def is_loopback(address: str) -> bool:
    """Whether `address` is of this machine alone, be it IPv4-mapped; what is no address is not."""
    parsed = _address(address)
    return parsed is not None and ipaddress.ip_address(canonical(address)).is_loopback


def canonical(address: str) -> str:
    """The one spelling by which addresses compare: compressed, and an IPv4-mapped one as the IPv4 address it is."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_host(text: str) -> bool:
    """Whether `text` can name a host: letters, digits, hyphens, underscores and dots."""
    return _HOST.match(text) is not None


def _address(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


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


def is_this_machine(address: str) -> bool:
    """Whether an address is one of this machine's own: a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
