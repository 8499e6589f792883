"""The owner of a stream of ours: the party for whose sake it is opened. Places are shared among owners, not among streams.

One wildcard certificate, or one DNS zone, gives a party any number of domains, certificates (DANE, POSH) and keys. One network
gives it any number of addresses. So a stream is owned by a registered domain: that of the peer that it leads to, or for whose
stanzas it leads to a backend. What a peer proves on one stream belongs to the domain that it proved there first. An owner is
(kind, name).
"""

from __future__ import annotations

from s2sgw.net.fair_slots import Owner
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain

#: The owner of a backend's own requests.
BACKEND: Owner = ("backend", "")


def owner_by_name(domain: Domain) -> Owner:
    """Return the owner of everything under the registered domain of `domain`."""
    return ("domain", registered_domain(domain.ascii))
