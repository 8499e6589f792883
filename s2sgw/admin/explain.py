"""`s2sgw explain PEER`: the present verdict on a peer, the settings that apply and where they are set, and the records.

The verdict follows the running policy, or a planned file (`--with`). DNS and POSH are looked up again. The certificates are those
of the last recorded handshakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from s2sgw.admin.provenance import PolicySources
from s2sgw.admin.server import Arguments, VerbError
from s2sgw.admin.verbs import domain_argument
from s2sgw.authentication.judge import Judge
from s2sgw.config import Config, ConfigError, load
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.net.certificates import Credential
from s2sgw.net.discovery import Discovery, Resolution, Target
from s2sgw.net.dns_upstream import system_servers
from s2sgw.net.threads import Threads
from s2sgw.peerdb.evidence_json import target_json
from s2sgw.peerdb.handshakes import Handshake, outcome_of
from s2sgw.peerdb.past_proofs import REMEMBERED
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict, accepts, decide
from s2sgw.reporting.record import EventRecord
from s2sgw.trust.certificate import summarise
from s2sgw.trust.evidence import Attempt, Role
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain

#: Refusals that are shown.
REFUSALS = 5
ROLES: tuple[tuple[str, Role], ...] = (("inbound", "initiating"), ("outbound", "receiving"))


class Explainer:
    """Answers the verb. `config` returns the running configuration, `peers` has the policies in force."""

    def __init__(
        self, config: Callable[[], Config], peers: PeerPolicies, judge: Judge, discovery: Discovery, peer_records: PeerRecords,
        record: EventRecord, credential: Callable[[Domain, Domain], Credential | None], now: Callable[[], float],
        threads: Threads, queues: Iterable[DeliveryQueue] = (),
    ) -> None:
        self._threads = threads
        self._queues = queues
        self._config = config
        self._peers = peers
        self._judge = judge
        self._discovery = discovery
        self._peer_records = peer_records
        self._record = record
        self._credential = credential
        self._now = now

    async def explain(self, arguments: Arguments) -> dict[str, Any]:
        """Return everything about one peer, for JSON. Files are read in another thread."""
        peer, config, peers = domain_argument(arguments, "peer"), self._config(), self._peers
        if arguments.get("with") is not None:
            config = await self._threads.run(planned, arguments["with"])
            peers = config.policies
            peers.deny(self._peers.deny_lists)
        if peer in config.gateway.domains:
            raise VerbError(f"{peer} is a local domain; name a peer", "usage")
        local = domain_argument(arguments, "local") if arguments.get("local") is not None else config.gateway.domains[0]
        if local not in config.gateway.domains:
            raise VerbError(f"{local} is not a local domain", "usage")
        provenance = await self._threads.run(PolicySources, config, peers)
        resolution = None
        if _looks_up(arguments):
            resolution = await self._discovery.resolve(peer, peers.policy(peer).route)
            resolution = replace(resolution, targets=await self._discovery.locate(resolution.targets))
        policy = peers.policy(peer)  # read after the look-ups: there may have been a reload
        return {
            "peer": peer.ascii, "local": local.ascii, "file": str(config.path), "planned": peers is not self._peers,
            "changed": provenance.outdated, "bar": _bar(policy), "objects": provenance.objects(peer),
            "keys": provenance.keys(policy), "certificate": self._shown(local, peer),
            "dns": None if resolution is None else _dns(resolution),
            **self._on_record(peer),
            "now": {name: await self._decided(peer, local, policy, role, resolution) for name, role in ROLES},
            "lanes": [_lane(queue) for queue in self._queues if peer in queue.pair and len(queue.pair_queue)],
            "refusals": self._refusals(peer),
        }

    def _shown(self, local: Domain, peer: Domain) -> dict[str, Any] | None:
        credential = self._credential(local, peer)
        if credential is None:
            return None
        return {"name": credential.name, "expires": credential.not_after.timestamp(), "fingerprint": credential.fingerprint}

    def _refusals(self, peer: Domain) -> list[dict[str, Any]]:
        newest = list(islice(self._record.newest((peer.ascii, peer.text)), REFUSALS))
        return [each.row() for each in reversed(newest)]

    def _on_record(self, peer: Domain) -> dict[str, Any]:
        return {
            "past": [each.row() for each in self._peer_records.past_proofs.of(peer) if each.method in REMEMBERED],
            "remembered": [{**each.row(), "counts": each.counts(self._now())} for each in self._peer_records.keys.of(peer)],
            "pending": [{"key": str(each.key), "times": each.times,
            "cause": each.cause} for each in self._peer_records.pending_certificates.list(peer)],
        }

    # --- the present decision ---

    async def _decided(
        self, peer: Domain, local: Domain, policy: PeerPolicy, role: Role, resolution: Resolution | None,
    ) -> dict[str, Any]:
        proven, unproven = _if(policy, role, proven=True), _if(policy, role, proven=False)
        row: dict[str, Any] = {"if_proven": proven, "if_not": unproven, "last": None}
        last = await self._last(peer, local, role)
        if last is not None:
            verdict = {} if resolution is None else await self._again(last, policy, resolution)
            row["last"] = {**_as_it_was(last), **verdict}
        return row

    async def _last(self, peer: Domain, local: Domain, role: Role) -> Handshake | None:
        """Return the last handshake in that role, preferably one with `local`. Raises `VerbError`."""
        try:
            handshakes = await self._peer_records.handshakes.of(peer)
        except OSError as error:
            raise VerbError(f"the handshakes on record cannot be read: {error}") from None
        found = [each for each in handshakes if each.evidence.role == role]
        return next(iter([each for each in reversed(found) if each.local == local.ascii] or found[::-1]), None)

    async def _again(self, last: Handshake, policy: PeerPolicy, resolution: Resolution) -> dict[str, Any]:
        """Return the present verdict on the same certificate."""
        now = datetime.fromtimestamp(self._now(), UTC)
        target = _same_target(last.evidence.target, resolution.targets) if last.evidence.role == "receiving" else None
        evidence = replace(
            last.evidence, at=now, tlsa=(), posh=None, target=target.host if target else None,
            target_secure=target.secure if target else False,
        )
        standing = self._peer_records.standing(evidence.domain, policy, self._now())
        evidence, found = await self._judge.gather(policy, evidence, standing, target)
        return told(found.verdict)


def _looks_up(arguments: Arguments) -> bool:
    """Return whether to ask the DNS and decide anew. Raises `VerbError`."""
    looks_up = arguments.get("look_up", True)
    if not isinstance(looks_up, bool):
        raise VerbError("look_up must be true or false", "usage")
    return looks_up


def _as_it_was(last: Handshake) -> dict[str, Any]:
    """Return the evidence and the verdict of a handshake on record."""
    chain = last.evidence.chain
    return {
        "at": last.last, "address": last.evidence.address, "tls": last.evidence.tls_version, "then": dict(last.outcome),
        "certificate": summarise(chain[0]).row() if chain else None,
    }


def _lane(queue: DeliveryQueue) -> dict[str, Any]:
    """Return the waiting stanzas of a lane, why they wait, and the limits that it has reached."""
    return {
        "sender": str(queue.pair.sender), "recipient": str(queue.pair.recipient), "stanzas": len(queue.pair_queue),
        "blocked": queue.waits_for(), "full": queue.full_bounds(),
    }


def told(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict for JSON."""
    return {
        **outcome_of(verdict), "reasons": list(verdict.reasons), "hold": verdict.hold, "learn": verdict.learn,
        "report": verdict.report.cause.value if verdict.report else None,
    }


def planned(path: object) -> Config:
    """Return the configuration in a file that is not in force. Raises `VerbError` with all errors."""
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise VerbError("with must be the absolute path of a file", "usage")
    try:
        return load(path, system_nameservers=system_servers())
    except ConfigError as error:
        raise VerbError(str(error), "usage") from None


def _if(policy: PeerPolicy, role: Role, *, proven: bool) -> dict[str, Any]:
    """Return the verdict on an unknown peer with TLS 1.3."""
    attempts: Sequence[Attempt] = [Attempt("pkix", False, Cause.UNKNOWN_ISSUER, ("",), (Cause.UNKNOWN_ISSUER,))]
    if proven:
        attempts = [Attempt(method, True) for method in accepts(policy)[:1]]
    return outcome_of(decide(policy, attempts, role=role, secured=True, tls_version="TLSv1.3"))


def _bar(policy: PeerPolicy) -> str | None:
    return None if policy.bar is None else f"{policy.bar.cause.value}: {policy.bar.detail}"


def _same_target(host: str | None, targets: Sequence[Target]) -> Target | None:
    same: Iterator[Target] = (each for each in targets if each.host == host)
    return next(same, targets[0] if targets else None)


def _dns(resolution: Resolution) -> dict[str, Any]:
    ending = resolution.ending
    return {
        "cause": ending.cause.value if ending else None, "detail": ending.detail if ending else "",
        "targets": [{**target_json(each), "direct_tls": each.direct_tls} for each in resolution.targets],
    }
