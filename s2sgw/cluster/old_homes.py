"""Deletes the home records of peers that were not used for a day (docs/cluster.md).

A peer without a home record is as free as one whose home was released, or whose home is dead. So a record may be deleted at any
time, also by several nodes. A late copy of a claim that expects no record could be stored then. Nothing is that late after a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from s2sgw.cluster.engine import ClusterEngine, EngineError, HomesPage
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.home_table import SessionView
from s2sgw.cluster.node_records import HomeRecord, UnreadableRecord
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.timer import cancel

#: The age of a home record, in seconds, at which it is deleted.
OLD = 86400.0
#: Seconds between two looks at all home records, and between two pages of them.
PASS_SECONDS = 600.0
PAGE_SECONDS = 0.25


class OldHomes:
    """Looks at the home records of `engine` from time to time. Each part of them is one node's: `node` is this one."""

    def __init__(
        self, node: str, engine: ClusterEngine, sessions: SessionView, clock: IReactorTime, failures: Failures,
    ) -> None:
        self._failures = failures
        self._node = node
        self._engine = engine
        self._sessions = sessions
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._call: Deferred[None] | None = None
        self._stopped = False
        #: the part that is looked at, and the sequence behind which
        self._part = self._after = 0
        #: records that were deleted since the start
        self.deleted = 0

    def start(self) -> None:
        """Begin the first look after a while."""
        self._again(PASS_SECONDS)

    def stop(self) -> None:
        """Do nothing more."""
        self._stopped = True
        cancel(self._timer)
        if self._call is not None:
            self._call.cancel()

    def _again(self, seconds: float) -> None:
        if not self._stopped:
            self._timer = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        self._call = Deferred.fromCoroutine(self._look_at_page())
        self._call.addErrback(self._failed).addBoth(self._looked)

    async def _look_at_page(self) -> None:
        """Delete the records of one page that are not needed, and go on behind it."""
        if self._is_mine(self._part):
            page = await self._engine.old_homes(self._part, self._after, OLD)
            await self._delete(page)
            self._after = page.last
        if not self._after:
            self._next_part()

    def _next_part(self) -> None:
        self._part, self._after = (self._part + 1) % self._engine.parts, 0

    def _is_mine(self, part: int) -> bool:
        return chosen_for_part(part, self._sessions.live_nodes(self._clock.seconds())) == self._node

    async def _delete(self, page: HomesPage) -> None:
        sequences: dict[Domain, int] = {
            peer: stored.sequence for peer, stored in page.homes if self._is_over(stored.data)
        }
        deletions = [self._engine.delete(peer, [sequence]) for peer, sequence in sequences.items()]
        for deletion in deletions:
            self.deleted += await deletion

    def _is_over(self, data: bytes) -> bool:
        """Return whether a home was released, or its session is over."""
        try:
            owner = HomeRecord.decode(data).owner
        except UnreadableRecord:  # of a newer version
            return False
        return owner is None or self._sessions.state_of(owner, self._clock.seconds()) == "over"

    def _failed(self, failure: Failure) -> None:
        """Go on with the next part. This one has its turn in the next look."""
        self._next_part()
        if failure.check(EngineError, CancelledError) is None:
            self._failures.note("old home records could not be deleted", failure)

    def _looked(self, _: object) -> None:
        self._call = None
        self._again(PAGE_SECONDS if self._part or self._after else PASS_SECONDS)


def chosen_for_part(part: int, nodes: Iterable[str]) -> str | None:
    """Return the node that looks at a part of the home records, of the living `nodes`."""
    weighed = [(hashlib.sha256(f"{node} part {part}".encode()).digest(), node) for node in nodes]
    return max(weighed)[1] if weighed else None
