"""Changes while the gateway runs: its configuration, its certificates, and the deny lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from s2sgw.admin.reload import DenyListChanges, Inspected, Reload, ReloadTarget, compare, examine
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.former_domains import FormerDomains
from s2sgw.composition.limits import connection_limits
from s2sgw.composition.listeners import NotListening
from s2sgw.config import Config, ConfigError
from s2sgw.config.diff import Change
from s2sgw.net.admission import Admission
from s2sgw.net.resolver import Resolver
from s2sgw.net.slices import Slices, emptied
from s2sgw.net.threads import Threads
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.metrics import ReloadOutcomes
from s2sgw.runtime.deny_lists import DenyLists, ReadLists, WebLists
from s2sgw.runtime.learnt_denials import LearntDenials
from s2sgw.runtime.operator_denials import OperatorDenials
from s2sgw.runtime.policy_change import Closed, PolicyChange
from s2sgw.runtime.preflight import CheckedConfiguration, check_configuration
from s2sgw.xmpp.wall_clock import WallClock

log = Logger("s2sgw")


def _report(text: str) -> None:
    log.error(event="denials damaged", detail=text)


@dataclass(frozen=True, slots=True)
class ReconfigurationServices:
    """The services of the gateway that a change of the configuration uses."""

    reactor: Any
    wall: WallClock
    state: Path
    running: RunningConfiguration
    resolver: Resolver
    audit: AuditLog
    policy_change: PolicyChange
    admission: Admission
    slices: Slices
    threads: Threads
    reload_outcomes: ReloadOutcomes
    former_domains: FormerDomains


class PreparedListeners(Protocol):
    """All listeners of the gateway (`composition.listeners`)."""

    def prepare(self, config: Config) -> Sequence[NotListening]:
        """Open what is new in `config`. Return all that cannot be opened; then nothing new is left open."""

    def abandon(self) -> None:
        """Close the listeners that were prepared."""

    def commit(self, config: Config) -> None:
        """Put the prepared listeners of `config` in force."""


class Reconfiguration:
    """Reloads the configuration of one running gateway, and keeps its deny lists up to date."""

    def __init__(self, services: ReconfigurationServices) -> None:
        self._running = running = services.running
        self._policy_change = services.policy_change
        self._admission = services.admission
        self._adopting = False
        self._slices = services.slices
        self._threads = services.threads
        self._former_domains = services.former_domains
        #: called with each new configuration after it is adopted; none may fail
        self.adopters: list[Callable[[Config], object]] = []
        #: opens the listeners of a new configuration, before it is adopted
        self.listeners: PreparedListeners | None = None
        #: whether the gateway stops: a reload would open listeners that the stop does not close
        self.stopping = False
        #: called with a new configuration in another thread, before anything of it is prepared
        self.read_ahead: Callable[[Config], object] = lambda config: None
        #: the deny lists that were read for the configuration that is about to be adopted
        self._read_lists: ReadLists | None = None
        target = ReloadTarget(
            self._config, running.certificates, self._inspect, self._adopt, services.policy_change.apply, self._examine,
            self._abandon,
        )
        self.reload = Reload(target, services.audit, services.reload_outcomes.reloaded)
        fetcher = WebLists(services.reactor, services.resolver, running)
        self.denials = OperatorDenials(services.state, running.policies.deny, _report, services.wall)
        self._learnt = LearntDenials(self.denials, services.policy_change, services.audit, services.reactor)
        changed = DenyListChanges(self.denials.use, self._apply_deny_lists, services.audit)
        self.deny_lists = DenyLists(services.state, fetcher, services.reactor, changed, self._threads)

    def apply_bars(self) -> Deferred[list[Closed]]:
        """Close the streams of denied peers, and bounce their waiting stanzas."""
        return self._policy_change.apply_bars()

    def open(self) -> None:
        """Apply the deny lists of the configuration from now on."""
        policy = self._running.config.policy
        self.deny_lists.hold(policy.deny_lists, policy.refresh, self._read_lists)

    def close(self) -> None:
        """Stop refreshing the deny lists."""
        self.deny_lists.stop()
        self._learnt.stop()

    def _config(self) -> Config:
        return self._running.config

    async def _apply_deny_lists(self) -> list[Closed]:
        """Close the streams that a changed list refuses. A reload that brings the list does this itself."""
        return [] if self._adopting else await self._policy_change.apply_bars()

    async def _inspect(self, path: Path, line: Callable[[Inspected], bytes]) -> tuple[Inspected, bytes]:
        """Read the new configuration and all files that it names, in another thread: there may be very many peers."""
        config = self._config()
        inspected: Inspected
        noted: bytes
        inspected, noted, self._read_lists = await self._threads.run(self._read, path, config, line)
        if self.stopping:
            raise ConfigError(path, ["the gateway is stopping"])
        if problem := await self._former_domains.prepare(inspected.ready.config):
            raise ConfigError(path, [problem])
        if self.stopping:
            raise ConfigError(path, ["the gateway is stopping"])
        if self.listeners is not None and (wrong := self.listeners.prepare(inspected.ready.config)):
            raise ConfigError(path, [each.text for each in wrong])
        return inspected, noted

    async def _examine(self, path: Path) -> tuple[list[tuple[Change, str]], Sequence[str]]:
        """Read a file in another thread, and return its changes. Nothing is prepared."""
        return await self._threads.run(_examine, path, self._config())

    def _abandon(self) -> None:
        if self.listeners is not None:
            self.listeners.abandon()

    def _read(self, path: Path, config: Config, line: Callable[[Inspected], bytes]) -> tuple[Inspected, bytes, ReadLists]:
        inspected = compare(config, check_configuration(path))
        self.read_ahead(inspected.ready.config)
        return inspected, line(inspected), self.deny_lists.read(inspected.ready.config.policy.deny_lists)

    def _adopt(self, ready: CheckedConfiguration) -> None:
        self._adopting = True
        try:
            old = self._running.adopt(ready)
            self._admission.limits = connection_limits(ready.config)
            for adopt in self.adopters:
                adopt(ready.config)
            if self.listeners is not None:
                self.listeners.commit(ready.config)
            self.open()
        finally:
            self._adopting, self._read_lists = False, None
        self._slices.run(emptied(old))


def _examine(path: Path, config: Config) -> tuple[list[tuple[Change, str]], Sequence[str]]:
    return examine(config, check_configuration(path))
