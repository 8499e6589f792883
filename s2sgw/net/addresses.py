"""Public addresses, and this machine's own addresses.

Public means globally reachable by the special-purpose registries of IANA (RFC 6890). They are written out here, so that the
answer does not depend on the version of Python. NAT64, 6to4 and mapped addresses may lead anywhere, so they are not public.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache

from s2sgw.xmpp.host_port import HostPort, ip_address

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


def spelled(address: object) -> str:
    """Return one end of a transport, as Twisted gives it: host and port.

    An address of another kind is returned in Twisted's words.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return str(address) if host is None else str(HostPort(host, port or 0))


@lru_cache(_CACHED)
def is_public(address: str) -> bool:
    """Return whether a stranger's DNS may lead us to `address`. A text that is no address is not public."""
    parsed = ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _IPV4_SPECIAL)
    return parsed is not None and parsed in _IPV6_GLOBAL and not any(parsed in network for network in _IPV6_SPECIAL)


def is_this_machine(address: str) -> bool:
    """Return whether an address is one of this machine's own: a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
