"""Builds the spool and the delivery queues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.delivery.holds import OperatorHolds
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.reporting.record import EventRecord
from s2sgw.reporting.spool_metrics import CommitTimes
from s2sgw.spool.interface import Spool
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.spool.sqlite_spool import SQLiteSpool


@dataclass(frozen=True, slots=True)
class SpoolLog:
    """Logs what goes wrong with files of custody. May be called from any thread."""

    reactor: Any
    log = Logger("s2sgw")

    def report(self, text: str) -> None:
        """Log `text` as critical."""
        self.reactor.callFromThread(self.log.critical, event="spool", detail=text)


def build_spool(
    running: RunningConfiguration, state: Path, reactor: Any, wall: Callable[[], float], commit_times: CommitTimes,
) -> Spool:
    """Open the spool of `[queue]`; one in memory, which holds nothing, where `disk` is 0. Raises `SpoolBroken`."""
    queue = running.config.queue
    if not queue.disk:
        return MemorySpool(0, reactor.callFromThread)
    return SQLiteSpool(
        state / "spool.db", queue.disk, reactor.callFromThread, durability=queue.durability, report=SpoolLog(reactor).report,
        share=int(queue.disk * queue.share), peer_of=running.peer_of, committed=commit_times.took, clock=reactor.seconds,
        wall=wall,
    )


def build_queues(
    running: RunningConfiguration, state: Path, reactor: Any, wall: Callable[[], float], record: EventRecord, spool: Spool,
) -> DeliveryQueues:
    """Build the table of delivery queues, which has no queue yet. `attach` gives it its next hops."""
    queue = running.config.queue
    return DeliveryQueues(
        reactor, record, queue.memory, running.hold_times, running.is_local, spool, window=queue.window, spools=queue.disk > 0,
        operator_holds=OperatorHolds(state, SpoolLog(reactor).report), restore=queue.restore, wall=wall,
    )
