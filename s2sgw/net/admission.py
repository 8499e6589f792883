"""The admission of connections: how many may be open at once, and which connection gives way to a new one.

A connection is *unproven* until its stream has proven a pair of domains. Unproven connections are bounded in all, for each
site (`net.sites`) and for each name that they claim, and have a limited time. Beyond a bound the oldest one of the most
crowded site gives way to the newcomer: a site with many connections loses its own, and a site with one keeps it. A proven
connection never gives way. The cost of each step does not depend on the number of connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.net.sites import Site, site_path
from s2sgw.net.turn_budget import TurnBudget
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition

#: The bound of a wider site, as a multiple of the narrowest site's: an IPv4 /24; an IPv6 /56 and /48.
WIDER = 2
#: Seconds that a negotiation has at least, even if many are under way.
LEAST_NEGOTIATION = 5.0
#: Beyond so many unproven connections a new one is not read in the turn in which it is accepted.
CROWD = 4
#: Seconds of a turn after which no further connection is read in the turn that accepts it: a TLS handshake may take some of them.
AT_ONCE_SECONDS = 0.004
#: Seconds between two looks for connections whose time is over; the most that are ended in one turn of the reactor, and the
#: seconds that this may take.
LOOK = 0.5
ENDED_PER_TURN = 50
ENDING_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of open connections; 0 is no limit.

    `total`: in all. `per_address`: from one IPv4 address or IPv6 /64. `unproven`: of those in all, `unproven_per_site`: from
    one IPv4 address or IPv6 /64 (each wider site: `WIDER` times as many), `unproven_per_name`: that claim to be one domain.
    `negotiation`: seconds from the connection to the proof.
    """

    total: int = 20_000
    per_address: int = 200
    unproven: int = 5_000
    unproven_per_site: int = 100
    unproven_per_name: int = 50
    negotiation: float = 30.0


class Dismissible(Protocol):
    """The protocol of an admitted connection."""

    def dismiss(self, refusal: Refusal) -> None:
        """End the connection at once, if it is still open."""


class NotAdmitted(NamedTuple):
    """Why a connection is not admitted, or gave way: the limit by the name of its key, and the ending."""

    limit: str
    ending: Ending


class Admission:
    """The open connections of all listeners that share these limits.

    `hit(limit)` is called whenever a limit keeps a connection out or ends one.
    """

    def __init__(
        self, limits: ConnectionLimits, clock: IReactorTime, hit: Callable[[str], None] = lambda limit: None,
        budget: TurnBudget | None = None,
    ) -> None:
        self.limits = limits
        self._budget = budget or TurnBudget()
        self._clock = clock
        self._hit = hit
        self._total = 0
        self._proven = 0
        self._by_address: dict[str, int] = {}
        self._unproven = _Sites()
        self._by_name: dict[str, _Sites] = {}
        #: descriptor -> unproven connection; the one that came or advanced last is at the end (`net.fair_poll`)
        self.strangers: dict[int, AdmittedConnection] = {}
        #: the unproven connections, oldest first
        self._by_age: dict[AdmittedConnection, None] = {}
        #: the unproven connections whose negotiation another node ends in time
        self._entrusted: set[AdmittedConnection] = set()
        self._timer: IDelayedCall | None = None

    @property
    def total(self) -> int:
        """Return the number of open connections, including those that are being closed."""
        return self._total

    @property
    def proven(self) -> int:
        """Return the number of connections whose stream has proven a pair."""
        return self._proven

    @property
    def unproven(self) -> int:
        """Return the number of connections that have proven nothing yet."""
        return self._unproven.count

    @property
    def is_late(self) -> bool:
        """Return whether this turn of the reactor has used too much time for reading a new connection at once."""
        return self._budget.used > AT_ONCE_SECONDS

    @property
    def negotiation_seconds(self) -> float:
        """The seconds that a negotiation may take now: fewer if there are many unproven connections."""
        limits = self.limits
        pressure = 2 * self._unproven.count / limits.unproven - 1 if limits.unproven else 0.0
        return limits.negotiation - max(0.0, min(pressure, 1.0)) * max(0.0, limits.negotiation - LEAST_NEGOTIATION)

    def admit(self, address: str) -> AdmittedConnection | NotAdmitted:
        """Count a new connection from `address`; another may give way for it.

        Return why it is not admitted, or the connection.
        """
        path = site_path(address)
        reached = self._make_room(path)
        if reached is not None:
            self._hit(reached.limit)
            return reached
        self._total += 1
        self._by_address[path[-1]] = self._by_address.get(path[-1], 0) + 1
        connection = AdmittedConnection(self, path, self._clock.seconds())
        self._unproven.add(connection)
        self._by_age[connection] = None
        if self._timer is None:
            self._timer = self._clock.callLater(LOOK, self._look)
        return connection

    def claim(self, connection: AdmittedConnection, name: str) -> None:
        """Note that an unproven connection claims `name`. If too many claim the same name, one of them gives way."""
        self._forget_claim(connection)
        claimants = self._by_name.get(name)
        most = self.limits.unproven_per_name
        if claimants is not None and most and claimants.count >= most:
            self._displace(claimants.oldest_of_most_crowded(), NotAdmitted("unproven_per_name", _too_many(
                f"{claimants.count} connections claim one name and have not proven it, which is limits.unproven_per_name",
            )))
        connection.claimed = name
        self._by_name.setdefault(name, _Sites()).add(connection)

    def entrust(self, connection: AdmittedConnection) -> None:
        """Note that another node serves `connection`, and ends its negotiation in time. It may still give way to others."""
        if connection in self._by_age:
            del self._by_age[connection]
            self._entrusted.add(connection)
            self._stop_if_empty()

    def prove(self, connection: AdmittedConnection) -> None:
        """Note that the stream of `connection` has proven a pair. The connection never gives way from now on."""
        self._proven += 1
        self._forget_stranger(connection)
        self._leave_unproven(connection)

    def release(self, connection: AdmittedConnection) -> None:
        """Forget `connection`, whose transport is gone."""
        self._total -= 1
        self._forget_stranger(connection)
        if connection.proven:
            self._proven -= 1
        else:
            self._leave_unproven(connection)
        site = connection.path[-1]
        left = self._by_address[site] - 1
        if left:
            self._by_address[site] = left
        else:
            del self._by_address[site]

    def close(self) -> None:
        """End the connections that have proven nothing, because the gateway stops."""
        ending = Ending(Cause.SHUTDOWN)
        for connection in [*self._by_age, *self._entrusted]:
            self._leave_unproven(connection)
            connection.dismiss(Refusal(StreamCondition.SYSTEM_SHUTDOWN, "", ending))

    # --- which connection gives way ---

    def _make_room(self, path: Site) -> NotAdmitted | None:
        """Let another connection give way if a limit is reached. Return the limit if none can."""
        limits = self.limits
        if limits.per_address and self._by_address.get(path[-1], 0) >= limits.per_address:
            reached = _address_is_full(path[-1], limits.per_address)
            if not self._give_way(self._unproven.at(path), reached):
                return reached
        if limits.total and self._total >= limits.total:
            text = f"{self._total} connections are open, which is limits.connections"
            reached = NotAdmitted("connections", _too_many(text))
            if not self._give_way(self._unproven, reached):
                return reached
        self._make_room_at_sites(path)
        if limits.unproven and self._unproven.count >= limits.unproven:
            text = f"{self._unproven.count} connections have proven nothing, which is limits.unproven"
            self._give_way(self._unproven, NotAdmitted("unproven", _too_many(text)))
        return None

    def _make_room_at_sites(self, path: Site) -> None:
        """Bound the narrowest site first, so that the wider ones around it may not have to be touched."""
        bound = most = self.limits.unproven_per_site
        for depth in range(len(path), 0, -1) if most else ():
            here = self._unproven.at(path[:depth])
            if here is not None and here.count >= bound:
                text = f"{here.count} connections from {path[depth - 1]} have proven nothing; limits.unproven_per_site is {most}"
                self._give_way(here, NotAdmitted("unproven_per_site", _too_many(text)))
            bound *= WIDER

    def _give_way(self, among: _Sites | None, reached: NotAdmitted) -> bool:
        """End the oldest connection of the most crowded site. Return False if there is none."""
        if among is None or not among.count:
            return False
        self._displace(among.oldest_of_most_crowded(), reached)
        return True

    def _displace(self, connection: AdmittedConnection, reached: NotAdmitted) -> None:
        self._hit(reached.limit)
        self._leave_unproven(connection)
        connection.dismiss(Refusal(StreamCondition.RESOURCE_CONSTRAINT, "Too many connections. Try again later.", reached.ending))

    # --- time ---

    def _look(self) -> None:
        """End some of the connections whose time is over."""
        self._timer = None
        before = self._clock.seconds() - self.negotiation_seconds
        end = self._budget.end_of(ENDING_SECONDS)
        for _ in range(ENDED_PER_TURN):
            oldest = next(iter(self._by_age), None)
            if oldest is None:
                return
            if oldest.since > before:
                self._timer = self._clock.callLater(LOOK, self._look)
                return
            self._expire(oldest)
            if self._budget.stopwatch() > end:
                break
        self._timer = self._clock.callLater(0, self._look)

    def _expire(self, connection: AdmittedConnection) -> None:
        seconds = self._clock.seconds() - connection.since
        self._hit("negotiation")
        self._leave_unproven(connection)
        text = f"The stream was not negotiated within {seconds:.0f} seconds."
        connection.dismiss(Refusal(StreamCondition.CONNECTION_TIMEOUT, text, Ending(Cause.NEGOTIATION_TIMEOUT, text)))

    # --- bookkeeping ---

    def _leave_unproven(self, connection: AdmittedConnection) -> None:
        if connection in self._by_age:
            del self._by_age[connection]
            self._stop_if_empty()
        elif connection in self._entrusted:
            self._entrusted.remove(connection)
        else:
            return
        self._unproven.remove(connection)
        self._forget_claim(connection)

    def _stop_if_empty(self) -> None:
        if not self._by_age and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_stranger(self, connection: AdmittedConnection) -> None:
        if self.strangers.get(connection.descriptor) is connection:
            del self.strangers[connection.descriptor]

    def _forget_claim(self, connection: AdmittedConnection) -> None:
        name, connection.claimed = connection.claimed, None
        if name is not None:
            claimants = self._by_name[name]
            claimants.remove(connection)
            if not claimants.count:
                del self._by_name[name]


class AdmittedConnection:
    """One connection in its admission's count. `holder` is its protocol, which may change until the transport is gone."""

    __slots__ = ("_admission", "_open", "claimed", "descriptor", "holder", "path", "proven", "since")

    def __init__(self, admission: Admission, path: Site, since: float) -> None:
        self.path = path
        self.since = since
        self.claimed: str | None = None
        self.descriptor = -1
        self.proven = False
        self.holder: Dismissible | None = None
        self._admission = admission
        self._open = True

    @property
    def in_a_crowd(self) -> bool:
        """Return whether a new one is read when its turn has come: many are unproven, or much was done in this turn."""
        return self._admission.unproven > CROWD or self._admission.is_late

    def opened(self, descriptor: int) -> None:
        """Note that the connection has its transport."""
        self.descriptor = descriptor
        self._admission.strangers[descriptor] = self

    def claim(self, name: str) -> None:
        """Note the claim of `name`. Until the stream has proven one name, it may claim another."""
        if self._open and not self.proven and name != self.claimed:
            self._admission.claim(self, name)

    def advance(self) -> None:
        """Note a step of the negotiation. Its next input is read before that of connections without a recent step."""
        strangers = self._admission.strangers
        if strangers.get(self.descriptor) is self:
            del strangers[self.descriptor]
            strangers[self.descriptor] = self

    def entrust(self) -> None:
        """Note that another node serves the connection, and ends its negotiation in time."""
        if self._open:
            self._admission.entrust(self)

    def prove(self) -> None:
        """Note that the stream has proven a pair."""
        if self._open and not self.proven:
            self.proven = True
            self._admission.prove(self)

    def release(self) -> None:
        """Leave the count: the transport is gone."""
        if self._open:
            self._open = False
            self.holder = None  # it refers back to this object
            self._admission.release(self)

    def dismiss(self, refusal: Refusal) -> None:
        """End the connection."""
        if self.holder is not None:
            self.holder.dismiss(refusal)


class _Sites:
    """The connections of one network by the narrower ones within it, with the fullest of these at hand."""

    __slots__ = ("_connections", "_inner", "_most", "_ranks", "count")

    def __init__(self) -> None:
        self.count = 0
        #: the connections of a narrowest site, oldest first
        self._connections: dict[AdmittedConnection, None] = {}
        self._inner: dict[str, _Sites] = {}
        #: the inner sites by the number of their connections; among equals, the one that reached the number first is first
        self._ranks: dict[int, dict[str, _Sites]] = {}
        self._most = 0

    def at(self, path: Site) -> _Sites | None:
        """Return the network at the end of `path`; None: it has no connection."""
        here: _Sites | None = self
        for site in path:
            here = here._inner.get(site) if here is not None else None
        return here

    def oldest_of_most_crowded(self) -> AdmittedConnection:
        """Return the oldest connection of the fullest narrowest site, within the fullest wider ones."""
        here = self
        while here._inner:
            here = next(iter(here._ranks[here._most].values()))
        return next(iter(here._connections))

    def add(self, connection: AdmittedConnection, depth: int = 0) -> None:
        """Count one connection more."""
        self.count += 1
        if depth == len(connection.path):
            self._connections[connection] = None
            return
        site = connection.path[depth]
        inner = self._inner.get(site)
        if inner is None:
            inner = self._inner[site] = _Sites()
        else:
            self._unrank(site, inner)
        inner.add(connection, depth + 1)
        self._rank(site, inner)

    def remove(self, connection: AdmittedConnection, depth: int = 0) -> None:
        """Count one connection less."""
        self.count -= 1
        if depth == len(connection.path):
            del self._connections[connection]
            return
        site = connection.path[depth]
        inner = self._inner[site]
        self._unrank(site, inner)
        inner.remove(connection, depth + 1)
        if inner.count:
            self._rank(site, inner)
        else:
            del self._inner[site]
        while self._most and self._most not in self._ranks:
            self._most -= 1  # by one: the fullest site has one less now

    def _rank(self, site: str, inner: _Sites) -> None:
        self._ranks.setdefault(inner.count, {})[site] = inner
        self._most = max(self._most, inner.count)

    def _unrank(self, site: str, inner: _Sites) -> None:
        rank = self._ranks[inner.count]
        del rank[site]
        if not rank:
            del self._ranks[inner.count]


def _too_many(text: str) -> Ending:
    return Ending(Cause.TOO_MANY_CONNECTIONS, text)


def _address_is_full(site: str, most: int) -> NotAdmitted:
    text = (
        f"{site} has {most} connections open, which is limits.connections_per_address; "
        "if that is a load balancer of yours, have it send the PROXY protocol (listen: proxy_protocol = true)"
    )
    return NotAdmitted("connections_per_address", _too_many(text))
