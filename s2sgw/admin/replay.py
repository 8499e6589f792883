"""`s2sgw replay --with FILE`: judge the handshakes of the last days by a planned file, and list those with another verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from s2sgw.admin.explain import planned
from s2sgw.admin.server import Arguments, VerbError
from s2sgw.authentication.assessment import ProofRunner
from s2sgw.peerdb.handshakes import SECONDS, Handshake, outcome_of
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict

#: Handshakes that are judged in one turn of the reactor.
AT_ONCE = 10


class Replay:
    """Answers the verb. `peers` is the policy in force, `wall` tells the seconds since the epoch."""

    def __init__(
        self, clock: IReactorTime, peers: PeerPolicies, proving: ProofRunner, peer_records: PeerRecords,
        wall: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._peers = peers
        self._proving = proving
        self._peer_records = peer_records

    async def replay(self, arguments: Arguments) -> dict[str, Any]:
        """Return how many handshakes were judged, and each whose verdict would be another."""
        config = planned(arguments.get("with"))
        seconds = _seconds(arguments)
        others = config.policies
        others.deny(self._peers.deny_lists)
        number, changed = 0, list[dict[str, Any]]()
        try:
            async for page in self._peer_records.handshakes.all_since(self._wall() - seconds):
                for handshake in page:
                    if number % AT_ONCE == 0:
                        await self._turn()
                    number += 1
                    row = self._compared(handshake, others)
                    if row is not None:
                        changed.append(row)
        except OSError as error:
            raise VerbError(f"the handshakes on record cannot be read: {error}") from None
        changed.sort(key=lambda row: row["last"])
        return {"file": str(config.path), "handshakes": number, "seconds": seconds, "changed": changed}

    def _compared(self, handshake: Handshake, others: PeerPolicies) -> dict[str, Any] | None:
        before, after = self._verdict(handshake, self._peers), self._verdict(handshake, others)
        if outcome_of(before) == outcome_of(after):
            return None
        return {
            "peer": handshake.evidence.domain.ascii, "local": handshake.local,
            "direction": "inbound" if handshake.evidence.role == "initiating" else "outbound", "last": handshake.last,
            "times": handshake.times, "before": outcome_of(before), "after": outcome_of(after), "reasons": list(after.reasons),
        }

    def _verdict(self, handshake: Handshake, peers: PeerPolicies) -> Verdict:
        """Judge by what is remembered of the peer now, so that only the file makes a difference."""
        evidence = handshake.evidence
        policy = peers.policy(evidence.domain)
        standing = self._peer_records.standing(evidence.domain, policy, self._wall())
        return self._proving.found(policy, evidence, standing).verdict

    def _turn(self) -> Deferred[None]:
        turn: Deferred[None] = Deferred()
        self._clock.callLater(0, turn.callback, None)
        return turn


def _seconds(arguments: Arguments) -> float:
    seconds = arguments.get("seconds", SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= SECONDS:
        raise VerbError(f"seconds must be a number up to {SECONDS:.0f}", "usage")
    return seconds
