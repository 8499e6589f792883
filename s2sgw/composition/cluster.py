"""The parts of a node of a cluster: engine, spool in the engine, membership and homes (docs/cluster.md).

This module, and all that it imports, is imported only with the section `[cluster]`.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from s2sgw.backend.private_ca import CERTIFICATE_FILE
from s2sgw.cluster.home_table import HomeTable
from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.members import MemberNotice, Members, MemberTimes
from s2sgw.cluster.membership import Membership, TCPProbe
from s2sgw.cluster.nats_connection import Login
from s2sgw.cluster.new_homes import NewHomes
from s2sgw.cluster.questions import Questions
from s2sgw.cluster.reactor_loop import ReactorLoop
from s2sgw.cluster.shared_book import SharedBook
from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_holds import SharedHolds
from s2sgw.cluster.shared_keys import SharedKeys
from s2sgw.cluster.shared_pending import SharedPending
from s2sgw.cluster.shared_proofs import SharedProofs
from s2sgw.cluster.shared_settings import SettingsGuard, SharedSettings, digest
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.cluster.subjects import SPOOL_STREAMS
from s2sgw.composition.peer_custody import QueuedPeers
from s2sgw.composition.returned_stanzas import ReturnedStanzas
from s2sgw.config import Config
from s2sgw.config.cross_checks import tcp_place
from s2sgw.config.secret_file import read_secret
from s2sgw.config.sections import Cluster
from s2sgw.delivery.custody import Custody
from s2sgw.ingress.homes import home_of
from s2sgw.ingress.pair_ingress import IngressServices
from s2sgw.net.write_permission import WriteLease
from s2sgw.runtime.policy_change import PeerStreams
from s2sgw.s2s.accepted_streams import AcceptedStreams
from s2sgw.s2s.initiated_streams import InitiatedStreams
from s2sgw.stream.dialback import derive
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.wall_clock import WallClock

#: The room of the streams, as a part of `queue.disk`: records have headers, and marks and removals need room too.
ROOM = 1.25
#: Bytes of a record beside its stanza.
RECORD_BYTES = 16 * 1024


@dataclass(eq=False)
class MembershipNotices:
    """The `MembershipUser`: gives each notice first to the homes, and then to all others that are in `observers`."""

    homes: ClusterHomes | None = None
    observers: list[Callable[[MemberNotice], object]] = field(default_factory=list)

    def noticed(self, notice: MemberNotice) -> None:
        """See `MembershipUser`. When a session has ended, its peers are dropped, some in each turn of the reactor."""
        if self.homes is not None:
            self.homes.noticed(notice)
        for observer in self.observers:
            observer(notice)

    @property
    def dropping(self) -> bool:
        """Return whether peers of a session that has ended are still to be dropped: nothing may be written."""
        return self.homes is not None and self.homes.dropping

    def lost(self, peer: Domain) -> None:
        """The engine has refused a write of `peer`: another node is its home."""
        if self.homes is not None:
            self.homes.lost(peer)


@dataclass(frozen=True, slots=True)
class EngineParts:
    """The parts of the node `node` that are built before the queues: the engine, the spool in it, and the membership."""

    node: str
    loop: ReactorLoop
    engine: JetStreamEngine
    spool: JetStreamSpool
    members: Members
    membership: Membership
    notices: MembershipNotices
    lease: WriteLease
    settings: SettingsGuard
    book: SharedBook
    new_homes: NewHomes


@dataclass(frozen=True, slots=True)
class ClusterParts(EngineParts):
    """All parts of a node: these, the homes of peers, what is given back, and what answers the questions of other nodes."""

    homes: ClusterHomes
    returned: ReturnedStanzas
    questions: Questions = field(default_factory=Questions)


def build_engine(
    config: Config, local_domains: set[Domain], reactor: Any, wall: WallClock, secret: bytes, report: Callable[[str], None],
) -> EngineParts:
    """Build the engine of `[cluster]` and what rests on it. Nothing is connected.

    `local_domains` is the set in force. `report` gets texts about faults of the spool. Raises `OSError` or `ValueError` if a file
    cannot be used.
    """
    cluster = config.cluster
    assert cluster.node is not None
    assert cluster.listen is not None
    node, notices = cluster.node, MembershipNotices()
    home = partial(home_of, local_domains=local_domains)
    loop = ReactorLoop(reactor)
    engine = JetStreamEngine(
        cluster.engine, loop, record_bytes=largest_stanza(config) + RECORD_BYTES, shard_bytes=shard_bytes(config.queue.disk),
        tls=_tls(cluster), login=_login(cluster),
    )
    spool = JetStreamSpool(
        engine, config.queue.disk, partial(reactor.callLater, 0), reactor, session=secrets.token_hex(8), wall=wall.seconds,
        peer_of=home, share=int(config.queue.disk * config.queue.share),
        lost=notices.lost, report=report,
    )
    times = MemberTimes(lease=cluster.lease, bridge=cluster.bridge)
    place = listener_place(cluster.listen)
    members = Members(node, str(place), partial(secrets.token_hex, 8), times)
    membership = Membership(members, engine, TCPProbe(reactor, place.host), notices, reactor)

    def may_write() -> bool:
        return membership.may_write() and not notices.dropping

    lease = WriteLease(may_write, reactor)
    settings = SettingsGuard(engine, node, shared_settings(config, secret), reactor)
    may, buckets = membership.may_write, derive(secret, "buckets")
    book = SharedBook(
        SharedHolds(engine, reactor, may, home, report), SharedKeys(engine, reactor, may, buckets, report),
        SharedPending(engine, reactor, may, buckets, report), SharedProofs(engine, reactor, may, buckets, report),
        SharedDenials(engine, reactor, may, report, wall),
    )
    new_homes = NewHomes(cluster.new_homes)
    return EngineParts(
        node, loop, engine, spool, members, membership, notices, lease, settings, book, new_homes,
    )


def build_cluster(
    parts: EngineParts, custody: Custody, ingress_services: IngressServices, accepted: AcceptedStreams,
    initiated: InitiatedStreams, reactor: Any,
) -> ClusterParts:
    """Build the homes of peers, which are claimed from now on before stanzas enter a queue."""
    peers = QueuedPeers(custody, ingress_services, accepted, initiated, parts.spool, parts.book.holds, parts.book.current)
    parts.book.holds.changed = peers.holds_changed
    streams = PeerStreams(custody.queues, accepted, initiated)
    parts.book.keys.approved, parts.book.keys.revoked = streams.wake, streams.close
    homes = ClusterHomes(HomeTable(parts.node, parts.members, parts.new_homes), parts.members, parts.engine, peers, reactor)
    ingress_services.homes = parts.notices.homes = homes
    returned = ingress_services.returned = ReturnedStanzas(
        homes, parts.members, parts.engine, custody.queues, ingress_services.home, reactor,
    )
    return ClusterParts(
        parts.node, parts.loop, parts.engine, parts.spool, parts.members, parts.membership, parts.notices, parts.lease,
        parts.settings, parts.book, parts.new_homes, homes, returned,
    )


def listener_place(endpoint: str) -> HostPort:
    """Return the address of an endpoint string of `[cluster].listen`."""
    place = tcp_place(endpoint)
    assert place is not None
    return HostPort(*place)


def largest_stanza(config: Config) -> int:
    """Return the most bytes of a stanza that any peer may send."""
    default = config.policies.policy(Domain.parse("any.invalid")).limits.stanza_bytes
    written = (peer.limits.stanza_bytes for peer in config.peers.values() if peer.limits is not None)
    return max([default, *(number for number in written if number is not None)])


def shard_bytes(disk: int) -> int:
    """Return the most bytes of each stream of the spool."""
    return int(disk * ROOM) // len(SPOOL_STREAMS)


def shared_settings(config: Config, secret: bytes) -> SharedSettings:
    """Return the settings that all nodes must share. Raises `OSError` if a file cannot be read."""
    contents = {
        "gateway.domains": " ".join(sorted(domain.ascii for domain in config.gateway.domains)).encode(),
        "cluster.lease": repr(config.cluster.lease).encode(),
        "cluster.bridge": repr(config.cluster.bridge).encode(),
        "queue.disk": str(config.queue.disk).encode(),
        "the file secret in cluster.shared": secret,
    }
    if any(backend.kind == "s2s" for backend in config.backends):
        name = f"the file {CERTIFICATE_FILE} in cluster.shared"
        contents[name] = (config.identity_folder / CERTIFICATE_FILE).read_bytes()
    silence = config.cluster.lease + config.cluster.bridge + MemberTimes().margin
    return SharedSettings({name: digest(name, content) for name, content in contents.items()}, silence)


def _tls(cluster: Cluster) -> ssl.SSLContext | None:
    if cluster.tls is None:
        return None
    if not isinstance(cluster.tls, Path):
        return ssl.create_default_context()
    folder = cluster.tls.is_dir()
    return ssl.create_default_context(cafile=None if folder else cluster.tls, capath=cluster.tls if folder else None)


def _login(cluster: Cluster) -> Login | None:
    """Return the user and the password of the engine. Raises `OSError` or `ValueError`."""
    if cluster.credentials is None:
        return None
    user, separator, password = read_secret(cluster.credentials).partition(":")
    if not user or not separator or not password:
        raise ValueError(f"{cluster.credentials} must hold a line user:password")
    return Login(user, password)
