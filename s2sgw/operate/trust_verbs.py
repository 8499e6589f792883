"""The verbs about trust joined to the parts that answer them: pending, pins, explain, replay."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from s2sgw.config import Config
from s2sgw.gateway.book import PeerBook
from s2sgw.gateway.judge import Judge
from s2sgw.gateway.lanes import Lanes
from s2sgw.gateway.peerstreams import PeerStreams
from s2sgw.gateway.proving import Proving
from s2sgw.gateway.record import Record
from s2sgw.gateway.streams import AcceptedStreams
from s2sgw.net.certificates import Credential
from s2sgw.net.discovery import Discovery
from s2sgw.operate.admin import Verb
from s2sgw.operate.audit import Audit
from s2sgw.operate.explain import Explainer
from s2sgw.operate.pin_verbs import PinVerbs
from s2sgw.operate.replay import Replay
from s2sgw.policy.peers import Peers
from s2sgw.xmpp.jid import Domain


def trust_verbs(
    clock: IReactorTime, config: Callable[[], Config], peers: Peers, book: PeerBook, audit: Audit, *, judge: Judge,
    proving: Proving, discovery: Discovery, record: Record, lanes: Lanes, accepted: AcceptedStreams,
    credential: Callable[[Domain, Domain], Credential | None],
) -> dict[str, Verb]:
    """For `AdminService`."""
    streams = PeerStreams(lanes, accepted)
    pins = PinVerbs(
        book, peers, audit, clock.seconds, waiting=streams.waiting, approved=streams.wake, revoked=streams.close,
    )
    explainer = Explainer(config, peers, judge, discovery, book, record, credential, clock.seconds)
    return {**pins.verbs(), "explain": explainer.explain, "replay": Replay(clock, peers, proving, book).replay}
