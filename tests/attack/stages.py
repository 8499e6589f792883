"""All stages, in the order they are played."""

from __future__ import annotations

from tests.attack import (
    closing,
    descriptors,
    handshakes,
    identity,
    lookups,
    negotiation,
    parsing,
    places,
    shared,
    sharing,
    unread,
)

#: Modules whose scenarios are on the stage of `shared`.
SHARING_A_GATEWAY = (parsing, negotiation, identity, handshakes, unread)
STAGES = [shared.stage, places.stage, lookups.stage, sharing.stage, descriptors.stage, closing.stage]
