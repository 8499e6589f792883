"""Who owns a stream of ours: the party for whose sake it is opened. Places are shared among owners, not among streams.

Whoever has one wildcard certificate, or one DNS zone, has any number of domains. So the streams to a backend are owned by
the certificate that proved the sender, or by the site from which the sender connects; those to peers by the registered domain.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import NamedTuple

from s2sgw.net.connection import StreamConnection
from s2sgw.xmpp.jid import Domain

#: Second-level labels under which the registries of countries register names ("example.co.uk").
_SECOND_LEVEL = frozenset({
    "ac", "asso", "co", "com", "edu", "firm", "gen", "go", "gob", "gouv", "gov", "govt", "gub", "id", "in", "ind", "info", "ltd",
    "me", "mil", "ne", "net", "nhs", "nic", "nom", "or", "org", "plc", "sch", "school", "web",
})  # fmt: skip


class Owner(NamedTuple):
    """`kind` says what the name is: "certificate" (SHA-256 of the key), "site" (a network), "domain" or "backend"."""

    kind: str
    name: str


#: What a backend asks for itself.
BACKEND = Owner("backend", "")


def owner_by_name(domain: Domain) -> Owner:
    """Return the owner of everything under the registered domain of `domain`."""
    return Owner("domain", registered_domain(domain))


def owner_by_proof(connection: StreamConnection, method: str) -> Owner:
    """Return the owner of what was proven by `method` on the accepted `connection`.

    That is the certificate if it is what proved the peer; else, since any number of names and keys costs nothing, the site.
    """
    if method != "dialback" and connection.chain:
        return Owner("certificate", hashlib.sha256(connection.chain[0]).hexdigest())
    return Owner("site", site(connection.peer_address))


def site(address: str) -> str:
    """Return the network of "address:port": /24 of IPv4, /48 of IPv6. What is no address is its own site."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(ipaddress.ip_network((found, 24 if found.version == 4 else 48), strict=False))


def registered_domain(domain: Domain) -> str:
    """Return the part of the name that somebody has registered, as far as the name alone shows: an estimate, for shares only.

    Two labels, or three where the second-level label is one that registries use. An address is its own.
    """
    labels = domain.ascii.split(".")
    if domain.is_address or len(labels) <= 2:
        return domain.ascii
    number = 3 if len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL else 2
    return ".".join(labels[-number:])
