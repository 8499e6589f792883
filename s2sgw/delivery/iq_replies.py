"""Answers to IQs that go no further: those to our own pings (R41), and late ones to requests already answered for (R33)."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.stanza import Stanza

#: Requests in doubt whose late answers are still dropped, in all; the oldest goes first.
REMEMBERED = 20_000


class LateReplies:
    """The requests that were answered by an error of ours: one memory for all lanes, since an answer may come when nothing
    else is left of its lane."""

    def __init__(self) -> None:
        self._requests: OrderedDict[tuple[Pair, str | None, str, str], None] = OrderedDict()
        self._numbers: Counter[Pair] = Counter()

    def __contains__(self, pair: Pair) -> bool:
        """Whether any answer of the lane `pair` is to be dropped."""
        return pair in self._numbers

    def expect(self, pair: Pair, request: Stanza) -> None:
        """Should an answer to `request` come after all, by the lane `pair`, it is dropped."""
        key = (pair, request.id, request.to, request.from_)
        self._numbers[pair] += key not in self._requests
        self._requests[key] = None
        if len(self._requests) > REMEMBERED:
            self._forget(next(iter(self._requests)))

    def take(self, pair: Pair, answer: Stanza) -> bool:
        """Whether `answer` is such a one; a request has but one answer."""
        key = (pair, answer.id, answer.from_, answer.to)
        if key not in self._requests:
            return False
        self._forget(key)
        return True

    def _forget(self, key: tuple[Pair, str | None, str, str]) -> None:
        del self._requests[key]
        self._numbers[key[0]] -= 1
        if not self._numbers[key[0]]:
            del self._numbers[key[0]]


class PingReplies:
    """What is caught of the answers that arrive on the lane `pair`."""

    def __init__(self, pair: Pair, late: LateReplies) -> None:
        self.pings: dict[str, Callable[[], None]] = {}
        self._pair = pair
        self._late = late

    def __bool__(self) -> bool:
        return bool(self.pings) or self._pair in self._late

    def give_up(self, id: str) -> None:
        """Nobody waits for the answer to this ping any more; should it come after all, it is dropped."""
        if self.pings.pop(id, None) is not None:
            ours, theirs = self._pair.recipient.text, self._pair.sender.text
            self._late.expect(self._pair, Stanza("iq", b"", theirs, ours, "get", id))

    def awaits(self, stanza: Stanza) -> bool:
        """Whether `stanza` answers a ping of ours."""
        return stanza.kind == "iq" and stanza.type in ("result", "error") and stanza.id in self.pings

    def take(self, stanza: Stanza) -> bool:
        """Whether `stanza` is caught here; who waits for it is told."""
        if stanza.kind != "iq" or stanza.type not in ("result", "error"):
            return False
        answered = self.pings.pop(stanza.id or "", None)
        if answered is not None:
            answered()
            return True
        return self._late.take(self._pair, stanza)
