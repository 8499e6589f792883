"""The services that all delivery queues share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from s2sgw.delivery.bounces import Bounces
from s2sgw.delivery.holds import Holds
from s2sgw.delivery.iq_replies import LateReplies
from s2sgw.delivery.memory_relief import MemoryRelief
from s2sgw.delivery.spooling import ExpiryQuestion, SpoolWindow
from s2sgw.reporting.record import EventRecord
from s2sgw.spool.interface import Spool
from s2sgw.xmpp.wall_clock import WallClock


class WritePermission:
    """The permission to write to peers. A single gateway always has it.

    If several gateways share their peers, a gateway must not write to a peer that it cannot prove to be its own
    (docs/architecture.md). Every write checks this.
    """

    __slots__ = ("granted",)

    def __init__(self) -> None:
        self.granted = True


@dataclass(frozen=True, slots=True)
class DeliveryServices:
    """The services of each delivery queue.

    `clock` measures delays, unaffected by changes of the wall clock. `wall` returns the seconds since the epoch, for dates.
    `spool` calls back on the reactor's thread. `spools`: the spool is durable. `soon` makes a call in one of the next turns of
    the reactor, when there is time for it.
    """

    clock: IReactorTime
    wall: WallClock
    record: EventRecord
    spool: Spool
    spools: bool
    window: SpoolWindow
    relief: MemoryRelief
    bounces: Bounces
    holds: Holds
    soon: Callable[[Callable[[], None]], object]
    late: LateReplies
    expiry_question: ExpiryQuestion = field(default_factory=ExpiryQuestion)
    permission: WritePermission = field(default_factory=WritePermission)
