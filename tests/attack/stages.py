"""All stages, in the order they are played."""

from __future__ import annotations

from tests.attack import closing, descriptors, lookups, places

STAGES = [places.stage, lookups.stage, descriptors.stage, closing.stage]
