"""What of a lane the spool has no room for: refused in words, as soon as its sender can be told, and kept until then.

Meanwhile no room is made for more of it: whoever brings it waits, and with them what they have not written yet. What no error
may answer stays in memory too, and is offered to the spool again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from s2sgw.queue.bounce import may_bounce
from s2sgw.queue.held import Held, Piece, settle
from s2sgw.xmpp.ending import Cause

if TYPE_CHECKING:
    from s2sgw.gateway.flow import Flow
    from s2sgw.gateway.lanes import Lanes


class Shortage:
    """That of the lane of `flow`."""

    __slots__ = ("_flow", "_lanes", "lasts", "untold")

    def __init__(self, flow: Flow, lanes: Lanes) -> None:
        self._flow = flow
        self._lanes = lanes
        #: something is still here that the spool had no room for
        self.lasts = False
        #: refusals of which who brought the stanzas, and keeps them until then, has yet to hear: nothing passes them
        self.untold = 0

    @property
    def stuck(self) -> bool:
        """Neither the next server, nor the disk, nor the sender's server takes what comes."""
        if self.untold or not self.lasts or self._flow.hop.ready:
            return self.untold > 0
        return self._flow.lane.crowded or not self._lanes.way_back(self._flow).open

    def begin(self, batch: Sequence[Piece], error: Exception) -> None:
        """Nothing of `batch` is in the spool. What is in flight may still arrive; what waits is refused, or written after all."""
        flow = self._flow
        self._lanes.spool_failed(flow, error)
        if flow.hop.ready and not flow.held:
            flow.drain()
        elif self._lanes.way_back(flow).open:
            positions = {piece.position for piece in batch}
            self._refuse(flow.lane.remove(lambda held: held.position in positions and may_bounce(held.stanza)))
        self.lasts = not all(piece.gone for each in batch for piece in each.now())
        if self.lasts and not flow.held:
            flow.hop.wanted()

    def _refuse(self, gone: list[Held]) -> None:
        """Who keeps a stanza until told sends it again after a crash: none that came later may arrive before that (R35)."""
        kept = any(held.receipt is not None for held in gone)
        self.untold += kept
        self._flow.left(gone)
        stanzas = [held.stanza for held in gone]
        self._lanes.bounce(self._flow.pair, stanzas, Cause.QUEUE_FULL, settled=partial(self._told, gone, kept))

    def _told(self, gone: list[Held], kept: bool) -> None:
        self.untold -= kept
        settle(gone)
        if kept:
            self._flow.drain()
            self._flow.spool_now(self._flow.due)

    def end(self) -> None:
        """Nothing is here any more for which the spool had no room."""
        if self.lasts:
            self.lasts = False
            self._flow.relieve()
