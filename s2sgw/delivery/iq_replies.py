"""Replies to IQ requests that are not forwarded: those to the gateway's own pings (R41), and late ones (R33)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from s2sgw.queue.evidence import Rule
from s2sgw.reporting.record import Direction
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.registered_domain import registered_domain
from s2sgw.xmpp.stanza import Stanza

#: Requests in doubt whose late replies are still dropped, in all queues. The peer that has the most, with all names of its
#: registered domain, loses its oldest first.
MAX_LATE_REPLIES = 20_000

#: The pair of the reply, and a hash of id and addresses, which may be long. It is valid in this process only.
_Key = tuple[Pair, int]


class PairDirections(Protocol):
    """Tells which side of a pair is the peer."""

    def direction(self, pair: Pair) -> Direction:
        """Return the direction of the stanzas of `pair`."""


class LateReplies:
    """The requests of all queues that an error of ours has answered. A later reply of the other side is dropped.

    A sender may send a request again with the same id. One more reply is let through for each such request.
    """

    def __init__(self, directions: PairDirections) -> None:
        self._directions = directions
        #: request -> the number of replies that are let through before one is dropped
        self._requests: FairDict[_Key, int] = FairDict(MAX_LATE_REPLIES + 1, self._peer_of)
        #: the pairs in whose queues replies must be dropped -> their number
        self.pairs: Counter[Pair] = Counter()

    def _peer_of(self, key: _Key, passes: int) -> str:
        """Return the registered domain of the peer, which is the other side of our server, whichever of them is silent."""
        pair = key[0]
        is_inbound = self._directions.direction(pair) == "inbound"
        return registered_domain((pair.sender if is_inbound else pair.recipient).ascii)

    def expect(self, pair: Pair, request: Stanza) -> None:
        """Drop a reply to `request` that arrives in the queue of `pair`: an error of ours answers the request."""
        key = _key(pair, request.id, request.to, request.from_)
        asked_again = self._requests.get(key)
        if asked_again is None:
            self.pairs[pair] += 1
        self._requests[key] = max(0, (asked_again or 0) - 1)
        if len(self._requests) > MAX_LATE_REPLIES:
            self._forget(self._requests.least_wanted())

    def asked_again(self, pair: Pair, request: Stanza) -> None:
        """Let one reply through that would be dropped: `request`, whose reply arrives in the queue of `pair`, is sent again."""
        key = _key(pair, request.id, request.to, request.from_)
        if key in self._requests:
            self._requests[key] += 1

    def still_asked(self, pair: Pair, request: Stanza, number: int) -> None:
        """Let at least `number` replies through: so many requests like `request` wait to be sent."""
        key = _key(pair, request.id, request.to, request.from_)
        if self._requests.get(key, number) < number:
            self._requests[key] = number

    def expects(self, pair: Pair, request: Stanza) -> bool:
        """Return whether an error of ours has answered `request`, whose reply would arrive in the queue of `pair`."""
        return _key(pair, request.id, request.to, request.from_) in self._requests

    def take(self, pair: Pair, reply: Stanza) -> bool:
        """Return whether `reply` is dropped. A request has only one reply."""
        key = _key(pair, reply.id, reply.from_, reply.to)
        passes = self._requests.get(key)
        if passes is None:
            return False
        if passes:
            self._requests[key] = passes - 1
            return False
        self._forget(key)
        return True

    def _forget(self, key: _Key) -> None:
        del self._requests[key]
        self.pairs[key[0]] -= 1
        if not self.pairs[key[0]]:
            del self.pairs[key[0]]


def _key(pair: Pair, id: str | None, asked: str, asking: str) -> _Key:
    return pair, hash((id, asked, asking))


class PingReplies:
    """The replies that are caught in the queue of `pair`."""

    __slots__ = ("_late", "_pair", "pings")

    def __init__(self, pair: Pair, late: LateReplies) -> None:
        #: the ids of the gateway's own unanswered pings -> the function to call with the answer
        self.pings: dict[str, Callable[[], None]] = {}
        self._pair = pair
        self._late = late

    def expect(self, id: str, answered: Callable[[], None]) -> None:
        """Call `answered` when the reply to the ping with this unguessable id arrives (R41)."""
        self.pings[id] = answered

    def give_up(self, id: str) -> None:
        """Stop waiting for the reply to this ping. A later reply is dropped."""
        if self.pings.pop(id, None) is not None:
            ours, theirs = self._pair.recipient.text, self._pair.sender.text
            self._late.expect(self._pair, Stanza("iq", b"", theirs, ours, "get", id))

    def awaits(self, stanza: Stanza) -> bool:
        """Return whether `stanza` replies to a ping of the gateway."""
        return stanza.kind == "iq" and stanza.type in ("result", "error") and stanza.id in self.pings

    def is_over(self, request: Stanza) -> bool:
        """Return whether no error may answer `request` any more: it is a ping of the gateway's own, or has its error."""
        return request.id in self.pings or self._late.expects(self._pair, request)

    def take(self, stanza: Stanza) -> Rule | None:
        """Return the rule by which `stanza` is dropped; None: it is forwarded.

        If it replies to a ping, the ping is answered now.
        """
        if stanza.kind != "iq" or stanza.type not in ("result", "error"):
            return None
        answered = self.pings.pop(stanza.id or "", None)
        if answered is not None:
            answered()
            return Rule.PING_REPLY
        return Rule.LATE_REPLY if self._late.take(self._pair, stanza) else None
