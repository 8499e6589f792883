"""The owner of a stream of ours: the party for whose sake it is opened. Places are shared among owners, not among streams.

One wildcard certificate, or one DNS zone, gives a party any number of domains. So the streams to a backend are owned by the
certificate that proved the sender, or by the site from which the sender connects. Streams to peers are owned by the registered
domain. An owner is (kind, name).
"""

from __future__ import annotations

import hashlib

from s2sgw.net.connection import StreamConnection
from s2sgw.net.fair_slots import Owner
from s2sgw.net.sites import site_path
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain

#: The owner of a backend's own requests.
BACKEND: Owner = ("backend", "")


def owner_by_name(domain: Domain) -> Owner:
    """Return the owner of everything under the registered domain of `domain`."""
    return ("domain", registered_domain(domain.ascii))


def owner_by_proof(connection: StreamConnection, method: str) -> Owner:
    """Return the owner of what was proven by `method` on the accepted `connection`.

    The owner is the certificate if it proved the peer. Otherwise it is the site, because names and keys cost nothing.
    """
    if method != "dialback" and connection.chain:
        return ("certificate", hashlib.sha256(connection.chain[0]).hexdigest())
    host = connection.peer_address.rpartition(":")[0].strip("[]")
    return ("site", site_path(host)[0])
