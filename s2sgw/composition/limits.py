"""The limits of connections and streams, by the configuration and by the available file descriptors."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from s2sgw.config import Config
from s2sgw.net.admission import Admission, ConnectionLimits
from s2sgw.net.turn_budget import TurnBudget
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime import descriptors
from s2sgw.runtime.descriptors import DescriptorShares

log = Logger("s2sgw")


def descriptor_shares(config: Config) -> DescriptorShares:
    """Return the shares of the descriptors. Warn if they are less than the configured limits."""
    available = descriptors.limit()
    shares = descriptors.shares(config.limits.connections, config.queue.streams, available)
    for key, asked, possible in (
        ("limits.connections", config.limits.connections, shares.connections),
        ("queue.streams", config.queue.streams, shares.streams),
    ):
        if possible < asked:
            log.warn(
                event="too few open files", key=key, asked=asked, possible=possible, open_files=available,
                detail="raise the limit of open files (LimitNOFILE= of systemd, ulimit -Hn), or lower the key",
            )
    return shares


def connection_limits(config: Config) -> ConnectionLimits:
    """Return the limits of connections in force."""
    limits, total = config.limits, descriptor_shares(config).connections
    return ConnectionLimits(
        total, limits.connections_per_address, max(1, int(total * limits.unproven)), limits.unproven_per_site,
        limits.unproven_per_name, limits.negotiation,
    )


def federation_admission(config: Config, clock: IReactorTime, record: EventRecord, budget: TurnBudget | None = None) -> Admission:
    """Build the admission of all federation listeners. `budget` bounds how many are ended in one turn."""
    return Admission(connection_limits(config), clock, record.limit_hit, budget)


def backend_admission(config: Config, clock: IReactorTime, record: EventRecord) -> Admission:
    """Build the admission of one backend's listener. One server opens the streams of all peers there."""
    total = descriptors.shares(config.limits.connections, config.queue.streams, descriptors.limit()).backend
    return Admission(ConnectionLimits(total, 0, 0, 0, 0, config.limits.negotiation), clock, record.limit_hit)


def possible_streams(config: Config) -> int:
    """Return how many streams of ours may be open at once."""
    return descriptors.shares(config.limits.connections, config.queue.streams, descriptors.limit()).streams
