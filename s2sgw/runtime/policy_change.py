"""The effects of a changed policy on pairs, streams and queues.

Pairs are admitted anew, streams that it refuses are closed gracefully, and
waiting stanzas for a barred peer are bounced.

A stream is judged by the evidence of its handshake. A peer that cannot be looked up now is not refused for that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.authentication.refusals import barred
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.net.slices import SlicedWork, Slices, few_at_once
from s2sgw.peerdb.keys import key_of
from s2sgw.policy.peers import PeerPolicies
from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.initiated_streams import InitiatedStreams, NegotiatedStream
from s2sgw.stream.events import Refusal
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair

#: Streams that are judged at the same time.
CONCURRENT = 32


class AcceptedStreamReview(Protocol):
    """Judges open streams of peers by the policy in force (`s2s.federation_receiving`)."""

    async def reconsider(self, connection: StreamConnection, pair: Pair, method: str) -> Refusal | None:
        """Return why the stream is refused now, or None. `method` proved `pair` on it; "": it is not proven yet."""


class InitiatedStreamReview(Protocol):
    """Judges our open streams to peers by the policy in force (`s2s.federation_initiating`)."""

    async def reconsider(self, connection: StreamConnection, pair: Pair, target: Target) -> Refusal | None:
        """Return why the stream to `target` is refused now, or None."""


class RouterLinks(Protocol):
    """The connections to jabberd2 routers."""

    def ingresses(self) -> list[StreamIngress]:
        """Return the ingresses of the stanzas that come in by them."""


_Question = Callable[[], Coroutine[Any, Any, Refusal | None]]


class Closed(NamedTuple):
    """A stream that the policy refuses."""

    direction: str
    peer: str
    local: str
    address: str
    cause: str
    detail: str


class PolicyChange:
    """Brings the streams and queues of a gateway in line with its policy, in slices: there may be very many of them."""

    log = Logger("s2sgw")

    def __init__(
        self, peers: PeerPolicies, accepted: AcceptedStreams, initiated: InitiatedStreams, queues: DeliveryQueues,
        receiving: AcceptedStreamReview, initiating: InitiatedStreamReview, slices: Slices, links: RouterLinks | None = None,
    ) -> None:
        """Take the services. `links`: the other sources of stanzas, beside the accepted streams and those that we opened."""
        self._links = links
        self._peers = peers
        self._accepted = accepted
        self._initiated = initiated
        self._queues = queues
        self._receiving = receiving
        self._initiating = initiating
        self._slices = slices

    def apply(self, keep_streams: bool = False) -> Deferred[list[Closed]]:
        """Admit all pairs anew, judge all streams again, and bounce waiting stanzas for barred peers.

        The result is the list of streams that were closed. With `keep_streams` no stream is closed.
        """
        return self._slices.run(self._apply(() if keep_streams else self._questions()))

    def apply_bars(self) -> Deferred[list[Closed]]:
        """Do the same after a change of the deny lists alone: a stream is closed if its peer is barred, and not judged."""
        return self._slices.run(self._apply(self._bars()))

    def _apply(self, calls: Iterable[Callable[[], Deferred[Closed | None]]]) -> SlicedWork[list[Closed]]:
        yield from self._admit_anew()
        answers = yield from few_at_once(calls, CONCURRENT)
        yield from self._give_back()
        return [closed for closed in answers if closed is not None]

    def _admit_anew(self) -> SlicedWork[None]:
        for _, owner in self._accepted:
            owner.reconsider()
            yield None
        for incoming in () if self._links is None else self._links.ingresses():
            incoming.reconsider()
            yield None
        for stream in self._initiated:
            if stream.incoming is not None:
                stream.incoming.reconsider()
            yield None

    # --- streams ---

    def _questions(self) -> Iterator[Callable[[], Deferred[Closed | None]]]:
        """Yield the judgement of each stream: once for each peer that it carries, for any number of pairs."""
        for connection, owner in self._accepted:
            for pair, method in _judged_once(owner) if owner.side.leg == "federation" else ():
                ask: _Question = partial(self._receiving.reconsider, connection, pair, method)
                yield partial(self._ask, connection, "inbound", pair, ask)
        for unready in self._initiated.negotiated:  # first: those that become ready meanwhile are among the others
            if unready.leg == "federation":
                yield partial(self._ask, unready.connection, "outbound", unready.pair, partial(self._judge_unready, unready))
        for stream in self._initiated:
            if stream.leg == "federation":
                pair = stream.pair  # every pair on it has the same peer, and shows it the same certificate
                ask = partial(self._initiating.reconsider, stream.connection, pair, stream.target)
                yield partial(self._ask, stream.connection, "outbound", pair, ask)

    async def _judge_unready(self, stream: NegotiatedStream) -> Refusal | None:
        """Judge a stream of ours that is not ready yet. If it is not refused, it may go on under the policy of now.

        One that is being judged is judged again when that is done: files that the policy names may have changed, too.
        """
        if stream.judging:
            stream.judged_by = None
            return await self._barred(stream.pair.recipient)
        policy = self._peers.policy(stream.pair.recipient)
        refusal = await self._initiating.reconsider(stream.connection, stream.pair, stream.target)
        if refusal is None:
            stream.judged_by = policy
        return refusal

    def _bars(self) -> Iterator[Callable[[], Deferred[Closed | None]]]:
        """Yield the closing of each stream of which a peer is barred."""
        for connection, owner in self._accepted:
            for pair, _ in _judged_once(owner) if owner.side.leg == "federation" else ():
                yield partial(self._ask, connection, "inbound", pair, partial(self._barred, pair.sender))
        for stream in (*self._initiated, *self._initiated.negotiated):
            if stream.leg == "federation":
                peer = stream.pair.recipient
                yield partial(self._ask, stream.connection, "outbound", stream.pair, partial(self._barred, peer))

    async def _barred(self, peer: Domain) -> Refusal | None:
        bar = self._peers.policy(peer).bar
        return None if bar is None else barred(bar)

    def _ask(self, connection: StreamConnection, direction: str, pair: Pair, ask: _Question) -> Deferred[Closed | None]:
        if connection.ending is not None:
            return succeed(None)
        asked = Deferred.fromCoroutine(ask())
        return asked.addCallback(self._answered, connection, direction, pair).addErrback(self._unanswered)

    def _answered(
        self, refusal: Refusal | None, connection: StreamConnection, direction: str, pair: Pair,
    ) -> Closed | None:
        if refusal is None or connection.ending is not None:
            return None
        ending = replace(refusal.ending, condition=StreamCondition.POLICY_VIOLATION.value)
        address = connection.peer_address
        connection.fail(Refusal(StreamCondition.POLICY_VIOLATION, f"The policy has changed. {refusal.text}", ending))
        peer, local = pair if direction == "inbound" else pair.inverse
        return Closed(direction, str(peer), str(local), address, ending.cause.value, ending.detail)

    def _unanswered(self, failure: Failure) -> None:
        """Log the failure of a judgement. It closes nothing."""
        self.log.failure("a stream could not be judged again", failure)

    # --- lanes ---

    def _give_back(self) -> SlicedWork[None]:
        """Bounce waiting stanzas for a barred peer."""
        for queue in self._queues:
            if queue.direction == "outbound" and len(queue.pair_queue):
                bar = self._peers.policy(queue.pair.recipient).bar
                if bar is not None:
                    queue.give_up(bar.cause)
            yield None


def _judged_once(owner: AcceptedStream) -> Iterator[tuple[Pair, str]]:
    """Yield one pair for each peer on the stream and the method that proved it; "": not proven yet."""
    once: dict[tuple[Domain, str], Pair] = {}
    for pair, method in list(owner.methods.items()):
        once.setdefault((pair.sender, method), pair)
    if not once and owner.peer is not None and owner.local is not None:
        once[owner.peer, ""] = Pair(owner.peer, owner.local)
    for (_, method), pair in once.items():
        yield pair, method


class PeerStreams:
    """All streams and queues of one peer, as they are when a method is called."""

    def __init__(self, queues: DeliveryQueues, accepted: AcceptedStreams, initiated: InitiatedStreams) -> None:
        self._queues = queues
        self._accepted = accepted
        self._initiated = initiated

    def waiting(self, peer: Domain) -> int:
        """Return the number of stanzas that wait for the peer, in memory or on disk."""
        return sum(len(queue.pair_queue) for queue in self._queues.towards(peer))

    def wake(self, peer: Domain) -> None:
        """Retry the peer at once, also during a back-off."""
        self._queues.retry_now(peer, urged=True)

    def close(self, peer: Domain, key: Fingerprint) -> int:
        """Close the streams that the peer's key had opened, also those that are being negotiated. Return how many."""
        text = "the approval of this key was revoked here"
        condition = StreamCondition.POLICY_VIOLATION
        ours = [each for each in self._initiated.negotiated if each.leg == "federation" and each.pair.recipient == peer]
        connections = dict.fromkeys([*self._connections(peer), *(each.connection for each in ours)])
        closed = [each for each in connections if key_of(each.chain) == key and each.ending is None]
        for connection in closed:
            connection.fail(Refusal(condition, text, Ending(Cause.KEY_REVOKED, text, condition=condition.value)))
        return len(closed)

    def disconnect(self, peer: Domain, text: str) -> int:
        """Close all streams with the peer. Return how many. Either side may open new ones."""
        condition = StreamCondition.RESET
        open_ = [each for each in dict.fromkeys(self._connections(peer)) if each.ending is None]
        for connection in open_:
            connection.fail(Refusal(condition, text, Ending(Cause.CLOSED, text, condition=condition.value)))
        return len(open_)

    def _connections(self, peer: Domain) -> Iterator[StreamConnection]:
        for connection, owner in self._accepted:
            if owner.side.leg == "federation" and (owner.peer == peer or peer in owner.senders):
                yield connection
        for stream in self._initiated:
            if stream.leg == "federation" and stream.pair.recipient == peer:
                yield stream.connection
