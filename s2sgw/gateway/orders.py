"""The operator's word about one lane: hold it, let it go, try now, give it up; whole, or one stanza of it by its position."""

from __future__ import annotations

from collections.abc import Callable

from s2sgw.gateway.flow import Flow
from s2sgw.queue.held import Held
from s2sgw.queue.spool import Spooled
from s2sgw.xmpp.ending import Cause


def hold(flow: Flow, position: int | None = None) -> None:
    """Write nothing more, or not this one. What waits goes on ageing."""
    if position is None:
        flow.held = True
    else:
        flow.parked.add(position)


def release(flow: Flow, position: int | None = None) -> None:
    """The end of a hold; with that of a whole lane all of its stanzas are let go."""
    flow.out_of_order = flow.out_of_order or bool(flow.parked)
    if position is None:
        flow.parked.clear()
        flow.held = False
    else:
        flow.parked.discard(position)
    flow.set_in_order()
    flush(flow)


def flush(flow: Flow) -> None:
    """Try now, whatever the back-off says."""
    if flow.held or not len(flow.lane):
        return
    flow.hop.contact(True)
    if flow.hop.ready:
        flow.drain()
    else:
        flow.hop.wanted()


def drop(flow: Flow, quietly: bool, position: int | None = None) -> int:
    """Give up what is not in flight, or one stanza of it; how many. They are bounced, unless `quietly`."""
    end = flow.forget_all if quietly else lambda gone: flow.give_up_on(gone, Cause.DROPPED_BY_OPERATOR)
    if position is None:
        number = len(flow.lane.waiting) + flow.lane.gap_count + len(flow.lane.recent)
        flow.end_all(end)
        return number
    gone = flow.lane.remove(lambda held: held.position == position)
    end(gone)
    return len(gone) or _drop_spooled(flow, position, end)


def _drop_spooled(flow: Flow, position: int, end: Callable[[list[Held]], None]) -> int:
    """It may stand in the spool alone."""
    gap = flow.lane.gap
    if gap is None or not gap[0] < position <= gap[1]:
        return 0

    def found(rows: list[Spooled]) -> None:
        end(flow.gap.take([row for row in rows if row.position == position]))

    flow.gap.look(position - 1, found)
    return 1
