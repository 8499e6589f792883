"""The names that accepted connections claim, and the requester for whom each is looked up.

A claim is one name on one connection. What it may cost in look-ups is counted from the header to the last verification.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorTime

from s2sgw.net.connection import StreamConnection
from s2sgw.net.requester import QUESTIONS, Requester
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain

#: Seconds for which a claim is one transaction; later the same name on the same connection is a new claim.
CLAIM_SECONDS = 60.0
#: Claims of one connection that are remembered.
CLAIMS = 64
#: DNS questions for a claim whose connection must come from an address of the peer's (`resolve = "address-match"`): all
#: targets may have to be looked up.
ADDRESS_MATCH_QUESTIONS = 40


class KnownNames(Protocol):
    """The peers that are no strangers."""

    def knows(self, peer: Domain) -> bool:
        """Return whether `peer` was proven lately, or is named by the configuration."""


class Claims:
    """Gives each claim its `Requester`.

    A known name is looked up on our own account, from whatever connection the claim comes: known names are few, and each is
    looked up once at a time.
    """

    def __init__(self, clock: IReactorTime, known: KnownNames) -> None:
        self._clock = clock
        self._known = known
        self._claims: WeakKeyDictionary[StreamConnection, BoundedDict[Domain, tuple[float, Requester]]] = WeakKeyDictionary()

    def requester(self, connection: StreamConnection, peer: Domain, questions: int = QUESTIONS) -> Requester:
        """Return the requester for a look-up of `peer` that `connection` claims. `questions`: what the claim may cost."""
        claims = self._claims.setdefault(connection, BoundedDict(CLAIMS))
        now = self._clock.seconds()
        began, requester = claims.get(peer, (0.0, None))
        if requester is None or now >= began + CLAIM_SECONDS:
            requester = self._new(connection, peer, questions)
            claims[peer] = (now, requester)
        return requester

    def forget(self, connection: StreamConnection, peer: Domain) -> None:
        """Forget the claim of `peer`, which has proven itself on `connection`: its next claim is that of a known name."""
        claims = self._claims.get(connection)
        if claims is not None:
            claims.pop(peer, None)
            if not claims:
                del self._claims[connection]

    def _new(self, connection: StreamConnection, peer: Domain, questions: int) -> Requester:
        if self._known.knows(peer):
            return Requester.ourselves(peer.ascii)
        return Requester.stranger(host_of(connection.peer_address), questions)


def host_of(address: str) -> str:
    """Return the host of "host:port", or the text itself where it is none."""
    try:
        return HostPort.parse(address, 1).host
    except ValueError:
        return address
