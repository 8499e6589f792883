"""Where a new connection goes: it is served by the home of its peer, and handed on if that is another node (docs/cluster.md).

The first stream header is in clear before STARTTLS, and tells the peer. What it says is not proven. The node that serves the
connection proves it, and refuses a peer whose home is elsewhere, so a wrong header gains nothing.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

from s2sgw.cluster.home_table import SessionView
from s2sgw.cluster.node_records import NodeSession
from s2sgw.ingress.homes import home_of
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair


@dataclass(frozen=True, slots=True)
class ServeHere:
    """This node serves the connection."""


@dataclass(frozen=True, slots=True)
class HandOn:
    """Connect to the cluster listener (host:port) of `node`, and copy bytes both ways."""

    node: str
    listener: str


@dataclass(frozen=True, slots=True)
class AskAgain:
    """The home is silent, or this node may not write: let the connection wait, and ask again a little later."""


Placement = ServeHere | HandOn | AskAgain


class NodeView(SessionView, Protocol):
    """The facts that this node has about the other nodes (`Members`)."""

    def listener_of(self, node: str) -> str | None: ...

    def may_write(self, now: float) -> bool: ...


def peer_of(header: Header, local_domains: Container[Domain]) -> Domain | None:
    """Return the domain whose home should serve the stream that begins with `header`.

    None: the header does not tell, so that any node may begin, and the home is asked for when the peer is known.
    """
    if header.from_ is None or header.to is None:
        return None
    try:
        return home_of(Pair(Domain.claimed(header.from_), Domain.claimed(header.to)), local_domains)
    except InvalidJID:
        return None


def place(owner: NodeSession | None, nodes: NodeView, now: float) -> Placement:
    """Return where a connection goes whose peer has the home `owner` (None: it has no home, or the home was released)."""
    if not nodes.may_write(now):
        return AskAgain()
    state = "over" if owner is None else nodes.state_of(owner, now)
    if owner is None or state in ("over", "own"):
        return ServeHere()
    listener = nodes.listener_of(owner.node) if state == "alive" else None
    return AskAgain() if listener is None else HandOn(owner.node, listener)
