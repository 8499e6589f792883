"""What stands at the two ends of a lane: the sources that bring stanzas, and the hop that takes them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from s2sgw.xmpp.ending import Cause


class Source(Protocol):
    """A stream that brings stanzas and can be told to wait. `shared`: those of several lanes come by it, so that
    one slow hop is no reason: the spool takes what waits for it, and the others go on."""

    @property
    def shared(self) -> bool: ...

    def pause(self, holder: object) -> None: ...

    def resume(self, holder: object) -> None: ...


class Hop(Protocol):
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
        """It will say what the next server has (`Flow.acknowledged`); otherwise what is written is passed on."""

    @property
    def last_cause(self) -> Cause:
        """Why the last attempt failed: what a stanza that waited in vain is told."""

    def send(self, data: Sequence[bytes]) -> None:
        """Pass these stanzas on now."""

    def pressed(self) -> None:
        """So much is unacknowledged that whoever brings more will have to wait."""

    def wanted(self) -> None:
        """The lane holds something: see to it that `Flow.drain` is called when it can go."""

    def contact(self, urged: bool = False) -> None:
        """The next server was heard of: now is a good time to try again. `urged`: the operator says so, whatever is known."""

    def part(self) -> None:
        """Others wait for a stream, and this one is done: let it go."""

    def stop(self, cause: Cause) -> Deferred[None]:
        """Close in order, for good; fires when that is done, which takes a bounded time."""
