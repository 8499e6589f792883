"""The test bed of `make cluster`: nodes for one local domain, the servers of their engine, the server behind them, and peers outside."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import ssl
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from s2sgw.admin.client import RequestFailed, ask, socket_path
from s2sgw.backend.private_ca import PrivateCA
from s2sgw.cluster.jetstream_api import QUESTION_SECONDS, JetStreamAPI
from s2sgw.cluster.nats_connection import NATSConnection
from s2sgw.cluster.subjects import SPOOL_STREAMS
from s2sgw.runtime.state_directory import keep_secret
from tests.durability.account import PairAccount
from tests.durability.cluster_prosody import REAL, ProsodyBehind
from tests.durability.gateway_runner import GatewayRunner
from tests.durability.prosody_testbed import USER
from tests.durability.simulated_nameserver import SimulatedNameserver
from tests.durability.simulated_server import REQUEST_SHARE, OutgoingStream, SimulatedServer, Traffic
from tests.durability.xml_stream import STREAMS, XMLStream
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import gateway
from tests.lab.lab import Lab, LabError, Process
from tests.lab.nats import nats
from tests.lab.relay import Relay

INSIDE = "inside.example"
#: Domain -> whether its server uses XEP-0198.
PEERS = {f"managed{number}.example": True for number in range(1, 6)} | {f"plain{number}.example": False for number in range(1, 4)}
#: The peers that hop from node to node in a round of that kind, and those that begin with TLS (XEP-0368).
HOPPING, DIRECT = ("managed1.example", "plain1.example"), ("managed5.example", "plain3.example")
#: The peers that have two streams at once in a round of that kind.
DOUBLED = ("managed1.example", "plain1.example", "managed5.example")
#: The peers that send to the Prosody behind the nodes, and get stanzas of its client.
REAL_PEERS = ("managed3.example", "plain2.example")
#: Seconds for which a Prosody may keep stanzas, before it looks again for a server of theirs.
REAL_SECONDS = 40.0
#: The letter of the ids of stanzas on second streams.
SECOND = "m"
NAMES = "abc"
#: Stanzas a second of each pair, and the bytes of a body.
RATE, SIZE = 15.0, 300
#: Texts that no log of a node may have.
FORBIDDEN_IN_LOG = "Traceback (most recent call last)", "Unhandled", "RecursionError"
_CONFLICT = "{urn:ietf:params:xml:ns:xmpp-streams}conflict"
#: Seconds between two checks, and within which every pair has an arrival if all is well.
LOOK_SECONDS, FRESH_SECONDS = 0.1, 1.5


class RoamingStream(OutgoingStream):
    """A stream to one of several nodes. If a node does not take it, it is opened to another one."""

    ports: Sequence[int] = ()
    chance = random.Random(0)

    def __init__(self, traffic: Traffic, port: int, context: ssl.SSLContext) -> None:
        super().__init__([traffic], port, context)
        #: stanzas that a sender without XEP-0198 wrote on streams that were refused: another node is the home of the peer
        self.refused: set[int] = set()

    async def _connect(self) -> None:
        before = self.streams
        try:
            await super()._connect()
        finally:
            if self.streams == before:
                self.hop()

    def handle(self, element: ET.Element, stream: XMLStream) -> None:
        """Process an element of a node."""
        if element.tag == f"{STREAMS}error" and element.find(_CONFLICT) is not None:
            self.refused |= {sent.number for sent in self._written}
        super().handle(element, stream)

    def count_written(self, *, cut_off: bool = False) -> None:
        """Count as acknowledged what was written on streams that ended well. A stream that was refused ends in order, too."""
        super().count_written(cut_off=cut_off)
        self.account.acknowledged -= self.refused

    def hop(self) -> None:
        """Use another node for the next stream."""
        self.port = self.chance.choice([port for port in self.ports if port != self.port] or list(self.ports))


class SecondTraffic(Traffic):
    """The traffic of a second stream of a pair. Its stanzas have ids of their own, and an account of their own."""

    def stanza(self, number: int) -> str:
        """Return the stanza of this number."""
        return super().stanza(number).replace(f" id='n{number}'", f" id='{SECOND}{number}'", 1)


def large_stanzas(stream: OutgoingStream, many: int, size: int) -> dict[int, str]:
    """Return the next `many` stanzas of a stream with bodies of so many bytes, by number."""
    first, account = len(stream.account.sent), stream.account
    start = f"<message type='chat' from='u@{account.sender}/r' to='{stream.traffic.address}'"
    body = "<body>" + "x" * size + "</body></message>"
    return {number: f"{start} id='n{number}'>{body}" for number in range(first, first + many)}


class SecondArrivals:
    """Notes what arrives of the traffic of second streams, by the pair."""

    def __init__(self) -> None:
        self.accounts: dict[tuple[str, str], PairAccount] = {}
        self._streams: dict[XMLStream, int] = {}

    def note(self, recipient: str, element: ET.Element, sender: str, stream: XMLStream) -> None:
        """Process a stanza that a server got."""
        identifier = element.get("id", "")
        if not (identifier.startswith(SECOND) and identifier[1:].isdecimal()):
            return
        if element.get("type") == "error":
            self.accounts[recipient, sender].bounced.add(int(identifier[1:]))
        elif (sender, recipient) in self.accounts:
            number = self._streams.setdefault(stream, len(self._streams))
            self.accounts[sender, recipient].arrive(int(identifier[1:]), number)


class ClusterNode:
    """One gateway of the cluster. Its connections to the engine, and those of other nodes to it, go through relays."""

    def __init__(self, lab: Lab, name: str, engine: Sequence[int], domains: Sequence[str]) -> None:
        self.name = name
        self.gateway = gateway(lab, *domains)
        self.runner = GatewayRunner(self.gateway)
        self.listen = lab.port()
        self.relays = [Relay(lab, port) for port in engine]
        #: from the other nodes
        self.inner_relay = Relay(lab, self.listen)
        self.inner_relay.refuse()
        self._following: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start it, and do not wait. Its relay listens as soon as it does."""
        process = self.runner.begin([sys.executable, "-m", "tests.durability.relayed_node", str(self.inner_relay.port)])
        self._following = asyncio.create_task(self._listen_with(process))

    async def _listen_with(self, process: Process) -> None:
        """Let the relay listen when the process does. Until then it refuses, as the port of a dead node."""
        while process.alive and not is_listening(self.listen):
            await asyncio.sleep(0.01)
        if process.alive:
            self.inner_relay.listen()

    async def kill(self) -> None:
        """End it with SIGKILL. Then its ports refuse connections, that of the relay too."""
        self.runner.process.signal(signal.SIGKILL)
        self.inner_relay.refuse()
        await self.runner.ended()

    def has_ended(self, status: int) -> bool:
        """Return whether it has ended by itself with this status, as a service manager sees it."""
        process = self.runner.process
        if process.status != status:
            return False
        if process in self.gateway.lab.processes:
            self.gateway.lab.processes.remove(process)
        self.inner_relay.refuse()
        return True

    async def stop(self) -> None:
        """Stop it in order."""
        await self.runner.stop()
        self.inner_relay.refuse()

    def section(self, shared: Path) -> dict[str, object]:
        """Return `[cluster]` of its configuration."""
        return {
            "node": self.name, "engine": [f"nats://127.0.0.1:{relay.port}" for relay in self.relays],
            "listen": f"tcp:{self.listen}:interface=127.0.0.1", "members": ["127.0.0.0/8"], "shared": str(shared),
        }

    @property
    def ports(self) -> tuple[int, int, int]:
        """Return its listeners for peers, for the server behind it, and for peers that begin with TLS."""
        return self.gateway.port, self.gateway.inner, self.gateway.direct

    def ask(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Return the answer of its admin socket. Raises `RequestFailed`."""
        return ask(socket_path(self.gateway.config), verb, arguments)

    def streams(self) -> int:
        """Return how many streams it has, or -1 if it does not answer."""
        try:
            return len(ask(socket_path(self.gateway.config), "streams", {"here": True}, 5.0))
        except RequestFailed:
            return -1

    def said(self, event: str, since: float) -> bool:
        """Return whether its log has an event since then (seconds since the epoch)."""
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
        return any(line[: len(start)] >= start and event in line for line in self.log().splitlines())

    def log(self) -> str:
        path = self.gateway.folder / "s2sgw.out"
        return path.read_text(errors="replace") if path.exists() else ""


def is_listening(port: int) -> bool:
    """Return whether a process listens at this port of IPv4, by the kernel's table."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port for row in rows)


class ClusterTestbed:
    """Three nodes, three servers of the engine, one server behind the nodes, and `PEERS`."""

    def __init__(self, lab: Lab, chance: random.Random, rate: float = RATE, real: bool = False) -> None:
        """`real`: a Prosody is behind the nodes, too."""
        self.lab = lab
        self.chance = chance
        self.engine = nats(lab, 3)
        self.prosody = ProsodyBehind(lab, len(NAMES)) if real else None
        domains = [INSIDE, *([REAL] if real else [])]
        self.nodes = [ClusterNode(lab, name, [server.port for server in self.engine.servers], domains) for name in NAMES]
        self._certificates: list[Certificate] = []
        self.accounts: list[PairAccount] = []
        self.outgoing: list[RoamingStream] = []
        #: second streams of the pairs of `DOUBLED`, which connect in rounds of that kind
        self.second: list[RoamingStream] = []
        self._arrivals = SecondArrivals()
        #: the streams of peers to the domain of the Prosody
        self._to_prosody: list[RoamingStream] = []
        self.servers: list[SimulatedServer] = []
        self._rate = rate
        self._dns = SimulatedNameserver()
        self._authority = Authority(lab.directory("authority"))

    # --- building ---

    async def start(self) -> None:
        """Start everything, and let traffic flow in both directions of all pairs."""
        dns_port, backend_port, shared = self.lab.port(), self.lab.port(), self.lab.directory("shared")
        keep_secret(shared / "secret")
        PrivateCA(shared)
        await self._dns.listen(dns_port)
        self._certificates = [self._authority.for_domain(domain) for domain in (INSIDE, *([REAL] if self.prosody else []))]
        backend = self._server(INSIDE, backend_port, True, self._certificates[0])
        for name, managed in PEERS.items():
            peer = self._server(name, self.lab.port(), managed, self._authority.for_domain(name))
            self._dns.ports[name] = peer.port
            self._pair(peer, backend, 0)
            self._pair(backend, peer, 1)
        await asyncio.to_thread(self.engine.start)
        for node in self.nodes:
            self._configure(node, dns_port, backend_port, shared)
            node.begin()
        for node in self.nodes:
            await node.runner.ready()
        for server in self.servers:
            server.on_stanza = partial(self._arrivals.note, server.domain)
            await server.start()
        if self.prosody is not None:
            await self.prosody.start(self.nodes[0].gateway, self._authority.file, self._certificates[1])
            for account in self.prosody.run([self._to_real(peer) for peer in REAL_PEERS]):
                self.server(account.recipient).incoming[REAL] = account
        for stream in self.second:
            self.server(stream.account.sender).run(stream)

    def server(self, domain: str) -> SimulatedServer:
        """Return the server of a domain."""
        return next(server for server in self.servers if server.domain == domain)

    def stream_to(self, domain: str) -> RoamingStream:
        """Return the stream of the server behind the nodes to a peer."""
        return next(stream for stream in self.outgoing if stream.account.recipient == domain)

    def _configure(self, node: ClusterNode, dns_port: int, backend_port: int, shared: Path) -> None:
        nameserver = f"127.0.0.1:{dns_port}"
        backends: list[dict[str, object]] = [{
            "kind": "s2s", "domains": [INSIDE], "address": f"127.0.0.1:{backend_port}",
            "listen": f"tcp:{node.gateway.inner}:interface=127.0.0.1",
        }]
        if self.prosody is not None:
            backends.append(self.prosody.backend(self.nodes.index(node), node.gateway, nameserver))
        node.gateway.configure(
            backend=f"127.0.0.1:{backend_port}", dns=None, anchors=self._authority.file, certificates=self._certificates,
            changes={
                "dns": {"servers": [nameserver], "private_addresses": "allow"}, "backend": backends,
                "queue": {"disk": "64MB"}, "cluster": node.section(shared),
            },
        )

    def _server(self, domain: str, port: int, managed: bool, certificate: Certificate) -> SimulatedServer:
        server = SimulatedServer(domain, port, certificate, 0, managed=managed)
        self.servers.append(server)
        return server

    def _pair(self, sender: SimulatedServer, recipient: SimulatedServer, side: int) -> None:
        """Let one server send to another one, by the listener for peers (`side` 0) or for the server behind (1) of any node."""
        side = 2 if sender.domain in DIRECT else side
        stream = self._stream(sender, recipient.domain, side, Traffic)
        sender.outgoing[recipient.domain], recipient.incoming[sender.domain] = stream, stream.account
        self.accounts.append(stream.account)
        self.outgoing.append(stream)
        if sender.domain in DOUBLED:
            second = self._stream(sender, recipient.domain, side, SecondTraffic)
            second.connects, second.sending, second.account.label = False, False, ", second stream"
            self._arrivals.accounts[sender.domain, recipient.domain] = second.account
            self.second.append(second)

    def _to_real(self, peer: str) -> PairAccount:
        """Let a peer send to the client of the Prosody; return the account."""
        sender = self.server(peer)
        stream = self._stream(sender, REAL, 0, Traffic)
        stream.traffic.address, stream.traffic.request_share = f"{USER}@{REAL}/lab", 0.0
        sender.outgoing[REAL] = stream
        sender.run(stream)
        self._to_prosody.append(stream)
        return stream.account

    def _stream(self, sender: SimulatedServer, recipient: str, side: int, traffic_type: type[Traffic]) -> RoamingStream:
        account = PairAccount(sender.domain, recipient, sender.managed, inbound=recipient != sender.domain and side != 1)
        traffic = traffic_type(account, f"u@{recipient}/r", self._rate, size=SIZE, request_share=REQUEST_SHARE)
        ports = [node.ports[side] for node in self.nodes]
        stream = RoamingStream(traffic, self.chance.choice(ports), sender.context)
        stream.ports, stream.chance, stream.direct = ports, self.chance, side == 2
        return stream

    # --- the nodes ---

    async def busiest(self) -> ClusterNode:
        """Return the node with the most streams."""
        numbers = [await asyncio.to_thread(node.streams) for node in self.nodes]
        return self.nodes[numbers.index(max(numbers))]

    def leave(self, node: ClusterNode, share: float) -> None:
        """Cut so many of the streams to a node, and open them to others. It is what a balancer does when a node falls silent."""
        for stream in self.outgoing:
            if stream.port in node.ports and self.chance.random() < share:
                stream.hop()
                stream.cut()

    async def restart(self, node: ClusterNode) -> None:
        node.begin()
        await node.runner.ready()

    async def delete_stream(self, name: str) -> None:
        """Delete a stream of the engine, as an operator may do by mistake."""
        await self._ask_engine(f"STREAM.DELETE.{name}")

    async def elected(self, seconds: float) -> None:
        """Wait until each stream of the spool has a leader. Raises `EngineGone` after so many seconds."""
        await self._ask_engine(*(f"STREAM.INFO.{name}" for name in SPOOL_STREAMS), seconds=seconds)

    async def _ask_engine(self, *requests: str, seconds: float = QUESTION_SECONDS) -> None:
        loop = asyncio.get_running_loop()
        connection = NATSConnection(self.engine.urls, None, loop)
        api = JetStreamAPI(connection, loop.time)
        connection.open()
        try:
            for request in requests:
                await api.question(api.call, request, {}, seconds=seconds)
        finally:
            await connection.close()

    # --- waiting ---

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition()` holds; return whether it did."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    def flowing(self) -> bool:
        """Return whether every pair had an arrival just now."""
        return not self.silent_pairs()

    def silent_pairs(self) -> list[str]:
        """Return the pairs that had no arrival just now."""
        since = time.time() - FRESH_SECONDS
        return [
            account.name for account in self.accounts if not account.arrived or account.arrivals[account.arrived[-1]][-1] < since
        ]

    async def settle(self, seconds: float) -> bool:
        """Send nothing new, and wait until every stanza is accounted for, or for so long."""
        for stream in self.streams:
            stream.sending = False
        if self.prosody is not None:
            self.prosody.send(False)
            await self.until(lambda: not any(account.missing() for account in self.real_accounts), REAL_SECONDS)
        return await self.until(self._complete, seconds)

    @property
    def streams(self) -> list[RoamingStream]:
        """Return the streams on which stanzas were sent."""
        return [*self.outgoing, *self._to_prosody, *(stream for stream in self.second if stream.account.sent)]

    @property
    def real_accounts(self) -> list[PairAccount]:
        """Return the accounts of what the client of the Prosody has sent."""
        return [] if self.prosody is None else self.prosody.accounts

    def _complete(self) -> bool:
        for stream in self.streams:
            stream.count_written()
        return not any(stream.owes() or stream.account.lost() for stream in self.streams)

    # --- the end ---

    async def stop(self) -> list[str]:
        """Stop everything, and return what was wrong with the nodes."""
        for node in self.nodes:
            node.runner.process.signal(signal.SIGTERM)
        for node in self.nodes:
            await node.runner.ended()
        for server in self.servers:
            server.stop()
        if self.prosody is not None:
            self.prosody.stop()
        self._dns.close()
        for node in self.nodes:
            for relay in (*node.relays, node.inner_relay):
                relay.close()
        await asyncio.to_thread(self.engine.kill)
        return [problem for node in self.nodes for problem in self._problems(node)]

    def _problems(self, node: ClusterNode) -> list[str]:
        statuses = [status for status in node.runner.statuses if status not in (0, -signal.SIGKILL)]
        found = [word for word in FORBIDDEN_IN_LOG if word in node.log()]
        return [
            *([f"node {node.name}: exit statuses {statuses}"] if statuses else []),
            *([f"node {node.name}: {node.runner.slow_stops} stops took too long"] if node.runner.slow_stops else []),
            *([f"node {node.name}: its log has {', '.join(found)}"] if found else []),
        ]

    async def held(self) -> list[str]:
        """Return what waits: at the senders, and in the queues of each node."""
        owing = [stream.text() for stream in self.streams if stream.owes()]
        missing = [f"{stream.account.name}: {stream.account.lost()[:5]}" for stream in self.streams if stream.account.lost()]
        return owing + missing + [f"node {node.name}: {await asyncio.to_thread(_queue, node)}" for node in self.nodes]


def _queue(node: ClusterNode) -> Any:
    with contextlib.suppress(RequestFailed, LabError):
        return ask(socket_path(node.gateway.config), "queue list", {"here": True}, 5.0)
    return "no answer"
