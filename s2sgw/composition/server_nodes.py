"""The nodes of a cluster as the servers behind the gateway reach them: their inner listeners, and the home of each peer.

Imported only with the section `[cluster]`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.members import Members
from s2sgw.composition.cluster import listener_place
from s2sgw.config import Backend, Config
from s2sgw.config.cross_checks import tcp_place
from s2sgw.net.endpoint_strings import EVERY_ADDRESS
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, InvalidJID

#: The priorities of SRV records: of the home of the peer (or of this node), of the others, and of a node without a lease.
HOME, OTHERS, LAST = 0, 10, 20


class BackendNodes:
    """The nodes for the server of one backend: `server` is its name in the records of nodes.

    `own`: its inner listener on this node, as the other nodes tell it; None: only this machine reaches it.
    """

    def __init__(self, members: Members, homes: ClusterHomes, server: str, own: HostPort | None, clock: IReactorTime) -> None:
        self._members = members
        self._homes = homes
        self._server = server
        self._own = own
        self._clock = clock

    @property
    def own(self) -> str:
        """Return the name of this node; "": the view's own target leads to it, on this machine alone."""
        return "" if self._own is None else self._members.node

    def ranked(self, peer: str) -> Deferred[list[tuple[int, str]]]:
        """Return the nodes for the streams to `peer`, with their priorities: the home, or else this node, is the first."""
        try:
            domain = Domain.parse(peer)
        except InvalidJID:
            return succeed(self._ranked(None))
        return Deferred.fromCoroutine(self._homes.home_node(domain)).addCallback(self._ranked)

    def _ranked(self, home: str | None) -> list[tuple[int, str]]:
        live = self._members.live_nodes(self._clock.seconds())
        own = self._members.node
        others = [node for node in sorted(self._members.inner_listeners(self._server)) if node in live]
        first = home if home in others else own
        ranked = [(HOME if node == first else OTHERS, node) for node in others]
        rank = (HOME if first == own else OTHERS) if own in live else LAST
        return sorted([*ranked, (rank, self.own)])

    def address(self, node: str) -> HostPort | None:
        """Return the inner listener of a node. `node` is in lower case."""
        if node == self._members.node.lower():
            return self._own
        places = {name.lower(): place for name, place in self._members.inner_listeners(self._server).items()}
        try:
            return HostPort.parse(places[node], 0) if node in places else None
        except ValueError:
            return None


class NodeDirectory:
    """Tells the other nodes the inner listeners of this one, and makes the `BackendNodes` of each backend."""

    def __init__(self, members: Members, homes: ClusterHomes, listen: str, clock: IReactorTime) -> None:
        """Take the endpoint string of `[cluster].listen`."""
        self._members = members
        self._homes = homes
        self._host = listener_place(listen).host
        self._clock = clock

    def of(self, config: Config, backend: Backend) -> BackendNodes:
        """Return the nodes for the server of `backend`."""
        return BackendNodes(self._members, self._homes, server_name(config, backend), self._place(backend), self._clock)

    def adopt(self, config: Config) -> None:
        """Tell the inner listeners of `config` from now on."""
        places = {server_name(config, each): self._place(each) for each in config.backends if each.kind == "s2s"}
        self._members.inner = tuple((name, str(place)) for name, place in places.items() if place is not None)

    def _place(self, backend: Backend) -> HostPort | None:
        """Return the address of an inner listener for servers of other nodes; None: they cannot reach it."""
        found = tcp_place(backend.listen)
        if found is None:
            return None
        place = HostPort(self._host if found[0] in EVERY_ADDRESS else found[0], found[1])
        reachable = place.is_address and place.is_loopback == HostPort(self._host, 0).is_loopback
        return place if reachable else None


def server_name(config: Config, backend: Backend) -> str:
    """Return the name of a backend's server, the same on all nodes: the least of its domains."""
    return min((domain.ascii for domain in config.domains_of(backend)), default="")
