"""Builds the connection of each stream, and puts it under keep-alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime

from s2sgw.backend.jabberd2_router import RouterLink
from s2sgw.net.buffering import UnsentBytes
from s2sgw.net.connection import ConnectionOptions, StreamConnection
from s2sgw.net.turns import Turns
from s2sgw.net.write_permission import WriteLease
from s2sgw.s2s.connecting import InitiatedStream
from s2sgw.s2s.keepalive import KeepAlive
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.stream.jabberd2_router import RouterStream


@dataclass(frozen=True, slots=True)
class ConnectionBuilder:
    """The services that all connections share. `may_write` is the lease of a node of a cluster; None: there is no cluster."""

    clock: IReactorTime
    keepalive: KeepAlive
    turns: Turns
    unsent: UnsentBytes
    may_write: WriteLease | None = None

    def accept(self, engine: Any, owner: Any, **options: Any) -> StreamConnection:
        """Return the connection of a stream that is opened towards us. Its admission ends the negotiation in time."""
        return self.keepalive.keep(StreamConnection(
            engine, owner, clock=self.clock, turns=self.turns, unsent=self.unsent, options=_ACCEPTED,
            may_write=self.may_write, **options,
        ))

    def connect(self, engine: InitiatingStream, owner: InitiatedStream) -> StreamConnection:
        """Return the connection of a stream that we open."""
        return self.keepalive.keep(StreamConnection(
            engine, owner, clock=self.clock, role="initiating", tls=owner.open_tls,
            direct_tls=owner.target.direct_tls, turns=self.turns, unsent=self.unsent, may_write=self.may_write,
        ))

    def link(self, engine: RouterStream, owner: RouterLink) -> StreamConnection:
        """Return the connection to a jabberd2 router. Many pairs share it, and it has no TLS."""
        return self.keepalive.keep(StreamConnection(
            engine, owner, clock=self.clock, role="initiating", tls=_no_tls, shared=True, turns=self.turns,
            unsent=self.unsent, may_write=self.may_write,
        ))


#: The admission ends the negotiation of an accepted stream in time.
_ACCEPTED = ConnectionOptions(negotiation_timeout=None)


def _no_tls(order: object) -> None:
    """Refuse TLS: the connection to a router is on loopback and has none."""
