"""What changes while the gateway runs: its configuration, its certificates, and the deny lists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from s2sgw.admin.reload import DenyListChanges, Reload, ReloadTarget
from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.composition.limits import connection_limits
from s2sgw.config import Config
from s2sgw.net.admission import Admission
from s2sgw.net.resolver import Resolver
from s2sgw.net.threads import run_in_thread
from s2sgw.reporting.audit import AuditLog
from s2sgw.runtime.deny_lists import DenyLists, WebLists
from s2sgw.runtime.policy_change import Closed, PolicyChange
from s2sgw.runtime.preflight import CheckedConfiguration, check_configuration


@dataclass(frozen=True, slots=True)
class ReconfigurationServices:
    """What a change of the configuration needs of the gateway."""

    reactor: Any
    state: Path
    running: RunningConfiguration
    resolver: Resolver
    audit: AuditLog
    policy_change: PolicyChange
    admission: Admission


class Reconfiguration:
    """Reloads the configuration of one running gateway, and keeps its deny lists up to date."""

    def __init__(self, services: ReconfigurationServices) -> None:
        self._running = running = services.running
        self._policy_change = services.policy_change
        self._admission = services.admission
        self._adopting = False
        in_thread = run_in_thread(services.reactor)
        target = ReloadTarget(
            self._config, running.certificates, lambda path: in_thread(partial(check_configuration, path)), self._adopt,
            services.policy_change.apply,
        )
        self.reload = Reload(target, services.audit)
        fetcher = WebLists(services.reactor, services.resolver, running.anchors)
        changed = DenyListChanges(running.policies.deny, self._apply_deny_lists, services.audit)
        self.deny_lists = DenyLists(services.state, fetcher, services.reactor, changed)

    def open(self) -> None:
        """Apply the deny lists of the configuration from now on."""
        policy = self._running.config.policy
        self.deny_lists.hold(policy.deny_lists, policy.refresh)

    def close(self) -> None:
        """Refresh the deny lists no more."""
        self.deny_lists.stop()

    def _config(self) -> Config:
        return self._running.config

    async def _apply_deny_lists(self) -> list[Closed]:
        """Close the streams that a changed list refuses. A reload that brings the list does so itself."""
        return [] if self._adopting else await self._policy_change.apply()

    def _adopt(self, ready: CheckedConfiguration) -> None:
        self._adopting = True
        try:
            self._running.adopt(ready)
            self._admission.limits = connection_limits(ready.config)
            self.open()
        finally:
            self._adopting = False
