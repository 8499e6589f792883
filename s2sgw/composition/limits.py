"""How many connections are accepted, by `[limits]` and by the file descriptors that there are."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from s2sgw.config import Config
from s2sgw.net.admission import Admission, ConnectionLimits
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime import descriptors

log = Logger("s2sgw")


def connection_limits(config: Config) -> ConnectionLimits:
    """Return the limits in force, and warn where the descriptors allow for fewer connections than the configuration."""
    limits, available = config.limits, descriptors.limit()
    total = descriptors.connections_possible(limits.connections, config.queue.streams, available)
    if total < limits.connections:
        log.warn(
            event="fewer connections", asked=limits.connections, possible=total, descriptors=available,
            detail="limits.connections needs more open files: raise LimitNOFILE= of systemd (ulimit -Hn), or lower the key",
        )
    return ConnectionLimits(
        total, limits.connections_per_address, max(1, int(total * limits.unproven)), limits.unproven_per_site,
        limits.unproven_per_name, limits.negotiation,
    )


def federation_admission(config: Config, clock: IReactorTime, record: EventRecord) -> Admission:
    """Build the admission of all federation listeners."""
    return Admission(connection_limits(config), clock, record.limit_hit)


def backend_admission(limits: ConnectionLimits, clock: IReactorTime, record: EventRecord) -> Admission:
    """Build the admission of one backend's listener, on which one server brings the streams of all peers."""
    return Admission(ConnectionLimits(limits.total, 0, 0, 0, 0, limits.negotiation), clock, record.limit_hit)
