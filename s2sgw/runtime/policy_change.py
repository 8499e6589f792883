"""What a changed policy means for what is under way: pairs are admitted anew, streams that it refuses are closed in order,
and what waits for a peer that is barred comes back.

A judgement is made of what the stream showed when it was opened. A peer that cannot be looked up just now is not refused
for that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.net.connection import StreamConnection
from s2sgw.net.discovery import Target
from s2sgw.peerdb.keys import key_of
from s2sgw.policy.peers import PeerPolicies
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.stream.events import Refusal
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair

#: Streams that are judged at once.
CONCURRENT = 32


class AcceptedStreamReview(Protocol):
    """Judges open streams of peers by the policy in force (`s2s.federation_receiving`)."""

    async def reconsider(self, connection: StreamConnection, pair: Pair, method: str) -> Refusal | None:
        """Return why the stream is refused now, or None. `method` proved `pair` on it; "": nothing has yet."""


class InitiatedStreamReview(Protocol):
    """Judges our open streams to peers by the policy in force (`s2s.federation_initiating`)."""

    async def reconsider(self, connection: StreamConnection, pair: Pair, target: Target) -> Refusal | None:
        """Return why the stream to `target` is refused now, or None."""


class RouterLinks(Protocol):
    """The connections to jabberd2 routers."""

    def ingresses(self) -> list[StreamIngress]:
        """Return where stanzas come in by them."""


class Closed(NamedTuple):
    """A stream that the policy refuses."""

    direction: str
    peer: str
    local: str
    address: str
    cause: str
    detail: str


class _Question(NamedTuple):
    connection: StreamConnection
    direction: str
    pair: Pair
    ask: Callable[[], Awaitable[Refusal | None]]


class PolicyChange:
    """Brings the streams and lanes of a gateway in line with its policy."""

    log = Logger("s2sgw")

    def __init__(
        self, peers: PeerPolicies, accepted: AcceptedStreams, initiated: InitiatedStreams, queues: DeliveryQueues,
        receiving: AcceptedStreamReview, initiating: InitiatedStreamReview, links: RouterLinks | None = None,
    ) -> None:
        """`links`: where stanzas come in beside the accepted streams and those that we opened."""
        self._links = links
        self._peers = peers
        self._accepted = accepted
        self._initiated = initiated
        self._queues = queues
        self._receiving = receiving
        self._initiating = initiating

    async def apply(self, keep_streams: bool = False) -> list[Closed]:
        """Look at everything again; what was closed. `keep_streams`: no stream is."""
        for _, owner in self._accepted:
            owner.reconsider()
        for incoming in () if self._links is None else self._links.ingresses():
            incoming.reconsider()
        for stream in self._initiated:
            if stream.incoming is not None:
                stream.incoming.reconsider()
        closed = [] if keep_streams else await self._close()
        self._give_back()
        return closed

    # --- streams ---

    async def _close(self) -> list[Closed]:
        places = DeferredSemaphore(CONCURRENT)
        asked = [places.run(self._ask, question) for question in [*self._of_accepted(), *self._of_initiated()]]
        outcomes = await DeferredList(asked)
        return [closed for _, closed in outcomes if closed is not None]

    def _of_accepted(self) -> Iterator[_Question]:
        for connection, owner in self._accepted:
            methods = dict(owner.methods)
            if not methods and owner.peer is not None and owner.local is not None:
                methods[Pair(owner.peer, owner.local)] = ""
            for pair, method in methods.items() if owner.side.leg == "federation" else ():
                yield _Question(connection, "inbound", pair, partial(self._receiving.reconsider, connection, pair, method))

    def _of_initiated(self) -> Iterator[_Question]:
        for stream in self._initiated:
            for pair in stream.pairs if stream.leg == "federation" else ():
                ask = partial(self._initiating.reconsider, stream.connection, pair, stream.target)
                yield _Question(stream.connection, "outbound", pair, ask)

    def _ask(self, question: _Question) -> Deferred[Closed | None]:
        asked = Deferred.fromCoroutine(_awaited(question.ask()))
        return asked.addCallback(self._answered, question).addErrback(self._unanswered)

    def _answered(self, refusal: Refusal | None, question: _Question) -> Closed | None:
        connection = question.connection
        if refusal is None or connection.ending is not None:
            return None
        ending = replace(refusal.ending, condition=StreamCondition.POLICY_VIOLATION.value)
        address = connection.peer_address
        connection.fail(Refusal(StreamCondition.POLICY_VIOLATION, f"The policy has changed. {refusal.text}", ending))
        peer, local = question.pair if question.direction == "inbound" else question.pair.inverse
        return Closed(question.direction, str(peer), str(local), address, ending.cause.value, ending.detail)

    def _unanswered(self, failure: Failure) -> None:
        """A mistake of ours closes nothing."""
        self.log.failure("a stream could not be judged again", failure)

    # --- lanes ---

    def _give_back(self) -> None:
        """What waits for a peer that is barred waits in vain."""
        for queue in self._queues:
            bar = self._peers.policy(queue.pair.recipient).bar if queue.direction == "outbound" else None
            if bar is not None and len(queue.pair_queue):
                queue.give_up(bar.cause)


async def _awaited(question: Awaitable[Refusal | None]) -> Refusal | None:
    return await question


# All streams and lanes of one peer: what waits for it, and what an operator's word about its key does to them.
class PeerStreams:
    """Finds them at the moment of the question."""

    def __init__(self, queues: DeliveryQueues, accepted: AcceptedStreams, initiated: InitiatedStreams) -> None:
        self._queues = queues
        self._accepted = accepted
        self._initiated = initiated

    def waiting(self, peer: Domain) -> int:
        """Stanzas that wait for the peer, in memory or on disk."""
        return sum(len(queue.pair_queue) for queue in self._queues if queue.pair.recipient == peer)

    def wake(self, peer: Domain) -> None:
        """Try again at once to reach the peer, whatever is known of it."""
        self._queues.retry_now(peer, urged=True)

    def close(self, peer: Domain, key: Fingerprint) -> int:
        """Close what the peer's key had opened; how many streams."""
        text = "the approval of this key was revoked here"
        condition = StreamCondition.POLICY_VIOLATION
        closed = [each for each in dict.fromkeys(self._connections(peer)) if key_of(each.chain) == key and each.ending is None]
        for connection in closed:
            connection.fail(Refusal(condition, text, Ending(Cause.KEY_REVOKED, text, condition=condition.value)))
        return len(closed)

    def _connections(self, peer: Domain) -> Iterator[StreamConnection]:
        for connection, owner in self._accepted:
            if owner.side.leg == "federation" and (owner.peer == peer or peer in owner.senders):
                yield connection
        for stream in self._initiated:
            if stream.leg == "federation" and stream.pair.recipient == peer:
                yield stream.connection
