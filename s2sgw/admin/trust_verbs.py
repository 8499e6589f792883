"""Builds the verbs about trust: pending, pins, explain, replay."""

from __future__ import annotations

from collections.abc import Callable

from s2sgw.admin.explain import Explainer
from s2sgw.admin.pin_verbs import PinVerbs
from s2sgw.admin.replay import Replay
from s2sgw.admin.server import Verb
from s2sgw.authentication.assessment import ProofRunner
from s2sgw.authentication.judge import Judge
from s2sgw.config import Config
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.net.certificates import Credential
from s2sgw.net.discovery import Discovery
from s2sgw.net.slices import Slices
from s2sgw.net.threads import Threads
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime.policy_change import PeerStreams
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.xmpp.jid import Domain


def trust_verbs(
    slices: Slices, threads: Threads, wall: Callable[[], float], config: Callable[[], Config], peers: PeerPolicies,
    peer_records: PeerRecords, audit: AuditLog, *, judge: Judge, proving: ProofRunner, discovery: Discovery, record: EventRecord,
    queues: DeliveryQueues, accepted: AcceptedStreams, initiated: InitiatedStreams,
    credential: Callable[[Domain, Domain], Credential | None],
) -> dict[str, Verb]:
    """Return the verbs by name. `wall` returns the seconds since the epoch. Files are read in `threads`."""
    streams = PeerStreams(queues, accepted, initiated)
    pins = PinVerbs(
        peer_records, peers, audit, wall, waiting=streams.waiting, approved=streams.wake, revoked=streams.close,
    )
    explainer = Explainer(config, peers, judge, discovery, peer_records, record, credential, wall, threads, queues)
    replay = Replay(slices, threads, peers, proving, peer_records, wall)
    return {**pins.verbs(), "explain": explainer.explain, "replay": replay.replay}
