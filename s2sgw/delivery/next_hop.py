"""What stands at the two ends of a lane: the sources that bring stanzas, and the hop that takes them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.stanza import Stanza


class StanzaSource(Protocol):
    """A stream that brings stanzas and can be told to wait. `shared`: those of several lanes come by it, so that
    one slow hop is no reason: the spool takes what waits for it, and the others go on."""

    @property
    def shared(self) -> bool: ...

    def pause(self, holder: object) -> None: ...

    def resume(self, holder: object) -> None: ...


class NextHop(Protocol):
    """Where a lane leads: a stream to the next server, or the embedded echo."""

    @property
    def state(self) -> str:
        """idle, connecting, ready, broken or backing off: a word for operators."""

    @property
    def ready(self) -> bool:
        """`send` may be called now."""

    @property
    def slow(self) -> bool:
        """It is there, but has more to swallow than it can: whoever feeds it should wait."""

    @property
    def acknowledges(self) -> bool:
        """It will say what the next server has (`DeliveryQueue.acknowledged`); otherwise what is written is passed on."""

    @property
    def last_cause(self) -> Cause:
        """Why the last attempt failed: what a stanza that waited in vain is told."""

    def send(self, data: Sequence[bytes]) -> None:
        """Pass these stanzas on now."""

    def pressed(self) -> None:
        """So much is unacknowledged that whoever brings more will have to wait."""

    def wanted(self) -> None:
        """The lane holds something: see to it that `DeliveryQueue.drain` is called when it can go."""

    def contact(self, urged: bool = False) -> None:
        """The next server was heard of: now is a good time to try again. `urged`: the operator says so, whatever is known."""

    def part(self) -> None:
        """Others wait for a stream, and this one is done: let it go."""

    def stop(self, cause: Cause) -> Deferred[None]:
        """Close in order, for good; fires when that is done, which takes a bounded time."""


# What of stanzas the next hop takes: a larger one, or one that it cannot hold, comes back instead of breaking its stream.
@dataclass(frozen=True, slots=True)
class NextHopLimits:
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
