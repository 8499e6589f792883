"""What of stanzas the next hop takes: a larger one, or one that it cannot hold, comes back instead of breaking its stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.stanza import Stanza


@dataclass(frozen=True, slots=True)
class Fitness:
    """`largest`: bytes of a stanza, as announced (XEP-0478) or known. `holds`: whether it can hold one at all."""

    largest: int | None = None
    holds: Callable[[bytes], bool] | None = None

    def __bool__(self) -> bool:
        """There is something to ask."""
        return self.largest is not None or self.holds is not None

    def objection(self, data: bytes) -> Cause | None:
        """Why a stanza of these bytes is not taken; None: it is."""
        if self.largest is not None and len(data) > self.largest:
            return Cause.TOO_LARGE
        return Cause.UNFIT if self.holds is not None and not self.holds(data) else None

    def sift(self, stanzas: Sequence[Stanza]) -> tuple[list[Stanza], list[tuple[Stanza, Cause]]]:
        """Those that are taken, and the others with the cause."""
        taken, refused = [], []
        for stanza in stanzas:
            cause = self.objection(stanza.data)
            if cause is None:
                taken.append(stanza)
            else:
                refused.append((stanza, cause))
        return taken, refused
