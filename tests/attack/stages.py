"""All stages, in the order they are played."""

from __future__ import annotations

from tests.attack import closing, descriptors, places

STAGES = [places.stage, descriptors.stage, closing.stage]
