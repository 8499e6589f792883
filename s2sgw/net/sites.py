"""Sites: the networks that an address belongs to, from the widest to the narrowest.

Before a peer has proven itself its address is all that is known of it, and one party often has many addresses: an IPv4 /24, or an
IPv6 /48 with 65,536 networks of 2^64 addresses. What strangers share is therefore divided among the widest sites first,
and within a site among the next narrower ones.
"""

from __future__ import annotations

import ipaddress

#: Prefix lengths from the widest site to the narrowest.
IPV4_SITES = (24, 32)
IPV6_SITES = (48, 56, 64)

Site = tuple[str, ...]


def site_path(address: str) -> Site:
    """Return the networks of `address`, the widest first; a text that is no address is a site of its own.

    An IPv4-mapped IPv6 address counts as the IPv4 address.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return (address,)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return tuple(str(ipaddress.IPv6Network((parsed, length), strict=False)) for length in IPV6_SITES)
        parsed = parsed.ipv4_mapped
    return tuple(str(ipaddress.IPv4Network((parsed, length), strict=False)) for length in IPV4_SITES)
