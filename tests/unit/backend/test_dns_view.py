"""Tests of the DNS view: its own answers, forwarded questions, and refusals."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
from dns.message import Message
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, DatagramProtocol
from twisted.protocols.basic import Int16StringReceiver
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend import dns_view
from s2sgw.backend.dns_view import HOME_SECONDS, DNSView
from s2sgw.net.dns_answer import Status
from s2sgw.net.resolver import Resolver
from s2sgw.xmpp.host_port import HostPort
from tests.support.dns import FakeReactor, FakeServer, FakeStream, connect

VIEW = ("127.53.0.1", 53)
LOCAL = {"example.org", "xn--bcher-kva.example"}


class UDPClient(DatagramProtocol):
    """Collects the datagrams that arrive."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.received.append(datagram)


class TCPClient(Int16StringReceiver):
    """Collects the bytes that arrive, and records the end."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost = False

    def stringReceived(self, string: bytes) -> None:
        self.received.append(string)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class ViewCase(SynchronousTestCase):
    """Base class with a view and a resolver that it forwards to."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.upstream = FakeServer(self.reactor, ("9.9.9.9", 53))
        self.view = self.make()
        self.view.listen("127.53.0.1:53")
        self.client = UDPClient()
        self.socket = self.reactor.listenUDP(5000, self.client, interface="127.0.0.1")

    def make(self, target: str = "localhost.", forward: tuple[str, ...] = ("9.9.9.9",)) -> DNSView:
        return DNSView(self.reactor, LOCAL.__contains__, 15270, target, forward)

    def send(self, wire: bytes) -> list[bytes]:
        """Return what is sent back at once for a datagram."""
        self.client.received.clear()
        self.socket.write(wire, VIEW)
        self.reactor.settle()
        return list(self.client.received)

    def ask(self, name: str, rdtype: str = "SRV", **options: Any) -> Message:
        """Return the answer to a query like Erlang's: over UDP, without EDNS unless `options` is given."""
        query = dns.message.make_query(name, rdtype, **options)
        [wire] = self.send(query.to_wire())
        answer = dns.message.from_wire(wire)
        self.assertTrue(query.is_response(answer))
        self.assertTrue(answer.flags & dns.flags.RA)
        return answer

    def tcp(self, source: str = "127.0.0.1") -> tuple[TCPClient, FakeStream]:
        """Return a TCP client."""
        factory = ClientFactory()
        client = TCPClient()
        factory.buildProtocol = lambda addr: client  # type: ignore[method-assign]
        stream = connect(self.reactor, (source, self.reactor.free_port()), factory, VIEW, self.reactor.tcp[VIEW].factory)
        self.reactor.settle()
        return client, stream

    def texts(self, answer: Message) -> list[str]:
        self.assertEqual(answer.rcode(), dns.rcode.NOERROR)
        return [record.to_text() for rrset in answer.answer for record in rrset]

    def assertNegative(self, answer: Message, rcode: dns.rcode.Rcode) -> None:
        """Check that there are no records, and an SOA record for the time of the negative answer."""
        self.assertEqual((answer.rcode(), answer.answer), (rcode, []))
        self.assertEqual([rrset.rdtype for rrset in answer.authority], [dns.rdatatype.SOA])


class OwnAnswerTests(ViewCase):
    """Tests of the view's own answers, for which no other server is asked."""

    def tearDown(self) -> None:
        self.assertEqual(self.upstream.asked, [])

    def test_peers(self) -> None:
        """Every domain that is not local is reached at the gateway, in any case, also A-labels and single labels."""
        for domain in ("peer.example", "PEER.Example", "a.b.c.peer.example", "xn--nxasmq6b.example", "single", "org", "notexample.org"):
            self.assertEqual(self.texts(self.ask(f"_xmpp-server._tcp.{domain}")), ["0 0 15270 localhost."], domain)

    def test_question_is_kept(self) -> None:
        """The name in the answer is spelled as in the question (some clients compare it so)."""
        answer = self.ask("_XMPP-Server._TCP.Peer.example")
        self.assertEqual(str(answer.answer[0].name), "_XMPP-Server._TCP.Peer.example.")

    def test_no_way_around(self) -> None:
        """Neither direct TLS nor the old service name leads past the gateway."""
        self.assertNegative(self.ask("_xmpps-server._tcp.peer.example"), dns.rcode.NXDOMAIN)
        self.assertNegative(self.ask("_jabber._tcp.peer.example"), dns.rcode.NXDOMAIN)

    def test_other_types(self) -> None:
        """A name of the view has no records of other types."""
        self.assertNegative(self.ask("_xmpp-server._tcp.peer.example", "TXT"), dns.rcode.NOERROR)

    def test_target(self) -> None:
        """localhost is 127.0.0.1 and has no IPv6 address. AAAA is "no data": NXDOMAIN would deny the A record too."""
        self.assertEqual(self.texts(self.ask("localhost", "A")), ["127.0.0.1"])
        self.assertEqual(self.texts(self.ask("LOCALHOST", "A")), ["127.0.0.1"])
        self.assertNegative(self.ask("localhost", "AAAA"), dns.rcode.NOERROR)

    def test_under_localhost(self) -> None:
        """Names below localhost do not exist, and are not looked up outside (RFC 6761 §6.3)."""
        self.assertNegative(self.ask("_15270._tcp.localhost", "TLSA"), dns.rcode.NXDOMAIN)

    def test_onions(self) -> None:
        """RFC 7686: an onion service is reached through the gateway, and no other name server is asked."""
        self.assertEqual(len(self.ask("_xmpp-server._tcp.abc.onion").answer), 1)
        for name in ("abc.onion", "onion", "_5269._tcp.abc.onion"):
            self.assertNegative(self.ask(name, "A"), dns.rcode.NXDOMAIN)
            self.assertEqual(self.upstream.count(name, "A"), 0)

    def test_own_target(self) -> None:
        """A target with another name is answered as well as localhost."""
        self.view.stop()
        self.view = self.make("Gateway.Example.")
        self.view.listen("127.53.0.1:53")
        self.assertEqual(self.texts(self.ask("_xmpp-server._tcp.peer.example")), ["0 0 15270 gateway.example."])
        self.assertEqual(self.texts(self.ask("gateway.example", "A")), ["127.0.0.1"])
        self.assertNegative(self.ask("gateway.example", "AAAA"), dns.rcode.NOERROR)
        self.assertEqual(self.texts(self.ask("localhost", "A")), ["127.0.0.1"])

    def test_literal_target(self) -> None:
        """A target that is an address is answered as that address."""
        self.view.stop()
        self.view = self.make("127.0.0.5")
        self.view.listen("127.53.0.1:53")
        self.assertEqual(self.texts(self.ask("_xmpp-server._tcp.peer.example")), ["0 0 15270 127.0.0.5."])
        self.assertEqual(self.texts(self.ask("127.0.0.5", "A")), ["127.0.0.5"])

    def test_authenticated_data(self) -> None:
        """The view's own answers claim no DNSSEC. CD is returned as it was sent, and EDNS only to a client that used it."""
        answer = self.ask("_xmpp-server._tcp.peer.example", flags=dns.flags.RD | dns.flags.CD | dns.flags.AD, want_dnssec=True)
        self.assertFalse(answer.flags & dns.flags.AD)
        self.assertTrue(answer.flags & dns.flags.CD)
        self.assertEqual(answer.edns, 0)
        self.assertEqual(self.ask("_xmpp-server._tcp.peer.example").edns, -1)


class ForwardTests(ViewCase):
    """Tests of questions that are forwarded."""

    def test_forwarded(self) -> None:
        """Everything else is asked of the resolvers, and answered with their complete answer."""
        self.upstream.add("a.example", "CNAME", "b.example.")
        self.upstream.add("b.example", "A", "8.8.8.8")
        self.assertEqual(self.texts(self.ask("a.example", "A")), ["b.example.", "8.8.8.8"])
        answer = self.ask("gone.example", "MX")
        self.assertEqual((answer.rcode(), len(answer.authority)), (dns.rcode.NXDOMAIN, 1))

    def test_local_domains(self) -> None:
        """Loop guard: the services of local domains are looked up outside and are never ours. Names under them are a peer's."""
        for domain in ("example.org", "Example.Org", "xn--bcher-kva.example"):
            for service in ("_xmpp-server", "_xmpps-server", "_jabber"):
                self.assertEqual(self.ask(f"{service}._tcp.{domain}").rcode(), dns.rcode.NXDOMAIN)
                self.assertEqual(self.upstream.count(f"{service}._tcp.{domain.lower()}", "SRV"), 1 if domain != "Example.Org" else 2)
        self.assertEqual(self.texts(self.ask("_xmpp-server._tcp.sub.example.org")), self.texts(self.ask("_xmpp-server._tcp.peer.example")))

    def test_look_alikes(self) -> None:
        """Services with other names and protocols, and names too short to contain a domain, are forwarded."""
        for name in ("_xmpp-client._tcp.peer.example", "_xmpp-server._udp.peer.example", "_xmpp-server._tcp", "_tcp.peer.example", "x._xmpp-server._tcp.peer.example", "."):
            self.ask(name)
        self.assertEqual(len(self.upstream.asked), 6)

    def test_flags(self) -> None:
        """DNSSEC is between the client and the resolvers: DO, CD and AD are forwarded, AD is returned. Options are not."""
        self.upstream.secure = True
        self.upstream.add("a.example", "A", "8.8.8.8")
        options = [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")]
        answer = self.ask("a.example", "A", want_dnssec=True, flags=dns.flags.RD | dns.flags.CD, options=options)
        self.assertTrue(answer.flags & dns.flags.AD)
        [asked] = self.upstream.queries
        self.assertEqual(int(asked.flags), int(dns.flags.RD | dns.flags.CD))
        self.assertTrue(asked.ednsflags & dns.flags.DO)
        self.assertEqual(list(asked.options), [])
        self.ask("b.example", "A")
        self.assertFalse(self.upstream.queries[1].ednsflags & dns.flags.DO)

    def test_concurrent(self) -> None:
        """One slow answer delays no other."""
        self.upstream.mute.add(("slow.example", "A"))
        slow = dns.message.make_query("slow.example", "A")
        self.assertEqual(self.send(slow.to_wire()), [])
        self.assertEqual(self.texts(self.ask("localhost", "A")), ["127.0.0.1"])
        self.assertEqual(self.ask("gone.example", "A").rcode(), dns.rcode.NXDOMAIN)
        self.client.received.clear()
        self.reactor.pass_time(8.25)
        self.assertEqual([dns.message.from_wire(wire).rcode() for wire in self.client.received], [dns.rcode.SERVFAIL])

    def test_failing(self) -> None:
        """If the resolvers cannot answer, the answer is SERVFAIL. It always is if there are none."""
        self.upstream.rcodes["bad.example", "A"] = dns.rcode.REFUSED
        self.assertEqual(self.ask("bad.example", "A").rcode(), dns.rcode.SERVFAIL)
        self.upstream.stop()
        self.assertEqual(self.ask("a.example", "A").rcode(), dns.rcode.SERVFAIL)
        self.view.stop()
        self.view = self.make(forward=())
        self.view.listen("127.53.0.1:53")
        self.assertEqual(self.ask("a.example", "A").rcode(), dns.rcode.SERVFAIL)

    def test_bounded(self) -> None:
        """Above the limit of forwarded questions the answer is SERVFAIL. Later there is room again."""
        self.patch(dns_view, "FORWARDED", 1)
        self.upstream.mute.add(("slow.example", "A"))
        self.send(dns.message.make_query("slow.example", "A").to_wire())
        self.assertEqual(self.ask("a.example", "A").rcode(), dns.rcode.SERVFAIL)
        self.reactor.pass_time(8.25)
        self.assertEqual(self.ask("a.example", "A").rcode(), dns.rcode.NXDOMAIN)

    def test_truncated(self) -> None:
        """An answer that is too large for the client's datagram is truncated, and complete over TCP."""
        self.upstream.add("big.example", "TXT", *("x" * 200 + str(number) for number in range(20)))
        for options, limit in (({}, 512), ({"payload": 1232}, 1232), ({"payload": 100}, 512), ({"payload": 65535}, 4096)):
            answer = self.ask("big.example", "TXT", **options)
            self.assertTrue(answer.flags & dns.flags.TC)
            self.assertLessEqual(len(self.client.received[0]), limit)
        client, _ = self.tcp()
        client.sendString(dns.message.make_query("big.example", "TXT").to_wire())
        self.reactor.settle()
        [wire] = client.received
        self.assertEqual(len(self.texts(dns.message.from_wire(wire))), 20)


class RefusalTests(ViewCase):
    """Tests of messages that the view refuses."""

    def rcode(self, wire: bytes) -> int:
        [answer] = self.send(wire)
        self.assertEqual(answer[:2], wire[:2])
        self.assertTrue(answer[2] & 0x80)
        return dns.message.from_wire(answer, ignore_trailing=True).rcode()

    def test_no_message(self) -> None:
        """A message too short for a header, or an answer, is dropped: answers to answers would never end."""
        reply = dns.message.make_response(dns.message.make_query("localhost", "A"))
        for wire in (b"", b"abc", bytes(11), reply.to_wire()):
            self.assertEqual(self.send(wire), [])

    def test_malformed(self) -> None:
        """A header followed by unreadable bytes gets FORMERR, with its id."""
        query = dns.message.make_query("localhost", "A").to_wire()
        for wire in (query[:-1], query + b"x", query[:12] + b"\xc0\x0c\0\1\0\1", query[:4] + b"\xff\xff" + query[6:], query[:12] + b"\x3f" + query[13:]):
            self.assertEqual(self.rcode(wire), dns.rcode.FORMERR)

    def test_too_large(self) -> None:
        """A message that takes long to parse gets FORMERR, and is not parsed."""
        query = dns.message.make_query("localhost", "A").to_wire()
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4"
        wire = query[:6] + b"\1\1" + query[8:] + record * 257
        parsed: list[object] = []
        self.patch(dns.message, "from_wire", parsed.append)
        [answer] = self.send(wire)
        self.assertEqual((answer[3] & 0xF, parsed), (dns.rcode.FORMERR, []))

    def test_questions(self) -> None:
        """A message must have exactly one question."""
        query = dns.message.make_query("localhost", "A")
        query.question.append(query.question[0])
        self.assertEqual(self.rcode(query.to_wire()), dns.rcode.FORMERR)
        query.question.clear()
        self.assertEqual(self.rcode(query.to_wire()), dns.rcode.FORMERR)

    def test_opcode(self) -> None:
        """Only queries are implemented."""
        for opcode in (dns.opcode.IQUERY, dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE, 15):
            query = dns.message.make_query("localhost", "A")
            wire = bytearray(query.to_wire())
            wire[2] |= opcode << 3
            self.assertEqual(self.rcode(bytes(wire)), dns.rcode.NOTIMP)

    def test_classes_and_types(self) -> None:
        """Other classes, transfers and ANY are refused."""
        self.assertEqual(self.rcode(dns.message.make_query("version.bind", "TXT", dns.rdataclass.CH).to_wire()), dns.rcode.REFUSED)
        for rdtype in ("ANY", "AXFR", "IXFR"):
            self.assertEqual(self.rcode(dns.message.make_query("localhost", rdtype).to_wire()), dns.rcode.REFUSED)
        self.assertEqual(self.upstream.asked, [])

    def test_edns_version(self) -> None:
        """An unsupported version of EDNS gets the answer of RFC 6891 §6.1.3."""
        self.assertEqual(self.rcode(dns.message.make_query("localhost", "A", use_edns=1).to_wire()), dns.rcode.BADVERS)

    def test_signed(self) -> None:
        """A question signed by an unknown key cannot be read."""
        query = dns.message.make_query("localhost", "A")
        query.use_tsig({dns.name.from_text("key."): b"secret"})
        self.assertEqual(self.rcode(query.to_wire()), dns.rcode.FORMERR)

    def test_strangers(self) -> None:
        """Clients of other machines get no answer, over UDP and TCP."""
        stranger = UDPClient()
        socket = self.reactor.listenUDP(5000, stranger, interface="192.168.0.7")
        socket.write(dns.message.make_query("localhost", "A").to_wire(), VIEW)
        _, stream = self.tcp("192.168.0.7")
        self.reactor.settle()
        self.assertEqual((stranger.received, stream.closed), ([], True))


class StreamTests(ViewCase):
    """Tests of the view over TCP."""

    def query(self, name: str = "localhost") -> bytes:
        return dns.message.make_query(name, "A").to_wire()

    def test_pipelined(self) -> None:
        """Several questions on one connection, in any pieces, are answered as their answers arrive."""
        self.upstream.delays["slow.example", "A"] = 1
        self.upstream.add("slow.example", "A", "8.8.8.8")
        client, _ = self.tcp()
        self.reactor.pieces = 1
        client.sendString(self.query("slow.example"))
        client.sendString(self.query())
        self.reactor.settle()
        self.assertEqual(len(client.received), 1)
        self.reactor.pass_time(1.25)
        self.assertEqual([self.texts(dns.message.from_wire(wire)) for wire in client.received], [["127.0.0.1"], ["8.8.8.8"]])

    def test_too_many_questions(self) -> None:
        """Above the limit of unanswered questions the connection ends."""
        self.patch(dns_view, "PIPELINED", 2)
        self.upstream.mute.add(("slow.example", "A"))
        client, _ = self.tcp()
        for _ in range(3):
            client.sendString(self.query("slow.example"))
        self.reactor.settle()
        self.assertTrue(client.lost)
        self.reactor.pass_time(8.25)
        self.assertEqual((client.received, self.view.clients), ([], {}))

    def test_no_message(self) -> None:
        """A message that is not a question ends the connection. One that cannot be read is answered."""
        client, _ = self.tcp()
        client.sendString(self.query()[:-1])
        self.reactor.settle()
        self.assertEqual(dns.message.from_wire(client.received[0]).rcode(), dns.rcode.FORMERR)
        client.sendString(b"abc")
        self.reactor.settle()
        self.assertTrue(client.lost)

    def test_idle(self) -> None:
        """A connection that is silent too long ends. Questions keep it open."""
        client, stream = self.tcp()
        self.reactor.pass_time(20)
        client.sendString(self.query())
        self.reactor.pass_time(20)
        self.assertFalse(stream.closed)
        self.reactor.pass_time(10.5)
        self.assertTrue(stream.closed)
        self.assertEqual((self.view.clients, self.reactor.getDelayedCalls()), ({}, []))

    def test_gone(self) -> None:
        """A client that disconnects leaves nothing in memory, and its answer is discarded."""
        self.upstream.delays["slow.example", "A"] = 1
        client, stream = self.tcp()
        client.sendString(self.query("slow.example"))
        self.reactor.settle()
        stream.abortConnection()
        self.reactor.pass_time(2)
        self.assertEqual((self.view.clients, self.reactor.getDelayedCalls()), ({}, []))

    def test_back_pressure(self) -> None:
        """The view does not read from a client that does not read."""
        _, stream = self.tcp()
        self.assertIs(stream.other.producer, stream.other)

    def test_many_clients(self) -> None:
        """Above the limit of clients the one that was silent longest gives way to a further one."""
        self.patch(dns_view, "CLIENTS", 3)
        clients = [self.tcp() for _ in range(3)]
        clients[0][0].sendString(self.query())
        self.reactor.settle()
        clients += [self.tcp() for _ in range(3)]
        self.assertEqual([stream.closed for _, stream in clients], [True, True, True, False, False, False])
        self.assertEqual((len(clients[0][0].received), len(self.view.clients)), (1, 3))

    def test_silent_longest(self) -> None:
        """A question makes a client the last to give way."""
        self.patch(dns_view, "CLIENTS", 2)
        (asking, first), (_, second) = self.tcp(), self.tcp()
        asking.sendString(self.query())
        self.reactor.settle()
        _, third = self.tcp()
        self.assertEqual((first.closed, second.closed, third.closed), (False, True, False))

    def test_many_clients_with_questions(self) -> None:
        """Above the limit a further client is disconnected if all others wait for answers."""
        self.patch(dns_view, "CLIENTS", 1)
        self.upstream.mute.add(("slow.example", "A"))
        client, first = self.tcp()
        client.sendString(self.query("slow.example"))
        self.reactor.settle()
        _, second = self.tcp()
        self.assertEqual((first.closed, second.closed), (False, True))
        first.abortConnection()
        self.reactor.settle()
        self.assertFalse(self.tcp()[1].closed)


class LifeTests(ViewCase):
    """Tests of the view's start and stop."""

    def test_addresses(self) -> None:
        """The view needs a loopback address that it does not forward to."""
        for address in ("0.0.0.0:53", "192.168.0.1:53", "localhost:53", "[::]:53", "x y"):
            with self.assertRaises(ValueError, msg=address):
                self.make().listen(address)
        with self.assertRaises(ValueError):
            self.make(forward=("9.9.9.9", "127.0.0.9:53")).listen("127.0.0.9")
        with self.assertRaises(ValueError):
            self.make(forward=("dns.example",))

    def test_any_port(self) -> None:
        """Port 0 is any free port, the same for UDP and TCP. IPv6 is possible."""
        for host in ("127.0.0.9", "[::1]"):
            view = self.make()
            view.listen(f"{host}:0")
            assert view.address is not None
            self.assertIn(tuple(view.address), self.reactor.udp)
            self.assertIn(tuple(view.address), self.reactor.tcp)

    def test_port_taken(self) -> None:
        """A port that is free for TCP alone is released again."""
        self.reactor.broken = True
        with self.assertRaises(OSError):
            self.make().listen("127.0.0.9:53")
        self.assertNotIn(("127.0.0.9", 53), self.reactor.tcp)

    def test_stop(self) -> None:
        """After a stop the view has no port, client or question. Waiting callers get an error."""
        self.upstream.mute.add(("slow.example", "A"))
        client, _ = self.tcp()
        client.sendString(dns.message.make_query("slow.example", "A").to_wire())
        self.send(dns.message.make_query("slow.example", "A").to_wire())
        self.successResultOf(self.view.stop())
        self.reactor.settle()
        self.assertTrue(client.lost)
        self.assertEqual([dns.message.from_wire(wire).rcode() for wire in self.client.received], [dns.rcode.SERVFAIL])
        self.assertEqual(set(self.reactor.udp), {("9.9.9.9", 53), ("127.0.0.1", 5000)})
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.successResultOf(self.view.stop())

    def test_through_a_resolver(self) -> None:
        """A resolver like ours that uses the view sees the federation as the backend does."""
        resolver = Resolver(self.reactor, ["127.53.0.1"])
        answer = resolver.query("_xmpp-server._tcp.peer.example", "SRV")
        self.reactor.settle()
        found = self.successResultOf(answer)
        self.assertEqual((found.status, found.secure), (Status.FOUND, False))

    def test_noise(self) -> None:
        """After any input the view continues."""
        for number in range(256):
            self.send(struct.pack("!HBBHHHH", number, 1, number, number % 3, number % 2, 0, 1) + bytes([number]) * (number % 40))
        self.assertEqual(self.texts(self.ask("localhost", "A")), ["127.0.0.1"])


class NodesForTest:
    """Two nodes, of which `b` is the home of peer.example."""

    def __init__(self) -> None:
        self.places = {"a": HostPort("192.0.2.11", 15270), "b": HostPort("2001:db8::2", 15271)}
        self.answers: list[Deferred[list[tuple[int, str]]]] = []
        self.asked: list[str] = []
        self.waits = False
        self.own = ""

    def ranked(self, peer: str) -> Deferred[list[tuple[int, str]]]:
        self.asked.append(peer)
        self.answers.append(Deferred())
        if not self.waits:
            self.answers[-1].callback([(0, "B"), (10, "a")] if peer == "peer.example" else [(0, ""), (10, "B"), (20, "gone")])
        return self.answers[-1]

    def address(self, node: str) -> HostPort | None:
        return self.places.get(node)


class NodesTests(ViewCase):
    """Tests of a view in a cluster."""

    def make(self, target: str = "localhost.", forward: tuple[str, ...] = ("9.9.9.9",)) -> DNSView:
        self.nodes = NodesForTest()
        return DNSView(self.reactor, LOCAL.__contains__, 15270, target, forward, nodes=self.nodes)

    def tearDown(self) -> None:
        self.assertEqual(self.upstream.asked, [])

    def test_peers(self) -> None:
        """The home is first, then the others. Answers are short-lived. A node whose listener is not known is left out."""
        answer = self.ask("_xmpp-server._tcp.Peer.example")
        self.assertEqual(["0 0 15271 B.nodes.s2sgw.internal.", "10 0 15270 a.nodes.s2sgw.internal."], sorted(self.texts(answer)))
        self.assertEqual((5, "_xmpp-server._tcp.Peer.example."), (answer.answer[0].ttl, str(answer.answer[0].name)))
        found = sorted(self.texts(self.ask("_xmpp-server._tcp.other.example")))
        self.assertEqual(["0 0 15270 localhost.", "10 0 15271 B.nodes.s2sgw.internal."], found)
        self.assertEqual(["peer.example", "other.example"], self.nodes.asked)
        self.nodes.places.clear()
        self.assertEqual(["0 0 15270 localhost."], self.texts(self.ask("_xmpp-server._tcp.peer.example")))

    def test_addresses(self) -> None:
        """Each node has its address, of one family. Other names of the zone do not exist, and are asked for nowhere else."""
        self.assertEqual(["192.0.2.11"], self.texts(self.ask("A.nodes.s2sgw.internal", "A")))
        self.assertEqual(["2001:db8::2"], self.texts(self.ask("b.nodes.s2sgw.internal", "AAAA")))
        self.assertNegative(self.ask("b.nodes.s2sgw.internal", "A"), dns.rcode.NOERROR)
        for name in ("c.nodes.s2sgw.internal", "nodes.s2sgw.internal", "x.a.nodes.s2sgw.internal"):
            self.assertNegative(self.ask(name, "A"), dns.rcode.NXDOMAIN)

    def test_other_questions(self) -> None:
        """A question of another type, and one for another service, need no home."""
        self.assertNegative(self.ask("_xmpp-server._tcp.peer.example", "TXT"), dns.rcode.NOERROR)
        self.assertNegative(self.ask("_xmpps-server._tcp.peer.example"), dns.rcode.NXDOMAIN)
        self.assertEqual([], self.nodes.asked)

    def test_engine_that_does_not_answer(self) -> None:
        """After a second the answer is this node alone, and so it is when too many questions wait, or the look-up fails."""
        self.nodes.waits = True
        query = dns.message.make_query("_xmpp-server._tcp.peer.example", "SRV").to_wire()
        self.assertEqual([], self.send(query))
        self.reactor.advance(HOME_SECONDS)
        self.reactor.settle()
        self.assertEqual(["0 0 15270 localhost."], self.texts(dns.message.from_wire(self.client.received[0])))
        self.patch(dns_view, "FORWARDED", 2)
        self.assertEqual([[], []], [self.send(query), self.send(query)])
        self.assertEqual(["0 0 15270 localhost."], self.texts(dns.message.from_wire(self.send(query)[0])))
        self.nodes.own = "a"
        self.assertEqual(["0 0 15270 a.nodes.s2sgw.internal."], self.texts(dns.message.from_wire(self.send(query)[0])))
        self.nodes.answers[-1].errback(ZeroDivisionError())
        self.reactor.settle()
        self.assertEqual(["0 0 15270 localhost."], self.texts(dns.message.from_wire(self.client.received[-1])))
        self.assertEqual([], self.send(query))
        self.view.stop()
        self.assertEqual(1, len(self.view._forwarding) + 1)

    def test_alone_again(self) -> None:
        """Without a cluster names of the zone are like all others, and the answers are those of a gateway that is alone."""
        self.view.configure(LOCAL.__contains__, 15270, "localhost.", ("9.9.9.9",))
        answer = self.ask("_xmpp-server._tcp.peer.example")
        self.assertEqual((["0 0 15270 localhost."], 60), (self.texts(answer), answer.answer[0].ttl))
        self.ask("a.nodes.s2sgw.internal", "A")
        self.assertEqual(1, len(self.upstream.asked))
        self.upstream.asked.clear()


class ClientsTests(ViewCase):
    """Tests of clients on other machines."""

    def test_listed(self) -> None:
        """A listed client is answered over UDP and TCP, another one is not, and this machine is."""
        self.view.configure(LOCAL.__contains__, 15270, "localhost.", ("9.9.9.9",), clients=[ipaddress.ip_network("192.0.2.0/28")])
        query = dns.message.make_query("_xmpp-server._tcp.peer.example", "SRV").to_wire()
        for source, answers in (("192.0.2.5", 1), ("::ffff:192.0.2.5", 1), ("192.0.2.77", 0), ("2001:db8::1", 0), ("127.0.0.1", 1)):
            self.assertEqual(bool(answers), self.view.serves(source), source)
        for source, answers in (("192.0.2.5", 1), ("192.0.2.77", 0)):
            client = UDPClient()
            socket = self.reactor.listenUDP(5300, client, interface=source)
            socket.write(query, VIEW)
            self.reactor.settle()
            self.assertEqual(answers, len(client.received), source)
            _, stream = self.tcp(source)
            self.assertEqual(not answers, stream.closed)
        self.view.configure(LOCAL.__contains__, 15270, "localhost.", ("9.9.9.9",))
        self.assertFalse(self.view.serves("192.0.2.5"))

    def test_address(self) -> None:
        """A view beyond loopback needs a list of clients."""
        with self.assertRaises(ValueError):
            self.view.listen("192.0.2.1:53")
        self.view.configure(LOCAL.__contains__, 15270, "localhost.", ("9.9.9.9",), clients=[ipaddress.ip_network("192.0.2.5")])
        self.view.listen("192.0.2.1:53")
        self.assertEqual(HostPort("192.0.2.1", 53), self.view.address)
