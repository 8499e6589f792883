"""All stages, in the order they are played."""

from __future__ import annotations

from tests.attack import closing, descriptors, lookups, places, sharing

STAGES = [places.stage, lookups.stage, sharing.stage, descriptors.stage, closing.stage]
