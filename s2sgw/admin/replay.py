"""`s2sgw replay --with FILE`: judge recorded handshakes by a planned file, and list those whose verdict changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from s2sgw.admin.explain import planned
from s2sgw.admin.server import Arguments, VerbError
from s2sgw.authentication.assessment import ProofRunner
from s2sgw.net.slices import SlicedWork, Slices
from s2sgw.net.threads import Threads
from s2sgw.peerdb.handshakes import SECONDS, Handshake, outcome_of
from s2sgw.peerdb.peer_records import PeerRecords, direction_seen
from s2sgw.policy.peers import PeerPolicies
from s2sgw.policy.verdict import Verdict


class Replay:
    """Answers the verb. `peers` has the policies in force, `wall` returns the seconds since the epoch."""

    def __init__(
        self, slices: Slices, threads: Threads, peers: PeerPolicies, proving: ProofRunner, peer_records: PeerRecords,
        wall: Callable[[], float],
    ) -> None:
        self._slices = slices
        self._threads = threads
        self._wall = wall
        self._peers = peers
        self._proving = proving
        self._peer_records = peer_records

    async def replay(self, arguments: Arguments) -> dict[str, Any]:
        """Return the number of judged handshakes, and those whose verdict would change."""
        seconds = _seconds(arguments)
        config = await self._threads.run(planned, arguments.get("with"))
        others = config.policies
        others.deny(self._peers.deny_lists)
        number, changed = 0, list[dict[str, Any]]()
        try:
            async for page in self._peer_records.handshakes.all_since(self._wall() - seconds):
                number += len(page)
                changed += await self._slices.run(self._judge_again(page, others))
        except OSError as error:
            raise VerbError(f"the handshakes on record cannot be read: {error}") from None
        changed.sort(key=itemgetter("last"))
        return {"file": str(config.path), "handshakes": number, "seconds": seconds, "changed": changed}

    def _judge_again(self, page: Sequence[Handshake], others: PeerPolicies) -> SlicedWork[list[dict[str, Any]]]:
        changed = []
        for handshake in page:
            row = self._compared(handshake, others)
            if row is not None:
                changed.append(row)
            yield None
        return changed

    def _compared(self, handshake: Handshake, others: PeerPolicies) -> dict[str, Any] | None:
        before, after = self._verdict(handshake, self._peers), self._verdict(handshake, others)
        if outcome_of(before) == outcome_of(after):
            return None
        return {
            "peer": handshake.evidence.domain.ascii, "local": handshake.local,
            "direction": direction_seen(handshake.evidence), "last": handshake.last,
            "times": handshake.times, "before": outcome_of(before), "after": outcome_of(after), "reasons": list(after.reasons),
        }

    def _verdict(self, handshake: Handshake, peers: PeerPolicies) -> Verdict:
        """Return the verdict with the present records of the peer, so that only the policies differ."""
        evidence = handshake.evidence
        policy = peers.policy(evidence.domain)
        standing = self._peer_records.standing(evidence.domain, policy, self._wall())
        return self._proving.found(policy, evidence, standing).verdict


def _seconds(arguments: Arguments) -> float:
    seconds = arguments.get("seconds", SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= SECONDS:
        raise VerbError(f"seconds must be a number up to {SECONDS:.0f}", "usage")
    return seconds
