"""Sites: the networks that an address belongs to, from the widest to the narrowest.

Before a peer has proven itself, only its address is known. One party often has many addresses: an IPv4 /24, or an IPv6 /48 with
65,536 networks of 2^64 addresses. So the resources of strangers are divided among the widest sites first, and within a site among
the next narrower ones.
"""

from __future__ import annotations

import socket

#: Prefix lengths from the widest site to the narrowest.
IPV4_SITES = (24, 32)
IPV6_SITES = (48, 56, 64)

Site = tuple[str, ...]

_MAPPED = bytes(10) + b"\xff\xff"


def site_path(address: str) -> Site:
    """Return the networks of `address`, the widest first. A text that is no address is a site of its own.

    An IPv4-mapped IPv6 address counts as the IPv4 address.
    """
    try:
        if ":" not in address:
            return _ipv4_path(socket.inet_pton(socket.AF_INET, address))
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return (address,)
    if packed.startswith(_MAPPED):
        return _ipv4_path(packed[12:])
    return tuple([_network(socket.AF_INET6, packed, length) for length in IPV6_SITES])


def narrowest_site(address: str) -> str:
    """Return the narrowest site of `address`: the address itself for IPv4, a /64 for IPv6."""
    return site_path(address)[-1]


def _ipv4_path(packed: bytes) -> Site:
    return tuple([_network(socket.AF_INET, packed, length) for length in IPV4_SITES])


def _network(family: int, packed: bytes, length: int) -> str:
    kept = packed[: length // 8]
    return f"{socket.inet_ntop(family, kept + bytes(len(packed) - len(kept)))}/{length}"
