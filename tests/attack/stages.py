"""All stages, in the order in which they are played."""

from __future__ import annotations

from tests.attack import (
    addresses,
    closing,
    descriptors,
    handshakes,
    identity,
    lookups,
    negotiation,
    operating,
    parsing,
    places,
    records,
    servers,
    shared,
    sharing,
    storms,
    unread,
)

#: Modules whose scenarios are on the stage of `shared`.
SHARING_A_GATEWAY = (parsing, negotiation, identity, handshakes, records, unread, servers, storms, operating)
STAGES = [shared.stage, places.stage, lookups.stage, addresses.stage, sharing.stage, descriptors.stage, closing.stage]
