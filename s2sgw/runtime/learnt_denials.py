"""Actions of a node of a cluster when a peer was denied, or is denied no longer, and no verb on this node deals with it.

The name applies at once. The rest waits for a moment: the other node asks this one to deny the peer, too, and is told which
streams that closed (`admin.peer_verbs`). A node that was away, or was not reached, is not asked.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from s2sgw.reporting.audit import AuditLog
from s2sgw.runtime.operator_denials import OperatorDenials
from s2sgw.xmpp.timer import cancel

#: Seconds for which the question of the other node is waited for.
ASKED_WITHIN = 2.0


class Bars(Protocol):
    """The part of `runtime.policy_change` that is used."""

    def apply_bars(self) -> Deferred[Any]:
        """Close the streams of peers that are denied now."""


class LearntDenials:
    """Notes names that were learnt in the audit log, and applies `bars`."""

    log = Logger("s2sgw")

    def __init__(self, denials: OperatorDenials, bars: Bars, audit: AuditLog, clock: IReactorTime) -> None:
        self._denials = denials
        self._bars = bars
        self._audit = audit
        self._clock = clock
        self._timer: IDelayedCall | None = None
        denials.heard = self._heard

    def stop(self) -> None:
        """Note what was learnt, which the next start does not learn again, and do nothing more."""
        cancel(self._timer)
        self._timer = None
        self._note()

    def _heard(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(ASKED_WITHIN, self._apply)

    def _apply(self) -> None:
        self._timer = None
        if self._note():
            self._bars.apply_bars().addErrback(self._failed)

    def _note(self) -> bool:
        """Write what was learnt to the audit log. Return whether there was anything.

        A node that was away may learn a thousand names. Each line is synced to the disk, so they share one.
        """
        learnt, self._denials.learnt = self._denials.learnt, {}
        for action, denied in (("deny", True), ("deny undone", False)):
            names = [name for name, now_denied in learnt.items() if now_denied == denied]
            if not names:
                continue
            try:
                self._audit.note_or_log(action, by="the cluster", peers=names)
            except OSError as error:
                self.log.error(event="not in the audit log", action=action, number=len(names), detail=str(error))
        return bool(learnt)

    def _failed(self, failure: Any) -> None:
        self.log.failure("the streams of denied peers could not be closed", failure)
