"""The DNS view: a resolver for the backend alone, in which every domain except the local ones leads to the gateway.

The view answers few questions itself (docs/decisions.md#dns-view). All others are forwarded, concurrently and within bounds, also
those about the local domains: these never lead to the gateway. Only clients on this machine are answered, and those that the
operator lists.

In a cluster each peer leads to the node that is its home, and with a lower priority to the other nodes (docs/cluster.md).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.message import Message
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.protocols.basic import Int16StringReceiver
from twisted.protocols.policies import TimeoutMixin

from s2sgw.net.dns_bounds import check_answer
from s2sgw.net.dns_transport import Reactor
from s2sgw.net.dns_upstream import EDNS_PAYLOAD, Upstream, parse_servers
from s2sgw.net.proxy_protocol import Network
from s2sgw.xmpp.host_port import HostPort, canonical, ip_address, is_loopback

#: Seconds for which the backend may keep an answer of the view itself: of a gateway that is alone, and of a node of a cluster.
TTL = 60
NODES_TTL = 5
#: Seconds in which the home of a peer must be found. Otherwise the answer begins with this node.
HOME_SECONDS = 1.0
#: The name below which each node of a cluster has a name.
NODES_ZONE = dns.name.from_text("nodes.s2sgw.internal.")
#: Seconds for a forwarded question, over all servers.
TIMEOUT = 8.0
#: Questions that are forwarded at once. One more is answered by SERVFAIL.
FORWARDED = 256
#: TCP clients at once, questions of one client under way at once, and seconds that a client may be silent.
CLIENTS = 64
PIPELINED = 16
IDLE = 30.0
#: The largest answer over UDP, and the largest for a client without EDNS (RFC 1035 §4.2.1).
UDP_PAYLOAD = 4096
_UDP_PLAIN = 512
_HEADER = 12
_ONION = dns.name.from_text("onion.")
_LOCALHOST = dns.name.from_text("localhost.")
_TCP = b"_tcp"


class ServerNodes(Protocol):
    """The nodes of a cluster, as the server of a view reaches them."""

    @property
    def own(self) -> str:
        """Return the name of this node; "": the target of the view leads to it."""

    def ranked(self, peer: str) -> Deferred[list[tuple[int, str]]]:
        """Return the nodes for the streams to `peer` (A-labels), with their priorities. The name "" is the view's target."""

    def address(self, node: str) -> HostPort | None:
        """Return where the server connects to a node. `node` is in lower case."""


class DNSView:
    """Answers the backend's questions.

    `is_local`: whether a name (A-labels, lower case, no final dot) is a domain of the backend.
    `target` and `port`: the gateway's inner listener, as in an SRV record. `forward`: resolvers ("address" or "address:port") for
    everything else; none: the system's. `clients`: who may ask beside this machine. `nodes`: those of a cluster, if there is one.
    Raises `ValueError`.
    """

    def __init__(
        self,
        reactor: Reactor,
        is_local: Callable[[str], bool],
        port: int,
        target: str = "localhost.",
        forward: Sequence[str] = (),
        *,
        clients: Sequence[Network] = (),
        nodes: ServerNodes | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._reactor = reactor
        self._upstream = Upstream(reactor, parse_servers(forward))
        self._aim(is_local, port, target, clients, nodes)
        self._timeout = timeout
        self._forwarding: set[Deferred[Message]] = set()
        self._ports: list[Any] = []
        #: in the order of their last questions
        self.clients: dict[_Client, None] = {}
        #: questions since the start
        self.questions = 0
        self.address: HostPort | None = None

    def _aim(
        self, is_local: Callable[[str], bool], port: int, target: str, clients: Sequence[Network], nodes: ServerNodes | None,
    ) -> None:
        self._is_local = is_local
        self._clients = clients
        self._nodes = nodes
        self._port = port
        self._ttl = TTL if nodes is None else NODES_TTL
        self._target = dns.name.from_text(target).canonicalize()
        self._address = target.removesuffix(".") if _is_ipv4(target) else "127.0.0.1"
        self._srv = f"0 0 {port} {self._target}"

    def configure(
        self, is_local: Callable[[str], bool], port: int, target: str, forward: Sequence[str], *, clients: Sequence[Network] = (),
        nodes: ServerNodes | None = None,
    ) -> None:
        """Answer by these values from now on (see the class). Raises `ValueError`, and then nothing has changed."""
        found = parse_servers(forward)
        self._aim(is_local, port, target, clients, nodes)
        if found != self._upstream.servers:
            self._upstream = Upstream(self._reactor, found)

    # --- life ---

    def listen(self, address: str) -> None:
        """Serve UDP and TCP at `address` ("host:port", port 0 for any). Raises `ValueError` or `CannotListenError`."""
        place = HostPort.parse(address, 53) if not address.endswith(":0") else HostPort(address[:-2].strip("[]"), 0)
        if not is_loopback(place.host) and not self._clients:
            raise ValueError(f"{address}: the DNS view is for this machine alone, it needs a loopback address")
        if place in self._upstream.servers:
            raise ValueError(f"{address}: the DNS view would forward to itself")
        tcp = self._reactor.listenTCP(place.port, _Clients(self), interface=place.host)
        self._ports.append(tcp)
        self.address = HostPort(place.host, tcp.getHost().port)
        try:
            self._ports.append(self._reactor.listenUDP(self.address.port, _ViewDatagrams(self), interface=place.host))
        except Exception:
            self.stop()
            raise

    def stop(self) -> Deferred[list[Any]]:
        """Close everything. Fires when the ports are free."""
        for forwarded in list(self._forwarding):
            forwarded.cancel()
        for client in list(self.clients):
            client.abort()
        ports, self._ports = self._ports, []
        return gatherResults([port.stopListening() or succeed(None) for port in ports])

    def serves(self, client: str) -> bool:
        """Return whether the client at this address is answered."""
        if is_loopback(client):
            return True
        address = ip_address(canonical(client)) if self._clients else None
        return address is not None and any(address in network for network in self._clients)

    # --- questions ---

    def respond(self, wire: bytes, *, datagram: bool) -> Deferred[bytes]:
        """Return the answer to the question in `wire`; b"": no answer is sent. Never fails."""
        self.questions += 1
        flags = int.from_bytes(wire[2:4], "big")
        if len(wire) < _HEADER or flags & dns.flags.QR:
            return succeed(b"")
        if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
            return succeed(_bare(wire, dns.rcode.NOTIMP))
        try:
            check_answer(wire)  # a query too can take seconds to parse
            query = dns.message.from_wire(wire)
        except Exception:  # dnspython raises several kinds, not only its own
            return succeed(_bare(wire, dns.rcode.FORMERR))
        limit = _datagram_limit(query) if datagram else 65535
        return self._answer(query).addCallback(lambda answer: answer.to_wire(max_size=limit, prefer_truncation=True))

    def _answer(self, query: Message) -> Deferred[Message]:
        refusal = _refusal(query)
        if refusal is not None:
            return succeed(_reply(query, refusal))
        own = self._own_answer(query)
        if isinstance(own, Deferred):
            return own
        return self._forward(query) if own is None else succeed(own)

    def _own_answer(self, query: Message) -> Message | Deferred[Message] | None:
        """Return the view's own answer; None: the question is forwarded."""
        name = query.question[0].name
        if self._nodes is not None and name.is_subdomain(NODES_ZONE):
            return self._node_record(self._nodes, query)
        if name == self._target or name == _LOCALHOST:
            return self._record(query, dns.rdatatype.A, self._address if name == self._target else "127.0.0.1")
        if name.is_subdomain(_LOCALHOST):
            return _negative(query, dns.rcode.NXDOMAIN)
        service = self._service(name)
        if service == b"_xmpp-server":
            if self._nodes is not None and query.question[0].rdtype == dns.rdatatype.SRV:
                return self._nodes_record(self._nodes, query)
            return self._record(query, dns.rdatatype.SRV, self._srv)
        if service in (b"_xmpps-server", b"_jabber"):  # jabberd2 asks for the latter, which must not lead past the gateway
            return _negative(query, dns.rcode.NXDOMAIN)
        if name.is_subdomain(_ONION):  # RFC 7686 §2: it is not passed to another name server
            return _negative(query, dns.rcode.NXDOMAIN)
        return None

    def _service(self, name: dns.name.Name) -> bytes | None:
        """Return the service in the question, if it is one of a domain that is not ours."""
        labels = name.canonicalize().labels
        if len(labels) < 4 or labels[1] != _TCP or self._is_ours(labels[2:-1]):
            return None
        return labels[0]

    def _is_ours(self, labels: Sequence[bytes]) -> bool:
        """Return whether the name is a local domain itself.

        Names under it may be anyone's: they lead to the gateway, which detects loops.
        """
        return self._is_local(".".join(label.decode("ascii", "backslashreplace") for label in labels))

    def _record(self, query: Message, rdtype: dns.rdatatype.RdataType, *data: str) -> Message:
        question = query.question[0]
        if question.rdtype != rdtype:
            return _negative(query, dns.rcode.NOERROR)
        reply = _reply(query, dns.rcode.NOERROR)
        reply.answer.append(dns.rrset.from_text(question.name, self._ttl, "IN", rdtype, *data))
        return reply

    # --- the nodes of a cluster ---

    def _node_record(self, nodes: ServerNodes, query: Message) -> Message:
        """Return the address of a node."""
        labels = query.question[0].name.canonicalize().relativize(NODES_ZONE).labels
        place = nodes.address(labels[0].decode("ascii", "backslashreplace")) if len(labels) == 1 else None
        if place is None:
            return _negative(query, dns.rcode.NXDOMAIN)
        return self._record(query, dns.rdatatype.AAAA if ":" in place.host else dns.rdatatype.A, place.host)

    def _nodes_record(self, nodes: ServerNodes, query: Message) -> Deferred[Message]:
        """Return the nodes for a peer, its home first. If the home is not found in time, this node is."""
        labels = query.question[0].name.canonicalize().labels[2:-1]
        peer = ".".join(label.decode("ascii", "backslashreplace") for label in labels)
        if len(self._forwarding) >= FORWARDED:
            return succeed(self._ranked_record(nodes, query, [(0, nodes.own)]))
        ranked = nodes.ranked(peer).addTimeout(HOME_SECONDS, self._reactor).addErrback(partial(_only, nodes.own))
        asking = ranked.addCallback(partial(self._ranked_record, nodes, query))
        self._forwarding.add(asking)
        return asking.addBoth(self._forwarded, asking)

    def _ranked_record(self, nodes: ServerNodes, query: Message, ranked: Sequence[tuple[int, str]]) -> Message:
        data = []
        for priority, node in ranked:
            place = nodes.address(node.lower()) if node else HostPort(str(self._target), self._port)
            if place is not None:
                name = f"{node}.{NODES_ZONE}" if node else place.host
                data.append(f"{priority} 0 {place.port} {name}")
        return self._record(query, dns.rdatatype.SRV, *(data or [self._srv]))

    # --- forwarding ---

    def _forward(self, query: Message) -> Deferred[Message]:
        if len(self._forwarding) >= FORWARDED:
            return succeed(_reply(query, dns.rcode.SERVFAIL))
        asking = Deferred.fromCoroutine(self._ask(query)).addTimeout(self._timeout, self._reactor)
        self._forwarding.add(asking)
        asking.addErrback(lambda _: _reply(query, dns.rcode.SERVFAIL))
        return asking.addBoth(self._forwarded, asking)

    def _forwarded(self, reply: Message, asking: Deferred[Message]) -> Message:
        self._forwarding.discard(asking)
        return reply

    async def _ask(self, query: Message) -> Message:
        """Return our own question with the client's flags. The client's options are not forwarded."""
        question = query.question[0]
        flags = query.flags & (dns.flags.RD | dns.flags.AD | dns.flags.CD)
        wants_dnssec = bool(query.ednsflags & dns.flags.DO)
        asked = dns.message.make_query(
            question.name, question.rdtype, use_edns=0, want_dnssec=wants_dnssec, payload=EDNS_PAYLOAD, flags=flags
        )
        answer, _ = await self._upstream.ask(asked)
        reply = _reply(query, answer.rcode())
        reply.flags |= answer.flags & dns.flags.AD
        reply.answer, reply.authority, reply.additional = answer.answer, answer.authority, answer.additional
        return reply


def _only(node: str, _: object) -> list[tuple[int, str]]:
    return [(0, node)]


def _refusal(query: Message) -> dns.rcode.Rcode | None:
    if len(query.question) != 1:
        return dns.rcode.FORMERR
    if query.edns > 0:
        return dns.rcode.BADVERS
    question = query.question[0]
    if question.rdclass != dns.rdataclass.IN or dns.rdatatype.is_metatype(question.rdtype):
        return dns.rcode.REFUSED
    return None


def _reply(query: Message, rcode: dns.rcode.Rcode) -> Message:
    reply = dns.message.make_response(query, recursion_available=True, our_payload=EDNS_PAYLOAD)
    reply.flags |= query.flags & dns.flags.CD
    reply.set_rcode(rcode)
    return reply


def _negative(query: Message, rcode: dns.rcode.Rcode) -> Message:
    """Return a negative answer, with the SOA record that lets resolvers keep it (RFC 2308 §3)."""
    reply = _reply(query, rcode)
    soa = f"localhost. nobody.invalid. 1 3600 600 86400 {TTL}"
    reply.authority.append(dns.rrset.from_text(_zone(query.question[0].name), TTL, "IN", "SOA", soa))
    return reply


def _zone(name: dns.name.Name) -> dns.name.Name:
    """Return the name without the labels of a service."""
    while name.labels[0].startswith(b"_"):
        name = name.parent()
    return name


def _bare(wire: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Return a bare header for a question that cannot be parsed: its id and opcode, and the error."""
    opcode_and_rd = int.from_bytes(wire[2:4], "big") & 0x7900
    return wire[:2] + (dns.flags.QR | opcode_and_rd | rcode).to_bytes(2, "big") + bytes(_HEADER - 4)


def _datagram_limit(query: Message) -> int:
    return min(max(query.payload, _UDP_PLAIN), UDP_PAYLOAD) if query.edns >= 0 else _UDP_PLAIN


def _is_ipv4(target: str) -> bool:
    try:
        ipaddress.IPv4Address(target.removesuffix("."))
    except ValueError:
        return False
    return True


# --- transports ------------------------------------------------------------------------------------------------------


class _ViewDatagrams(DatagramProtocol):
    noisy = False

    def __init__(self, view: DNSView) -> None:
        self._view = view

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if self._view.serves(addr[0]):
            self._view.respond(datagram, datagram=True).addCallback(self._send, addr)

    def _send(self, answer: bytes, addr: Any) -> None:
        if answer and self.transport is not None:
            self.transport.write(answer, addr)


class _Client(Int16StringReceiver, TimeoutMixin):
    """A client over TCP. Its questions are answered in the order in which the answers come (RFC 7766 §7)."""

    def __init__(self, view: DNSView, clock: Reactor) -> None:
        self._view = view
        self._under_way = 0
        self._clock = clock

    def callLater(self, period: float, func: Any) -> Any:
        """Return a timed call (the clock of TimeoutMixin)."""
        return self._clock.callLater(period, func)

    @property
    def _stream(self) -> Any:
        """Return the transport, an ITCPTransport."""
        return self.transport

    def connectionMade(self) -> None:
        self._view.clients[self] = None
        self._stream.registerProducer(self._stream, True)  # a client that reads no answers is not read from
        self.setTimeout(IDLE)

    def stringReceived(self, string: bytes) -> None:
        self.resetTimeout()
        if self in self._view.clients:
            self._view.clients[self] = self._view.clients.pop(self)
        if self._under_way >= PIPELINED:
            self.abort()
            return
        self._under_way += 1
        self._view.respond(string, datagram=False).addCallback(self._send)

    def _send(self, answer: bytes) -> None:
        self._under_way -= 1
        if answer:
            self.sendString(answer)
        else:
            self.abort()

    def timeoutConnection(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._stream.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.setTimeout(None)
        self._view.clients.pop(self, None)

    def give_way(self) -> bool:
        """End a connection on which no answer is due, for another client. Return whether it is ended."""
        if self._under_way:
            return False
        self._view.clients.pop(self, None)
        self.abort()
        return True


class _Clients(Factory):
    noisy = False

    def __init__(self, view: DNSView) -> None:
        self._view = view

    def buildProtocol(self, addr: Any) -> _Client | None:
        """Return the protocol; None: Twisted closes the connection.

        For one more than `CLIENTS`, the client that was silent longest gives way.
        """
        if not self._view.serves(addr.host):
            return None
        clients = self._view.clients
        if len(clients) >= CLIENTS and not any(client.give_way() for client in list(clients)):
            return None
        return _Client(self._view, self._view._reactor)
