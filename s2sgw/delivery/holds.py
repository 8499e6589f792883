"""The holds of the operator on peers, lanes and single stanzas. They are kept on disk, so they outlast a restart.

Nodes of a cluster share them (`cluster.shared_holds`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from s2sgw.storage.atomic_file import is_disk_full, set_aside, write_atomically
from s2sgw.xmpp.jid import Domain, Pair

FILE = "held.json"
#: Holds at a time.
HOLDS = 1000
#: The largest number of a stanza: SQLite's largest integer.
MOST = 2**63 - 1


class TooManyHolds(Exception):
    """The number of holds is at its limit."""


class NoStanzaNumber(ValueError):
    """The third word of a target is not the number of a stanza."""


class HoldTarget(NamedTuple):
    """One peer (all lanes from and to it), one lane, or one stanza of a lane. Either `peer` or `pair` is set."""

    peer: Domain | None = None
    pair: Pair | None = None
    position: int | None = None

    def covers(self, pair: Pair) -> bool:
        """Return whether the target covers the lane of `pair`, or a stanza of it."""
        return pair == self.pair or (self.peer is not None and self.peer in pair)

    def words(self) -> list[str | int]:
        """Return the target as a list of words and a number."""
        names = [self.peer.ascii] if self.peer is not None else [each.ascii for each in self.pair or ()]
        return [*names, *([] if self.position is None else [self.position])]

    @classmethod
    def read(cls, words: list[Any]) -> HoldTarget:
        """Return the target that one to three `words` of JSON gave. Raises `ValueError`."""
        if not all(isinstance(word, str) for word in words[:2]):
            raise ValueError("a domain must be text")
        names = [Domain.parse(word) for word in words[:2]]
        if len(names) == 1:
            return cls(peer=names[0])
        return cls(pair=Pair(*names), position=_position(words[2]) if len(words) > 2 else None)

    def __str__(self) -> str:
        return " ".join(map(str, self.words()))


def _position(word: object) -> int:
    """Return the number of a stanza, also from its digits. Raises `NoStanzaNumber`."""
    number = int(word) if isinstance(word, str) and word.isascii() and word.isdigit() and len(word) < 20 else word
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST:
        raise NoStanzaNumber("the number of a stanza must be a whole number, at least 1")
    return number


class Holds(Protocol):
    """The holds that are in force."""

    def __iter__(self) -> Iterator[HoldTarget]: ...

    def holds(self, pair: Pair) -> bool:
        """Return whether all of the lane of `pair` is held back."""

    def positions(self, pair: Pair) -> set[int]:
        """Return the positions of the single stanzas of the lane that are held back."""

    async def add(self, target: HoldTarget) -> None:
        """Hold `target` back. Raises `TooManyHolds`, or `OSError` if that cannot be written."""

    async def discard(self, target: HoldTarget) -> int:
        """End this hold, and those of all that it covers. Return how many. Raises `OSError`."""

    def ended(self, pair: Pair, positions: Collection[int]) -> None:
        """Remove the holds of stanzas that are gone. If this cannot be written now, `write_again` writes it."""

    def forget(self, pair: Pair) -> None:
        """End the holds of single stanzas of `pair`: its queue is empty."""

    def write_again(self) -> None:
        """Write the changes that could not be written before."""


class OperatorHolds(Holds):
    """The holds of a gateway that is alone, written to `<state>/held.json` at each change.

    A file that cannot be parsed is renamed, and `report` is called. Then no holds are in force.
    """

    def __init__(self, state: Path | None = None, report: Callable[[str], None] = lambda text: None) -> None:
        self._path = None if state is None else state / FILE
        self._report = report
        self._targets: dict[HoldTarget, None] = {}
        #: whether a change could not be written yet
        self._unwritten = False
        if self._path is not None and self._path.exists():
            self._targets = dict.fromkeys(self._read(self._path))

    def _read(self, path: Path) -> list[HoldTarget]:
        """Return the contents of the file. Raises `OSError` if it cannot be read: without it, held stanzas would be delivered."""
        text = path.read_bytes()
        try:
            targets = json.loads(text)
            if not isinstance(targets, list) or not all(isinstance(words, list) for words in targets):
                raise ValueError("it is not a list of holds")
            return [HoldTarget.read(words) for words in targets]
        except (ValueError, TypeError) as error:
            aside = set_aside(path, "damaged")
            self._report(f"{path} is damaged ({error}). It was set aside as {aside}. Nothing is held back by the operator now")
            return []

    def __iter__(self) -> Iterator[HoldTarget]:
        return iter(self._targets)

    def holds(self, pair: Pair) -> bool:
        return any(target.position is None and target.covers(pair) for target in self._targets)

    def positions(self, pair: Pair) -> set[int]:
        return {target.position for target in self._targets if target.pair == pair and target.position is not None}

    async def add(self, target: HoldTarget) -> None:
        if target not in self._targets and len(self._targets) >= HOLDS:
            raise TooManyHolds(f"at most {HOLDS} holds at a time")
        self._change({**self._targets, target: None})

    async def discard(self, target: HoldTarget) -> int:
        """See `Holds`.

        A full disk is no reason to fail: held stanzas may have filled it. `write_again` writes the file when there is room.
        """
        left = {each: None for each in self._targets if not within(each, target)}
        ended = len(self._targets) - len(left)
        try:
            self._change(left)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._targets, self._unwritten = left, True
            self._report(f"the end of a hold could not be written yet: {error}. After a restart before that, it is held again")
        return ended

    def ended(self, pair: Pair, positions: Collection[int]) -> None:
        left = {each: None for each in self._targets if each.pair != pair or each.position not in positions}
        if len(left) < len(self._targets):
            self._targets = left
            self._write_or_report(new=not self._unwritten)

    def forget(self, pair: Pair) -> None:
        self.ended(pair, self.positions(pair))

    def write_again(self) -> None:
        if self._unwritten:
            self._write_or_report(new=False)

    def _write_or_report(self, new: bool) -> None:
        """Write the holds. If that fails, try again later, and report the failure if it is `new`."""
        try:
            self._write(self._targets)
        except OSError as error:
            self._unwritten = True
            if new:
                self._report(f"the end of a hold could not be written yet: {error}")
        else:
            self._unwritten = False

    def _change(self, targets: dict[HoldTarget, None]) -> None:
        if targets != self._targets:
            self._write(targets)
            self._unwritten = False
        self._targets = targets

    def _write(self, targets: dict[HoldTarget, None]) -> None:
        if self._path is not None:
            write_atomically(self._path, json.dumps([target.words() for target in targets]).encode("ascii"))


def within(hold: HoldTarget, target: HoldTarget) -> bool:
    """Return whether `hold` is of `target`, or of a part of it."""
    if target.position is not None or hold.pair is None:
        return hold == target
    return target.covers(hold.pair)
