"""The view of this node of a cluster: `s2sgw cluster status`, metrics and alerts.

Imported only with the section `[cluster]`.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from twisted.internet.interfaces import IReactorTime

from s2sgw.admin.answer_types import ClusterAnswer
from s2sgw.composition.cluster import ClusterParts
from s2sgw.reporting.cluster_metrics import ClusterNumbers

#: Seconds without an acknowledged heartbeat that are an alert. One is sent every half second.
LATE = 3.0


class ClusterView:
    """Reads the parts of a node when it is asked."""

    def __init__(self, parts: ClusterParts, clock: IReactorTime) -> None:
        self._parts = parts
        self._clock = clock

    def numbers(self) -> ClusterNumbers:
        """Return the numbers for Prometheus."""
        states = Counter(other.state for other in self._parts.members.others(self._clock.seconds()))
        homes = self._parts.homes
        table, deleted = homes.table, homes.old_homes.deleted
        nodes = {"alive": states["alive"], "silent": states["silent"]}
        parts = (self._parts.engine, self._parts.spool, self._parts.membership, homes)
        failures = sum(part.failures.number for part in parts)
        return ClusterNumbers(
            len(table.owned), table.takeovers, table.new_homes.refused, deleted, failures, nodes, self._lease(),
            self._heartbeat(), self._parts.engine.connected,
        )

    def status(self) -> ClusterAnswer:
        """Return the answer to `cluster status`."""
        parts, heartbeat = self._parts, self._heartbeat()
        others = parts.members.others(self._clock.seconds())
        session = parts.members.session
        return {
            "node": parts.node, "session": None if session is None else session.identity, "homes": len(parts.homes.table.owned),
            "takeovers": parts.homes.table.takeovers, "lease": self._lease(),
            "heartbeat": None if heartbeat == inf else heartbeat,
            "engine": {"connected": parts.engine.connected, "problem": "" if parts.engine.connected else parts.engine.problem},
            "others": [{"node": other.node, "state": other.state, "listener": other.listener} for other in others],
        }

    def alerts(self) -> list[str]:
        """Return a sentence for each problem that an operator should look into."""
        parts, late = self._parts, self._heartbeat()
        silent = [other.node for other in parts.members.others(self._clock.seconds()) if other.state == "silent"]
        found = [f"node {node} of the cluster is silent" for node in silent]
        if not parts.engine.connected:
            found.append(f"no connection to the engine of the cluster: {parts.engine.problem or 'no server answers'}")
        elif late == inf:
            found.append("this node has not joined the cluster")
        elif late > LATE:
            found.append(f"the engine of the cluster has acknowledged no heartbeat for {late:.0f} s")
        return found

    def _lease(self) -> float:
        return max(self._parts.members.lease_until - self._clock.seconds(), 0.0)

    def _heartbeat(self) -> float:
        return self._clock.seconds() - self._parts.members.heartbeat_at
