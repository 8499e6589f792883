"""Looks for peers that could not be reached: asks the DNS again, and retries a peer that has moved at once.

While queues to a peer back off, the DNS is asked for the peer now and then. The resolver keeps each answer for its TTL, so this
does not add traffic before that. Peers without waiting stanzas are not looked up.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.net.discovery import Resolution
from s2sgw.queue.backoff import Chance
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.registered_domain import registered_domain

#: Seconds between two looks for one peer, less up to a quarter of it at random.
INTERVAL = 30.0
JITTER = 0.25
#: Seconds. A look-up is left out if an attempt is so near: the attempt looks the peer up.
NEAR = 10.0
#: Peers that are watched, and look-ups under way at once.
WATCHED = 1000
AT_ONCE = 32
#: Seconds from one turn to the next.
TICK = 5.0

#: Host, port, whether it is direct TLS.
Place = tuple[str, int, bool]
#: The addresses of each place; None: not looked up.
Places = dict[Place, frozenset[str] | None]


@dataclass(slots=True)
class _Missed:
    """A peer that could not be reached: the places that were known then, and when the DNS is asked again."""

    places: Places
    due: float


class PeerLookup(Protocol):
    """Looks up peers in the DNS, or their configured routes."""

    def resolve(self, peer: Domain) -> Awaitable[Resolution]:
        """Return the places of `peer`."""


class Rediscovery:
    """Watches peers that cannot be reached.

    `resolve` looks a peer up, `random` gives numbers in [0, 1). Call `turn` every `TICK` seconds.
    """

    log = Logger("s2sgw")

    def __init__(
        self, clock: IReactorTime, queues: DeliveryQueues, locations: PeerLookup,
        random: Chance,
    ) -> None:
        self._clock = clock
        self._queues = queues
        self._locations = locations
        self._random = random
        self._missed: FairDict[Domain, _Missed] = FairDict(WATCHED, _owner_of)
        self._asking = 0

    def __len__(self) -> int:
        """Return the number of peers that are watched."""
        return len(self._missed)

    def missed(self, peer: Domain, known: Resolution) -> None:
        """Note a failed attempt. `known`: the places of the peer then, or why they were not known."""
        self._missed[peer] = _Missed(_places(known), self._next())

    def turn(self) -> None:
        """Look up the peers whose time has come, if stanzas wait for them."""
        now = self._clock.seconds()
        for peer, missed in [row for row in self._missed.items() if row[1].due <= now]:
            missed.due = self._next()
            rest = self._rest(peer)
            if rest is None:
                del self._missed[peer]
            elif rest > NEAR and self._asking < AT_ONCE:
                self._look(peer, missed)
            elif rest > NEAR:
                missed.due = now

    def _next(self) -> float:
        return self._clock.seconds() + INTERVAL * (1 - JITTER * self._random.random())

    def _rest(self, peer: Domain) -> float | None:
        """Return the seconds until a queue retries the peer by itself; None: no queue waits for it."""
        waiting = [queue for queue in self._queues.towards(peer) if len(queue.pair_queue) and not queue.held]
        times = [at for queue in waiting if (at := queue.next_hop.status().retry_at) is not None]
        return min(times) - self._clock.seconds() if times else None

    def _look(self, peer: Domain, missed: _Missed) -> None:
        self._asking += 1
        looking = Deferred.fromCoroutine(self._compare(peer, missed))
        looking.addErrback(self._broken)
        looking.addBoth(self._looked)

    def _broken(self, failure: Failure) -> None:
        self.log.failure("a peer could not be looked for", failure)

    def _looked(self, _: object) -> None:
        self._asking -= 1

    async def _compare(self, peer: Domain, missed: _Missed) -> None:
        moved = _new(_places(await self._locations.resolve(peer)), missed.places)
        if not moved or self._missed.get(peer) is not missed:
            return
        del self._missed[peer]
        said = ", ".join(sorted(moved))
        self.log.info(event="woken by the DNS", direction="outbound", leg="federation", peer=str(peer), detail=f"now {said}")
        self._queues.retry_now(peer, urged=True)


def _owner_of(peer: Domain, missed: _Missed) -> str:
    """Return the party that may choose any number of names of peers."""
    return registered_domain(peer.ascii)


def _places(resolution: Resolution) -> Places:
    return {target.place: frozenset(target.addresses) if target.located else None for target in resolution.targets}


def _new(now: Places, before: Places) -> list[str]:
    """Return the places, and the addresses of known places, that are in `now` and not in `before`, in words."""
    said = []
    for place, addresses in now.items():
        known = before.get(place, frozenset())
        if known is None or (addresses is None and place in before):
            continue  # its addresses cannot be compared
        host, port, _ = place
        said += [f"{host}:{port} at {address}" for address in addresses - known] if addresses is not None else [f"{host}:{port}"]
    return said
