"""Queues with an operator's verbs on them, for tests of the verbs."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s2sgw.admin.queue_verbs import QueueVerbs
from s2sgw.admin.responses import RESPONSES
from s2sgw.delivery.holds import OperatorHolds
from s2sgw.net.slices import Slices
from s2sgw.reporting.audit import AuditLog
from tests.support.fakes import FixedClock
from tests.support.response_types import mismatches
from tests.unit.delivery.test_queue import HERE, THERE, WINDOW, World, stanza

LANE = [HERE.ascii, THERE.ascii]


class Tools:
    """Lanes with an outbound next hop, and the verbs over them."""

    def __init__(self, state: str, ready: bool = False, memory: int = 1 << 20) -> None:
        self.state = Path(state)
        self.state.mkdir(exist_ok=True)
        self.holds = OperatorHolds(self.state)
        self.world = World(memory=memory, holds=self.holds)
        self.world.next_hop.ready = ready
        audit, slices = AuditLog(self.state, FixedClock(0.0)), Slices(self.world.clock)
        self.verbs = QueueVerbs(self.world.custody, lambda domain: domain == HERE, audit, slices).verbs()

    def ask(self, verb: str, *target: object, **arguments: Any) -> Any:
        """Return the result of a verb, and check that it has its published type."""
        result = self._ask(verb, *target, **arguments)
        assert not list(mismatches(result, RESPONSES[f"queue {verb}"])), list(mismatches(result, RESPONSES[f"queue {verb}"]))
        return result

    def _ask(self, verb: str, *target: object, **arguments: Any) -> Any:
        given = {"target": list(target), **arguments} if target else arguments
        answers: list[Any] = []
        result = self.verbs[f"queue {verb}"](given)
        (Deferred.fromCoroutine(result) if isinstance(result, Coroutine) else result).addBoth(answers.append)
        self.world.clock.advance(0)
        (result,) = answers
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def accept(self, *names: str, size: int = 10) -> None:
        self.world.accept(*(stanza(name, size=size) for name in names))

    def spool_all_but(self, resident: int) -> None:
        """Let the window end; keep about this many bytes in memory."""
        self.world.custody.services.relief.resident = resident
        self.world.clock.advance(WINDOW)

    @property
    def noted(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.state / "audit.log").read_text().splitlines()]
