"""What of an accepted stream is in safe hands: the longest prefix over all its pairs, however their runs settle (R35)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from s2sgw.queue.held import Receipt


class HandledStanzas:
    """Gives out a receipt for each run of stanzas; `tell(number)` hears how many more, from the first on, are settled."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self.tell = tell
        self._open: deque[Receipt] = deque()

    @property
    def open(self) -> bool:
        """Some are not settled, so that their sender does not know what became of them."""
        return bool(self._open)

    def receipt(self, total: int) -> Receipt:
        """For the next `total` stanzas of the stream."""
        receipt = Receipt(total, self._settled)
        self._open.append(receipt)
        return receipt

    def _settled(self) -> None:
        number = 0
        while self._open and not self._open[0].left:
            number += self._open.popleft().total
        if number:
            self.tell(number)
