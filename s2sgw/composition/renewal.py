"""What changes while the gateway runs: its configuration, its certificates, and the deny lists."""

from __future__ import annotations

from functools import cached_property

from s2sgw.admin.reload import DenyListChanges, Reload, ReloadTarget
from s2sgw.composition.gateway import GatewayParts
from s2sgw.runtime.deny_lists import DenyLists, lists
from s2sgw.runtime.policy_change import Closed, PolicyChange
from s2sgw.runtime.preflight import CheckedConfiguration, check_configuration


class Reconfiguration:
    """Renews the parts of one running gateway."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._adopting = False

    @cached_property
    def reload(self) -> Reload:
        parts = self._parts
        running = ReloadTarget(lambda: parts.config, parts.certificates, check_configuration, self._adopt, self._reconsider)
        return Reload(running, parts.audit)

    @cached_property
    def deny_lists(self) -> DenyLists:
        parts = self._parts
        fetch = lists(parts.reactor, parts.resolver, parts.anchors)
        news = DenyListChanges(parts.policies.deny, self._reconsider_for_lists, parts.audit)
        return DenyLists(parts.state, fetch, parts.reactor, news)

    def open(self) -> None:
        """Hold the deny lists from now on."""
        policy = self._parts.config.policy
        self.deny_lists.hold(policy.deny_lists, policy.refresh)

    def close(self) -> None:
        """Change nothing more."""
        self.deny_lists.stop()

    async def _reconsider(self, keep_streams: bool = False) -> list[Closed]:
        parts = self._parts
        inbound, outbound = parts.inbound.reconsider, parts.outbound.reconsider
        others = parts.backends.incoming
        return await PolicyChange(parts.policies, parts.accepted, parts.queues, inbound, outbound, others).apply(keep_streams)

    async def _reconsider_for_lists(self) -> list[Closed]:
        """Unless they come with a reload, which does so itself."""
        return [] if self._adopting else await self._reconsider()

    def _adopt(self, ready: CheckedConfiguration) -> None:
        self._adopting = True
        try:
            self._parts.adopt(ready.config, ready.certificates)
            self.open()
        finally:
            self._adopting = False
