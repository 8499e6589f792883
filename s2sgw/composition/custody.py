"""Builds the spool, the delivery queues, and the services that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from s2sgw.composition.configuration import RunningConfiguration
from s2sgw.delivery.bounces import Bounces
from s2sgw.delivery.custody import Custody
from s2sgw.delivery.expiry import ExpirySweep
from s2sgw.delivery.holds import Holds, OperatorHolds
from s2sgw.delivery.iq_replies import LateReplies
from s2sgw.delivery.memory_relief import MemoryRelief
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.delivery.restoring import AT_ONCE, StartupRestore
from s2sgw.delivery.services import DeliveryServices
from s2sgw.delivery.spooling import SpoolWindow
from s2sgw.net.slices import Slices
from s2sgw.queue.entries import HoldTimes
from s2sgw.queue.memory import SHARE, SharedMemory
from s2sgw.reporting.record import EventRecord
from s2sgw.reporting.spool_metrics import CommitTimes
from s2sgw.spool.interface import Spool
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.spool.sqlite_spool import SQLiteSpool
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.wall_clock import WallClock


@dataclass(frozen=True, slots=True)
class SpoolLog:
    """Logs faults in files of custody. May be called from any thread."""

    reactor: Any
    log = Logger("s2sgw")

    def report(self, text: str) -> None:
        """Log `text` as critical."""
        self.reactor.callFromThread(self.log.critical, event="spool", detail=text)


def build_spool(
    running: RunningConfiguration, state: Path, reactor: Any, wall: WallClock, commit_times: CommitTimes,
) -> Spool:
    """Open the spool of `[queue]`. If `disk` is 0, return one in memory that stores nothing. Raises `SpoolBroken`."""
    queue = running.config.queue
    if not queue.disk:
        return MemorySpool(0, reactor.callFromThread)
    return SQLiteSpool(
        state / "spool.db", queue.disk, reactor.callFromThread, durability=queue.durability, report=SpoolLog(reactor).report,
        share=int(queue.disk * queue.share), peer_of=running.peer_of, committed=commit_times.took, clock=reactor.seconds,
        wall=wall.seconds,
    )


def build_custody(
    clock: IReactorTime, record: EventRecord, spool: Spool, *, memory: int, hold_times: Callable[[Pair], HoldTimes],
    is_inbound: Callable[[Pair], bool], share: float = SHARE, window: float = 0.02, spools: bool = True,
    holds: Holds | None = None, restore: int = AT_ONCE, wall: WallClock | None = None,
    soon: Callable[[Callable[[], None]], object] | None = None,
) -> Custody:
    """Build the registry of delivery queues, which has no queue yet, and the services of queues. `attach` adds the next hops.

    `memory` is in bytes; one peer may hold the part `share` of it. `window` is in seconds. `spools`: the spool is durable.
    `clock` measures delays, unaffected by changes of the wall clock. `wall` returns the seconds since the epoch.
    """
    queues = DeliveryQueues(hold_times, is_inbound)
    spool_window = SpoolWindow(clock, record, window, spools)
    services = DeliveryServices(
        clock, wall or clock, record, spool, spools, spool_window, MemoryRelief(SharedMemory(memory, share)),
        Bounces(record, queues), holds or OperatorHolds(), soon or partial(clock.callLater, 0), LateReplies(queues),
    )
    queues.serve(services)
    startup = StartupRestore(queues, spool, clock, spool_window.trouble, restore)
    return Custody(queues, services, startup, ExpirySweep(queues, services))


def build_running_custody(
    running: RunningConfiguration, state: Path, reactor: Any, wall: WallClock, record: EventRecord, spool: Spool, slices: Slices,
    holds: Holds | None = None,
) -> Custody:
    """Build the custody of `[queue]`. `holds`: those that the nodes of a cluster share; None: those of the state directory."""
    queue = running.config.queue
    return build_custody(
        reactor, record, spool, memory=queue.memory, share=queue.share, hold_times=running.hold_times,
        is_inbound=running.is_inbound, window=queue.window, spools=queue.disk > 0,
        holds=holds or OperatorHolds(state, SpoolLog(reactor).report), restore=queue.restore, wall=wall, soon=slices.call,
    )
