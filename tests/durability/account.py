"""The fate of the stanzas of each pair of domains, as the servers on both sides of the gateway saw it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter

from tests.durability.socket_progress import Connection


@dataclass(frozen=True)
class SentPosition:
    """The end of a stanza on its connection to the gateway, in bytes from the start of that connection."""

    connection: Connection
    position: int


@dataclass
class Acknowledgement:
    """An acknowledgement of the stanzas that had arrived on a stream by `asked`. `position` is None until it is written."""

    asked: float
    position: SentPosition | None = None


@dataclass(eq=False)
class ArrivalStream:
    """A stream that brings stanzas to a server, from its start to its end as the server saw it, in seconds since the epoch.

    `monitored`: the acknowledgements are recorded.
    """

    number: int
    monitored: bool = True
    opened: float = field(default_factory=time.time)
    ended: float = inf
    acknowledgements: list[Acknowledgement] = field(default_factory=list)

    def acknowledge(self) -> Acknowledgement:
        """Return a new acknowledgement of what has arrived so far."""
        acknowledgement = Acknowledgement(time.time())
        if self.monitored:
            self.acknowledgements.append(acknowledgement)
        return acknowledgement

    def acknowledgement(self, arrived: float) -> Acknowledgement | None:
        """Return the first acknowledgement of what arrived at `arrived`."""
        at = bisect_left(self.acknowledgements, arrived, key=attrgetter("asked"))
        return self.acknowledgements[at] if at < len(self.acknowledgements) else None


@dataclass
class PairAccount:
    """The stanzas that one domain sent to another. They are numbered from 0, and number N has the id `nN`."""

    sender: str
    recipient: str
    managed: bool  # the sender uses XEP-0198, so it knows what the gateway has acknowledged
    orderly: bool = True  # the sender itself keeps the order when it sends stanzas again
    acknowledging: bool = True  # the recipient acknowledges stanzas, or answers pings
    inbound: bool = True
    label: str = ""
    #: when each stanza was first written, in seconds since the epoch
    sent: list[float] = field(default_factory=list)
    #: stanzas below this number were accounted for before, and are forgotten (`close_books`)
    first: int = 0
    #: how many of those arrived again
    repeats: int = 0
    positions: dict[int, SentPosition] = field(default_factory=dict)
    requests: set[int] = field(default_factory=set)  # the stanzas that are IQ requests
    #: stanzas that the gateway has acknowledged to the sender (XEP-0198)
    acknowledged: set[int] = field(default_factory=set)
    arrived: list[int] = field(default_factory=list)
    arrived_on: list[int] = field(default_factory=list)  # the number of the stream on which each of these arrived
    #: when each stanza arrived, in seconds since the epoch, once for each arrival
    arrivals: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    #: the streams on which they arrived, by number, if the sockets are monitored
    streams: dict[int, ArrivalStream] = field(default_factory=dict)
    bounced: set[int] = field(default_factory=set)
    #: stanza errors by number, with their conditions
    errors: dict[int, list[str]] = field(default_factory=dict)
    #: results of IQ requests that came back to the sender
    answered: Counter[int] = field(default_factory=Counter)
    resent: Counter[int] = field(default_factory=Counter)  # by the sender itself
    withdrawn: set[int] = field(default_factory=set)  # IQ requests in doubt, which the sender does not send again

    @property
    def name(self) -> str:
        return f"{self.sender} -> {self.recipient}{self.label}"

    def arrive(self, number: int, stream: int) -> None:
        """Record that a stanza arrived on this stream."""
        if number < self.first:
            self.repeats += 1
        else:
            self.arrived.append(number)
            self.arrived_on.append(stream)
            self.arrivals[number].append(time.time())

    def arrivals_by_stream(self) -> dict[int, list[tuple[ArrivalStream, float]]]:
        """Return the stream and the time of each arrival, in order, of the stanzas that arrived more than once."""
        streams: defaultdict[int, list[int]] = defaultdict(list)
        for number, stream in zip(self.arrived, self.arrived_on, strict=False):
            streams[number].append(stream)
        return {
            number: [(self.streams[stream], moment) for stream, moment in zip(streams[number], moments, strict=True)]
            for number, moments in self.arrivals.items() if len(moments) > 1
        }

    def missing(self) -> list[int]:
        """Return the stanzas that neither arrived nor were bounced nor withdrawn by their sender."""
        seen = {*self.arrived, *self.bounced, *self.withdrawn}
        return [number for number in range(self.first, len(self.sent)) if number not in seen]

    def refused_since(self, number: int) -> bool:
        """Return whether a stanza from this number on was answered by an error that says that there is no room."""
        return any(each >= number and "resource-constraint" in errors for each, errors in self.errors.items())

    def lost(self) -> list[int]:
        """Return the missing stanzas that the gateway has acknowledged."""
        return [number for number in self.missing() if number in self.acknowledged]

    def close_books(self) -> None:
        """Forget the stanzas so far. Their numbers are not used again."""
        self.first, self.repeats = len(self.sent), 0
        for numbers in (self.positions, self.requests, self.acknowledged, self.bounced, self.errors, self.withdrawn):
            numbers.clear()
        for counts in (self.answered, self.resent):
            counts.clear()
        self.arrived.clear()
        self.arrived_on.clear()
        self.arrivals.clear()

    def duplicates(self) -> int:
        """Return how many arrivals were repeats."""
        return len(self.arrived) - len(set(self.arrived)) + self.repeats

    def out_of_order(self) -> int:
        """Return how many first arrivals came after a stanza with a higher number."""
        return len(self.overtaken())

    def overtaken(self) -> list[int]:
        """Return the stanzas that first arrived after one with a higher number.

        Stanzas that were answered by an error are excluded. A request in doubt may be read late, on a stream that the gateway
        gave up (R33). A message may be sent again, and arrive this time, if its sender has not got the gateway's acknowledgement.
        """
        seen: set[int] = set()
        highest, found = -1, []
        for number in self.arrived:
            if number not in seen and number < highest and number not in self.bounced:
                found.append(number)
            seen.add(number)
            highest = max(highest, number)
        return found

    def requests_twice(self) -> int:
        """Return how many IQ requests arrived more than once (R33)."""
        counts = Counter(self.arrived)
        return sum(1 for number in self.requests if counts[number] > 1)

    def repeated_on_a_stream(self) -> int:
        """Return how many stanzas arrived more often on one stream than their sender sent them."""
        streams = Counter(zip(self.arrived_on, self.arrived, strict=False))
        return sum(1 for (_, number), count in streams.items() if count > 1 + self.resent[number])
