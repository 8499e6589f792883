"""Answers to IQs that go no further: those to our own pings (R41), and late ones to requests already answered for (R33)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from s2sgw.xmpp.stanza import Stanza

#: Requests in doubt whose late answers are still dropped, for one pair of domains; the oldest goes first.
REMEMBERED = 1000


class Answers:
    """What is caught of the answers that arrive on one lane."""

    def __init__(self) -> None:
        self.pings: dict[str, Callable[[], None]] = {}
        self._late: OrderedDict[tuple[str | None, str, str], None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self.pings or self._late)

    def drop_late(self, request: Stanza) -> None:
        """`request` was answered by an error of ours: should its own answer come after all, it is dropped."""
        self._late[request.id, request.to, request.from_] = None
        if len(self._late) > REMEMBERED:
            self._late.popitem(last=False)

    def awaits(self, stanza: Stanza) -> bool:
        """Whether `stanza` answers a ping of ours."""
        return stanza.kind == "iq" and stanza.type in ("result", "error") and stanza.id in self.pings

    def take(self, stanza: Stanza) -> bool:
        """Whether `stanza` is caught here; who waits for it is told."""
        if stanza.kind != "iq" or stanza.type not in ("result", "error"):
            return False
        answered = self.pings.get(stanza.id or "")
        if answered is not None:
            answered()
            return True
        key = (stanza.id, stanza.from_, stanza.to)
        if key in self._late:
            del self._late[key]
            return True
        return False
