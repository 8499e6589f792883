"""What the operator holds back: peers, lanes and single stanzas. It is kept on disk, for a hold outlasts a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.entries import QueuedStanza
from s2sgw.spool.interface import Spooled
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair

FILE = "held.json"
#: Holds at a time.
HOLDS = 1000


class TooManyHolds(Exception):
    """No room for another."""


class HoldTarget(NamedTuple):
    """One peer (all lanes from and to it), one lane, or one stanza of a lane. Either `peer` or `pair` is there."""

    peer: Domain | None = None
    pair: Pair | None = None
    position: int | None = None

    def covers(self, pair: Pair) -> bool:
        """Whether the lane of `pair` is meant, or something of it."""
        return pair == self.pair or (self.peer is not None and self.peer in pair)

    def words(self) -> list[str | int]:
        """As it is written down."""
        names = [self.peer.ascii] if self.peer is not None else [each.ascii for each in self.pair or ()]
        return [*names, *([] if self.position is None else [self.position])]

    @classmethod
    def read(cls, words: list[str | int]) -> HoldTarget:
        """The reverse of `words`; raises `ValueError`."""
        names = [Domain.parse(str(word)) for word in words[:2]]
        if len(names) == 1:
            return cls(peer=names[0])
        return cls(pair=Pair(*names), position=int(words[2]) if len(words) > 2 else None)

    def __str__(self) -> str:
        return " ".join(map(str, self.words()))


class OperatorHolds:
    """The holds, written to `<state>/held.json` (0600) at each change; a file that cannot be read is told to `report`."""

    def __init__(self, state: Path | None = None, report: Callable[[str], None] = lambda text: None) -> None:
        self._path = None if state is None else state / FILE
        self._targets: dict[HoldTarget, None] = {}
        if self._path is not None and self._path.exists():
            try:
                self._targets = dict.fromkeys(HoldTarget.read(words) for words in json.loads(self._path.read_text("ascii")))
            except (ValueError, TypeError, OSError) as error:
                report(f"{self._path} cannot be read, so nothing is held back: {error}")

    def __iter__(self) -> Iterator[HoldTarget]:
        return iter(self._targets)

    def holds(self, pair: Pair) -> bool:
        """Whether all of the lane of `pair` is held back."""
        return any(target.position is None and target.covers(pair) for target in self._targets)

    def positions(self, pair: Pair) -> set[int]:
        """The single stanzas of the lane that are."""
        return {target.position for target in self._targets if target.pair == pair and target.position is not None}

    def add(self, target: HoldTarget) -> None:
        """Raises `TooManyHolds`, or `OSError` where it cannot be kept."""
        if target not in self._targets and len(self._targets) >= HOLDS:
            raise TooManyHolds(f"at most {HOLDS} holds at a time")
        self._change({**self._targets, target: None})

    def discard(self, target: HoldTarget) -> int:
        """End this hold, and those of all that it covers; how many. Raises `OSError`."""
        left = {each: None for each in self._targets if not _within(each, target)}
        ended = len(self._targets) - len(left)
        self._change(left)
        return ended

    def forget(self, pair: Pair) -> None:
        """The lane is gone, and so are its single stanzas."""
        if self.positions(pair):
            self._change({each: None for each in self._targets if each.pair != pair or each.position is None})

    def _change(self, targets: dict[HoldTarget, None]) -> None:
        if self._path is not None and targets != self._targets:
            new = self._path.with_name(f"{FILE}.new")
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="ascii") as file:
                json.dump([target.words() for target in targets], file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        self._targets = targets


def _within(hold: HoldTarget, target: HoldTarget) -> bool:
    if target.position is not None or hold.pair is None:
        return hold == target
    return target.covers(hold.pair)


# The operator's word about one lane: hold it, let it go, try now, give it up; whole, or one stanza of it by its position.
def hold(queue: DeliveryQueue, position: int | None = None) -> None:
    """Write nothing more, or not this one. What waits goes on ageing."""
    if position is None:
        queue.held = True
    else:
        queue.parked.add(position)


def release(queue: DeliveryQueue, position: int | None = None) -> None:
    """The end of a hold; with that of a whole lane all of its stanzas are let go."""
    queue.out_of_order = queue.out_of_order or bool(queue.parked)
    if position is None:
        queue.parked.clear()
        queue.held = False
    else:
        queue.parked.discard(position)
    queue.set_in_order()
    flush(queue)


def flush(queue: DeliveryQueue) -> None:
    """Try now, whatever the back-off says."""
    if queue.held or not len(queue.pair_queue):
        return
    queue.next_hop.retry_now(True)
    if queue.next_hop.ready:
        queue.drain()
    else:
        queue.next_hop.request_delivery()


def drop(queue: DeliveryQueue, quietly: bool, position: int | None = None) -> int:
    """Give up what is not in flight, or one stanza of it; how many. They are bounced, unless `quietly`."""
    end = queue.forget_all if quietly else lambda gone: queue.give_up_on(gone, Cause.DROPPED_BY_OPERATOR)
    if position is None:
        number = len(queue.pair_queue.waiting) + queue.pair_queue.gap_count + len(queue.pair_queue.recent)
        queue.end_all(end)
        return number
    gone = queue.pair_queue.remove(lambda held: held.position == position)
    end(gone)
    return len(gone) or _drop_spooled(queue, position, end)


def _drop_spooled(queue: DeliveryQueue, position: int, end: Callable[[list[QueuedStanza]], None]) -> int:
    """It may stand in the spool alone."""
    spooled_range = queue.pair_queue.spooled_range
    if spooled_range is None or not spooled_range[0] < position <= spooled_range[1]:
        return 0

    def found(rows: list[Spooled]) -> None:
        end(queue.spooled_range.take([row for row in rows if row.position == position]))

    queue.spooled_range.look(position - 1, found)
    return 1
