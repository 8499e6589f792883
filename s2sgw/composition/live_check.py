"""Builds the live checks without a running gateway: from the configuration, and the authority in its state directory."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s2sgw.backend.health import attributed
from s2sgw.backend.private_ca import CERTIFICATE_FILE, KEY_FILE, PrivateCA, PrivateCAError
from s2sgw.backend.server import BackendInitiating, BackendServer
from s2sgw.composition.backends import identity_of
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.config import Backend, Config
from s2sgw.net.dialing import Dialler, DirectDialler
from s2sgw.net.proxy_protocol import LOCAL, announcing
from s2sgw.net.resolver import Resolver
from s2sgw.net.threads import ReactorThreads, Threads
from s2sgw.net.tls import ClientTLS
from s2sgw.reporting.audit import AuditLog
from s2sgw.runtime.live_check import BackendUnderCheck, LiveCheck, LiveServices, TellFact
from s2sgw.runtime.own_certificates import OwnCertificates
from s2sgw.runtime.state_directory import read_secret_of
from s2sgw.runtime.system_clock import SYSTEM_CLOCK
from s2sgw.stream.dialback import DialbackKeys, derive
from s2sgw.xmpp.ending import Ending

StatusSource = Callable[[], Awaitable[dict[str, Any] | None]]


class LiveChecks:
    """Makes live checks: with the parts of a running gateway, or `without_gateway`. `status` asks the running gateway."""

    def __init__(
        self, running: RunningConfiguration, reactor: Any, resolver: Resolver, certificates: OwnCertificates,
        status: StatusSource,
    ) -> None:
        self._running = running
        self._reactor = reactor
        self._resolver = resolver
        self._certificates = certificates
        self._status = status

    @classmethod
    def without_gateway(cls, config: Config, reactor: Any, status: StatusSource) -> LiveChecks:
        """Return the live checks for a configuration alone."""
        threads: Threads = ReactorThreads(reactor)
        running = RunningConfiguration(config, reactor, threads)
        resolver = Resolver(reactor, [str(server) for server in config.nameservers], trust_ad=config.dns.trust_ad)
        audit = AuditLog(config.gateway.state, SYSTEM_CLOCK)
        return cls(running, reactor, resolver, OwnCertificates(running, threads, SYSTEM_CLOCK, audit), status)

    @property
    def _config(self) -> Config:
        return self._running.config

    def check(self, tell: TellFact = lambda fact: None) -> LiveCheck:
        """Return one check. Call `run` once."""
        services = LiveServices(
            self._reactor, self._config, self._resolver, self._backends, self._certificates.facts, self._status,
            DirectDialler(self._reactor),
        )
        return LiveCheck(services, tell)

    async def _backends(self) -> Sequence[BackendUnderCheck]:
        authority = authority_of(self._config.identity_folder)
        return [await self._backend(each, authority) for each in self._config.backends if each.kind != "echo"]

    async def _backend(self, backend: Backend, authority: PrivateCA | None) -> BackendUnderCheck:
        domains, direct = self._config.domains_of(backend), DirectDialler(self._reactor)
        dialler: Dialler = announcing(direct, LOCAL) if backend.proxy_protocol else direct
        leg = None
        if backend.kind == "s2s" and authority is not None:
            keys = DialbackKeys(derive(read_secret_of(self._config.identity_folder) or secrets.token_bytes(32), "backend"))
            server = BackendServer(
                backend.address.host, backend.address.port, frozenset(domains), backend.tls, authority, keys,
                self._running.anchors, _now, self._resolver.addresses,
            )
            leg = BackendInitiating(server, ClientTLS(), lambda pair: dialler)
        identity = identity_of(self._config, backend)

        def attribute(ending: Ending) -> Ending:
            return attributed(ending, identity)

        addresses = await self._resolver.addresses(backend.address.host)
        return BackendUnderCheck(backend, domains[0], leg, dialler, addresses, attribute)


def authority_of(state: Path) -> PrivateCA | None:
    """Return the authority of the backend leg; None if there is none yet, or this user cannot read it."""
    try:
        if not all((state / name).exists() for name in (CERTIFICATE_FILE, KEY_FILE)):
            return None
        return PrivateCA(state)
    except (PrivateCAError, OSError):
        return None


def _now() -> datetime:
    return datetime.now(UTC)
