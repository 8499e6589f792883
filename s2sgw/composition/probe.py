"""Builds a probe: from the parts of a running gateway, or from a configuration (or none) without one.

Without a running gateway, only files are read: the certificates and, if this user may read it, the secret of the dialback keys,
so that the running gateway confirms them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any, cast

from s2sgw.authentication.assessment import ProofRunner
from s2sgw.authentication.judge import Judge
from s2sgw.authentication.lookups import EvidenceLookups
from s2sgw.authentication.posh_documents import documents
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.federation import OwnPorts, PeerDiallers, discovery_of
from s2sgw.config import Config
from s2sgw.net.discovery import Discovery
from s2sgw.net.dns_upstream import system_servers
from s2sgw.net.resolver import Resolver
from s2sgw.net.threads import ReactorThreads
from s2sgw.net.tls import ClientTLS
from s2sgw.peerdb.keys import KnownKeys
from s2sgw.peerdb.peer_records import KnownFacts, PeerRecords
from s2sgw.runtime.probe import NoPeerRecords, Probe, ProbeLeg, ProbeServices, TellStep
from s2sgw.runtime.state_directory import read_secret_of
from s2sgw.runtime.system_clock import SYSTEM_CLOCK
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.stream.dialback import DialbackKeys, derive
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.wall_clock import WallClock

#: The local domain of a probe without a configuration.
NOBODY = "probe.invalid"


class EveryExtension:
    """Uses stream management where it is offered, and resumes no stream."""

    def use_stream_management(self, domain: Domain) -> bool:
        """Return True."""
        return True

    def use_resumption(self, domain: Domain) -> bool:
        """Return False."""
        return False


@dataclass(frozen=True, slots=True)
class ProbeBuilder:
    """Makes probes for the command, or for the console of a running gateway."""

    services: ProbeServices

    def probe(self, local: Domain, peer: Domain, tell: TellStep = lambda step: None) -> Probe:
        """Return a probe of `peer` on behalf of `local`. Call `run` once."""
        return Probe(self.services, local, peer, tell)


def without_configuration(local: str, nameservers: Sequence[str] | None = None) -> Config:
    """Return a configuration of defaults, for a machine that has none."""
    servers = system_servers() if nameservers is None else nameservers
    nowhere = Path("/nonexistent")
    return Config.model_validate({
        "path": nowhere / "s2sgw.toml", "gateway": {"domains": [local], "state": str(nowhere)},
        "tls": {"certificates": str(nowhere)}, "system_nameservers": tuple(servers),
    })


def offline_probes(config: Config, reactor: Any, known: bool = True, keys: KnownKeys | None = None) -> ProbeBuilder:
    """Return the builder of probes without a gateway.

    `keys` are the running gateway's keys of the peer. `known`: see `ProbeServices`.
    """
    running = RunningConfiguration(config, reactor, ReactorThreads(reactor))
    resolver = Resolver(
        reactor, [str(server) for server in config.nameservers], trust_ad=config.dns.trust_ad, lookups=config.limits.lookups,
        questions_per_second=config.limits.lookups_per_second,
    )
    diallers = PeerDiallers(reactor, running.policies, config.gateway.source_addresses)
    discovery = discovery_of(reactor, running, resolver, OwnPorts(), diallers, SystemRandom())
    posh = documents(running, reactor, SYSTEM_CLOCK, resolver, config.limits.posh_fetches)
    records = cast(PeerRecords, NoPeerRecords(KnownFacts(keys or KnownKeys())))
    judge = Judge(
        running.policies, ProofRunner(running.trust_files), EvidenceLookups(reactor, discovery, posh, diallers), records,
        SYSTEM_CLOCK,
    )
    secret = read_secret_of(config.identity_folder) or secrets.token_bytes(32)
    keys_of_dialback = DialbackKeys(derive(secret, "federation"))
    return gateway_probes(
        reactor, SYSTEM_CLOCK, running, resolver, discovery, judge, diallers, keys_of_dialback, ClientTLS(), known,
    )


def gateway_probes(
    reactor: Any, wall: WallClock, running: RunningConfiguration, resolver: Resolver, discovery: Discovery,
    judge: Judge, diallers: PeerDiallers, keys: DialbackKeys, client_tls: ClientTLS, known: bool = True,
) -> ProbeBuilder:
    """Return the builder of probes inside a running gateway, with its own resolver, judge and records of peers."""
    def leg() -> ProbeLeg:
        return ProbeLeg(
            running.policies, discovery, judge, keys, running, client_tls, diallers, EveryExtension(), ExtensionMemory(reactor),
        )

    return ProbeBuilder(ProbeServices(reactor, wall, resolver, discovery, running.policies, judge, leg, known))
