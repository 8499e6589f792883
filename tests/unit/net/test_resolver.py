"""Tests of look-ups: which answers are told apart, joined, cached, bounded and trusted."""

from __future__ import annotations

import dns.edns
import dns.entropy
import dns.flags
import dns.message
import dns.name
import dns.rcode
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_answer import Answer, Question, Status
from s2sgw.net.dns_cache import Cache
from s2sgw.net.requester import QUESTIONS, Requester
from s2sgw.net.resolver import FAILURE_TTL, HOPELESS_SECONDS, NEGATIVE_TTL, TTL, Resolver, _short_chain
from tests.support.dns import FakeReactor, FakeServer


def stranger() -> Requester:
    """Return a claim of its own."""
    return Requester.stranger("203.0.113.1")


class ResolverCase(SynchronousTestCase):
    """Base class with a resolver and a name server."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.server = FakeServer(self.reactor, ("127.0.0.1", 5300))
        self.server.add("a.example", "A", "8.8.8.8", "8.8.4.4")
        self.resolver = Resolver(self.reactor, ["127.0.0.1:5300"])

    def ask(self, name: str | dns.name.Name, rdtype: str = "A", resolver: Resolver | None = None) -> Answer:
        """Return the answer after everything that needs no time."""
        answer = (resolver or self.resolver).query(name, rdtype)
        self.reactor.settle()
        return self.successResultOf(answer)

    def two(self, **kinds: bool) -> tuple[FakeServer, Resolver]:
        """Add a second server; return it and a resolver that asks it second."""
        second = FakeServer(self.reactor, ("9.9.9.9", 53))
        second.add("a.example", "A", "7.7.7.7")
        return second, Resolver(self.reactor, ["127.0.0.1:5300", "9.9.9.9"], **kinds)


class AnswerTests(ResolverCase):
    """Tests of the results of a look-up."""

    def test_found(self) -> None:
        """The result has the records, with their lifetime and the requested name."""
        answer = self.ask("a.example")
        self.assertEqual(answer.status, Status.FOUND)
        self.assertTrue(answer.found and not answer.failed)
        self.assertEqual({record.to_text() for record in answer.records}, {"8.8.8.8", "8.8.4.4"})
        self.assertEqual((str(answer.name), str(answer.canonical), answer.ttl), ("a.example.", "a.example.", 300))
        self.assertIs(answer.canonical, answer.name)  # it is kept once

    def test_no_such_name_and_no_data(self) -> None:
        """R2: a name that does not exist, and one without such records, are told apart and are no failures."""
        self.assertEqual(self.ask("none.example").status, Status.NO_SUCH_NAME)
        self.assertEqual(self.ask("a.example", "AAAA").status, Status.NO_DATA)
        self.assertFalse(self.ask("none.example").failed)

    def test_short_chain(self) -> None:
        """The usual responses are read as dnspython's `resolve_chaining` reads them. Others are left to it."""
        soa, other = "example. 60 IN SOA ns.example. h.example. 1 2 3 4 30", "else. 60 IN SOA ns.else. h.else. 1 2 3 4 30"
        found, alias = "a.example. 50 IN A 192.0.2.1", "a.example. 50 IN CNAME b.example."
        for rcode, answer, authority, is_short in (
            ("NOERROR", [found], [], True),
            ("NOERROR", [found, "a.example. 40 IN A 192.0.2.2"], [soa], True),
            ("NOERROR", [], [soa], True),
            ("NXDOMAIN", [], [soa], True),
            ("NXDOMAIN", [], ["a.example. 20 IN SOA ns.example. h.example. 1 2 3 4 30"], True),
            ("NXDOMAIN", [found], [], False),
            ("NXDOMAIN", [], [other], False),
            ("NOERROR", [], [], False),
            ("NOERROR", [], ["example. 60 IN NS ns.example."], False),
            ("NOERROR", [], [soa, "example. 60 IN NS ns.example."], False),
            ("NOERROR", [alias], [soa], False),
            ("NOERROR", [alias, "b.example. 20 IN A 192.0.2.3"], [], False),
            ("NOERROR", ["b.example. 20 IN A 192.0.2.3"], [], False),
            ("NOERROR", ["a.example. 20 IN AAAA 2001:db8::1"], [], False),
            ("NOERROR", ["a.example. 20 CH A b.example. 1"], [], False),
        ):
            section = ["id 1", "opcode QUERY", f"rcode {rcode}", "flags QR RD RA", ";QUESTION", "a.example. IN A"]
            text = "\n".join([*section, ";ANSWER", *answer, ";AUTHORITY", *authority, ";ADDITIONAL"])
            message = dns.message.from_text(text)
            assert isinstance(message, dns.message.QueryMessage)
            short = _short_chain(message)
            self.assertEqual(short is not None, is_short, text)
            if short is not None:
                full = message.resolve_chaining()
                same = [(each.canonical_name, each.answer, each.minimum_ttl, each.cnames) for each in (short, full)]
                self.assertEqual(*same)

    def test_cname(self) -> None:
        """Records behind aliases are found, with the shortest lifetime of the chain."""
        self.server.add("www.example", "CNAME", "w2.example.", ttl=20)
        self.server.add("w2.example", "CNAME", "a.example.", ttl=50)
        answer = self.ask("www.example")
        self.assertEqual((len(answer.records), str(answer.canonical), answer.ttl), (2, "a.example.", 20))

    def test_cname_to_nothing(self) -> None:
        """An alias of a name that does not exist has no records."""
        self.server.add("www.example", "CNAME", "gone.example.", ttl=20)
        self.assertEqual(self.ask("www.example").status, Status.NO_SUCH_NAME)

    def test_cname_loop(self) -> None:
        """An endless chain is a failure and does not hang."""
        def loop(query: dns.message.Message) -> dns.message.Message:
            reply = dns.message.make_response(query)
            for one, other in (("l1", "l2"), ("l2", "l1")):
                reply.answer.append(dns.rrset.from_text(f"{one}.example.", 60, "IN", "CNAME", f"{other}.example."))
            return reply

        self.server.scripts["l1.example", "A"] = loop
        self.assertTrue(self.ask("l1.example").failed)

    def test_no_name_for_the_dns(self) -> None:
        """A name that cannot be in the DNS does not exist, and no server is asked: IDNA was applied before, or never will be."""
        for name in ("a" * 64 + ".example", ".".join(["a" * 60] * 5), "a..example", "bücher.example"):
            self.assertEqual(self.ask(name).status, Status.NO_SUCH_NAME, name)
        self.assertEqual(self.server.asked, [])

    def test_query(self) -> None:
        """The query requests recursion and DNSSEC status, never unchecked data, with EDNS. Ids and ports vary."""
        names = [f"n{number}.example" for number in range(20)]
        for name in names:
            self.ask(name)
        queries = self.server.queries
        self.assertEqual({int(query.flags) for query in queries}, {int(dns.flags.RD | dns.flags.AD)})
        self.assertEqual({(query.edns, query.payload) for query in queries}, {(0, 1232)})
        self.assertGreater(len({query.id for query in queries}), 15)
        ports = {place for _, place in self.server.port.sent}
        self.assertEqual(len(ports), 20)

    def test_many_records(self) -> None:
        """The number of records kept of one answer is bounded."""
        self.server.add("big.example", "A", *(f"8.8.{x}.{y}" for x in range(2) for y in range(100)))
        self.assertEqual(len(self.ask("big.example").records), 64)

    def test_localhost(self) -> None:
        """RFC 6761 §6.3: localhost needs no query, has addresses only, and is not secured by DNSSEC."""
        for rdtype, address in (("A", "127.0.0.1"), ("AAAA", "::1")):
            answer = self.ask("LocalHost.", rdtype)
            self.assertEqual(([str(record) for record in answer.records], answer.secure), ([address], False))
        self.assertEqual(self.server.asked, [])
        self.assertFalse(self.ask("localhost", "SRV").found)
        self.assertFalse(self.ask("x.localhost", "A").found)

    def test_names_as_names(self) -> None:
        """A name may be a `Name` object already, in any case, as SRV targets are."""
        self.assertTrue(self.ask(dns.name.from_text("A.Example.")).found)
        self.assertTrue(self.ask("a.EXAMPLE.").found)
        self.assertEqual(len(self.server.asked), 1)


class SecureTests(ResolverCase):
    """Tests of the servers whose AD flag is trusted."""

    def test_loopback(self) -> None:
        """A resolver on this machine is trusted, for existence and for absence."""
        self.assertFalse(self.ask("a.example").secure)
        self.server.secure = True
        self.resolver.cache.clear()
        self.assertTrue(self.ask("a.example").secure)
        self.assertTrue(self.ask("none.example").secure)

    def test_elsewhere(self) -> None:
        """A resolver elsewhere is trusted only if the configuration says so."""
        for trusted in (False, True):
            second, resolver = self.two(trust_ad=trusted)
            second.secure = True
            self.server.rcodes["a.example", "A"] = dns.rcode.SERVFAIL
            self.assertEqual(self.ask("a.example", resolver=resolver).secure, trusted)
            second.stop()


class WireTests(ResolverCase):
    """Tests of unusual answers on the wire."""

    def test_truncated(self) -> None:
        """A truncated answer is requested again over TCP."""
        self.server.truncated.add(("a.example", "A"))
        self.assertTrue(self.ask("a.example").found)
        self.assertEqual([how for _, _, how in self.server.asked], ["udp", "tcp"])
        self.assertTrue(all(stream.closed for stream in self.reactor.connections))

    def test_truncated_ipv6(self) -> None:
        """The same holds on IPv6."""
        server = FakeServer(self.reactor, ("2001:db8::53", 53))
        server.add("six.example", "A", "8.8.8.8")
        server.truncated.add(("six.example", "A"))
        self.assertTrue(self.ask("six.example", resolver=Resolver(self.reactor, ["2001:0db8::53"])).found)

    def test_tcp_in_pieces(self) -> None:
        """An answer over TCP may arrive in any pieces."""
        self.server.truncated.add(("a.example", "A"))
        self.reactor.pieces = 1
        self.assertTrue(self.ask("a.example").found)

    def test_tcp_refused(self) -> None:
        """A server that truncates and has no TCP has not answered."""
        self.server.truncated.add(("a.example", "A"))
        self.server.stream.stopListening()
        self.assertTrue(self.ask("a.example").failed)

    def test_tcp_cut(self) -> None:
        """A TCP connection that ends before the answer does is no answer: the query is repeated, then given up."""
        self.server.truncated.add(("a.example", "A"))
        for cut in (b"", b"\0", b"\0\x30abc"):
            self.resolver.cache.clear()
            self.server.cut = cut
            self.assertIn("ended before", self.ask("a.example").reason)
        self.assertEqual(len(self.reactor.connections), 6)

    def test_tcp_junk(self) -> None:
        """Bytes that are not a message, or do not answer the question, are no answer either."""
        self.server.truncated.add(("a.example", "A"))
        for junk in (b"abc", dns.message.make_response(dns.message.make_query("a.example.", "A", id=1)).to_wire()):
            self.resolver.cache.clear()
            self.server.cut = len(junk).to_bytes(2, "big") + junk
            self.assertTrue(self.ask("a.example").failed)

    def test_tcp_flood(self) -> None:
        """Over TCP no more than one message is read."""
        self.server.truncated.add(("a.example", "A"))
        self.reactor.pieces = 40000
        self.server.cut = b"\xff\xff" + bytes(90000)
        self.assertTrue(self.ask("a.example").failed)
        self.assertTrue(all(stream.closed for stream in self.reactor.connections))

    def test_tcp_without_end(self) -> None:
        """A server that does not accept the connection is given up within the time of an attempt and of the look-up."""
        for timeout, passed in ((10, 6.25), (1, 1.25)):
            resolver = Resolver(self.reactor, ["127.0.0.1:5300"], timeout=timeout)
            self.server.truncated.add(("a.example", "A"))
            answer = resolver.query("a.example", "A")
            self.reactor.deaf.add(("127.0.0.1", 5300))
            self.reactor.pass_time(passed)
            self.assertIn("no answer in", self.successResultOf(answer).reason)
            self.assertEqual(self.reactor.getDelayedCalls(), [])
            self.assertTrue(all(connector.stopped for connector in self.reactor.connectors))

    def test_junk(self) -> None:
        """Datagrams that do not answer the question (other id, other question, noise, other sender) are skipped."""
        def script(query: dns.message.Message) -> list[object]:
            true = dns.message.make_response(query)
            true.answer.append(dns.rrset.from_text("j.example.", 60, "IN", "A", "8.8.8.8"))
            other_id = dns.message.make_response(query)
            other_id.id ^= 1
            other_question = dns.message.make_response(dns.message.make_query("x.example.", "A", id=query.id))
            truncated = dns.message.make_response(query)
            truncated.id ^= 1
            truncated.flags |= dns.flags.TC
            return [b"", b"noise", query.to_wire(), other_id, other_question, truncated, true]

        self.server.scripts["j.example", "A"] = script
        self.assertTrue(self.ask("j.example").found)

    def test_stranger(self) -> None:
        """A datagram from elsewhere is ignored, even with the right id and question."""
        self.server.mute.add(("a.example", "A"))
        answer = self.resolver.query("a.example", "A")
        self.reactor.settle()
        forged = dns.message.make_response(self.server.queries[0])
        forged.answer.append(dns.rrset.from_text("a.example.", 60, "IN", "A", "6.6.6.6"))
        (ours,) = [port for port in self.reactor.udp.values() if port.peer]
        ours.protocol.datagramReceived(forged.to_wire(), ("6.6.6.6", 53))
        ours.protocol.datagramReceived(forged.to_wire(), ("127.0.0.1", 5301))
        self.reactor.settle()
        self.assertNoResult(answer)

    def test_no_socket(self) -> None:
        """If no socket is available, the look-up fails with a text."""
        self.reactor.broken = True
        self.assertIn("no buffer space", self.ask("a.example").reason)

    def test_sockets_are_closed(self) -> None:
        """However a look-up ends, its sockets are closed."""
        self.server.mute.add(("mute.example", "A"))
        for name in ("a.example", "none.example", "mute.example"):
            self.resolver.query(name, "A")
            self.reactor.pass_time(11)
        self.assertEqual(list(self.reactor.udp), [("127.0.0.1", 5300)])
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class FailoverTests(ResolverCase):
    """Tests of servers that do not answer."""

    def test_server_failure(self) -> None:
        """R2: SERVFAIL from all servers is a failure with its reason, after asking each once. After one, the next is asked."""
        self.server.rcodes["a.example", "A"] = dns.rcode.SERVFAIL
        answer = self.ask("a.example")
        self.assertEqual((answer.status, answer.reason), (Status.FAILED, "SERVFAIL"))
        self.assertEqual(self.server.count("a.example", "A"), 1)
        _, resolver = self.two()
        self.assertEqual(str(self.ask("a.example", resolver=resolver).records[0]), "7.7.7.7")

    def test_too_large(self) -> None:
        """An answer that takes too long to parse is a failure. Its servers are not asked again, and count as working."""
        self.server.add("big.example", "A", *(f"8.8.{x}.{y}" for x in range(3) for y in range(100)))
        answer = self.ask("big.example")
        self.assertEqual((answer.status, answer.reason), (Status.FAILED, "the answer has more than 256 records"))
        self.assertEqual(self.server.asked, [("big.example", "A", "udp"), ("big.example", "A", "tcp")])

    def test_which_server(self) -> None:
        """Of several servers the reason names each by its position, not by its address: a peer may read it."""
        second, resolver = self.two()
        self.server.rcodes["a.example", "A"] = second.rcodes["a.example", "A"] = dns.rcode.SERVFAIL
        second.rcodes["a.example", "A"] = dns.rcode.REFUSED
        self.assertEqual(self.ask("a.example", resolver=resolver).reason, "name server 1: SERVFAIL; name server 2: REFUSED")

    def test_refused_by_server(self) -> None:
        """REFUSED and similar codes are no answer about the name."""
        for rcode in (dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR):
            self.resolver.cache.clear()
            self.server.rcodes["none.example", "A"] = rcode
            self.assertTrue(self.ask("none.example").failed)

    def test_extended_error(self) -> None:
        """RFC 8914: the reason names a bogus signature."""
        def bogus(query: dns.message.Message) -> dns.message.Message:
            reply = dns.message.make_response(query)
            reply.set_rcode(dns.rcode.SERVFAIL)
            reply.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS, "signature expired")])
            return reply

        self.server.scripts["bad.example", "A"] = bogus
        self.assertEqual(self.ask("bad.example").reason, "SERVFAIL, dnssec bogus signature expired")

    def test_refused_port(self) -> None:
        """A refused datagram is recognised at once, whichever way the system reports it."""
        self.server.stop()
        for tells in (False, True):
            self.reactor.tells_refusal = tells
            self.resolver.cache.clear()
            self.assertIn("refused", self.ask("a.example").reason)

    def test_silence(self) -> None:
        """A silent server is asked twice, then given up. The time is bounded."""
        self.server.mute.add(("a.example", "A"))
        answer = self.resolver.query("a.example", "A")
        self.reactor.pass_time(5.75)
        self.assertNoResult(answer)
        self.reactor.pass_time(0.5)
        self.assertEqual(self.successResultOf(answer).reason, "no answer in 4 s")
        self.assertEqual(self.server.count("a.example", "A"), 2)

    def test_lost_datagram(self) -> None:
        """One lost datagram only delays the answer."""
        self.server.mute.add(("a.example", "A"))
        answer = self.resolver.query("a.example", "A")
        self.reactor.pass_time(1)
        self.server.mute.clear()
        self.reactor.pass_time(1.25)
        self.assertTrue(self.successResultOf(answer).found)

    def test_in_all(self) -> None:
        """However many servers are silent, a look-up ends in time."""
        resolver = Resolver(self.reactor, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"], timeout=10)
        self.reactor.silent = {(f"10.0.0.{last}", 53) for last in range(1, 7)}
        answer = resolver.query("a.example", "A")
        self.reactor.pass_time(10.25)
        self.assertEqual(self.successResultOf(answer).reason, "no answer in 10 s")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_silent_servers_are_asked_last(self) -> None:
        """A server that did not answer is asked last for a while. After that it is asked first again."""
        second, resolver = self.two()
        self.server.mute.add(("a.example", "A"))
        answer = resolver.query("a.example", "A")
        self.reactor.pass_time(2.25)
        self.assertEqual(str(self.successResultOf(answer).records[0]), "7.7.7.7")
        before = len(self.server.asked)
        self.ask("b.example", resolver=resolver)
        self.assertEqual((len(self.server.asked), second.count("b.example", "A")), (before, 1))
        self.reactor.pass_time(30)
        self.ask("c.example", resolver=resolver)
        self.assertEqual(self.server.count("c.example", "A"), 1)

    def test_server_that_answers_again(self) -> None:
        """A server that answers again is asked first again."""
        second, resolver = self.two()
        self.server.mute.add(("a.example", "A"))
        resolver.query("a.example", "A")
        self.reactor.pass_time(2.25)
        second.rcodes["b.example", "A"] = dns.rcode.SERVFAIL
        self.ask("b.example", resolver=resolver)
        self.ask("c.example", resolver=resolver)
        self.assertEqual((self.server.count("c.example", "A"), second.count("c.example", "A")), (1, 0))

    def test_an_id_for_each_attempt(self) -> None:
        """An answer to the first attempt is not accepted for the second."""
        ids = iter(range(7, 100))
        self.patch(dns.entropy, "random_16", lambda: next(ids))
        self.server.mute.add(("a.example", "A"))
        self.resolver.query("a.example", "A")
        self.reactor.pass_time(7)
        first, second = self.server.queries
        self.assertNotEqual(first.id, second.id)

    def test_servers(self) -> None:
        """Servers are addresses, in the given order. A server that is named twice counts once. A host name is refused."""
        resolver = Resolver(self.reactor, ["9.9.9.9", "[::1]:5300", "9.9.9.9:53"])
        self.assertEqual([str(server) for server in resolver.servers], ["9.9.9.9:53", "[::1]:5300"])
        with self.assertRaises(ValueError):
            Resolver(self.reactor, ["dns.example"])


class SystemTests(SynchronousTestCase):
    """Tests of the resolvers of the machine."""

    def test_resolv_conf(self) -> None:
        """The first three name servers count. Without any, the one on this machine is used."""
        from s2sgw.net.dns_upstream import system_servers

        path = self.mktemp()
        with open(path, "w") as file:
            file.write("# a comment\nsearch example\nnameserver nonsense\nnameserver 9.9.9.9\nnameserver\nnameserver ::1\noptions edns0\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n")
        self.assertEqual(system_servers(path), ["9.9.9.9", "::1", "1.1.1.1"])
        self.assertEqual(system_servers(path + ".none"), ["127.0.0.1"])
        self.assertTrue(Resolver(FakeReactor()).servers)


class CacheTests(ResolverCase):
    """Tests of the cached answers, and of their time."""

    def test_kept(self) -> None:
        """An answer is kept for its TTL, which runs down. Then the server is asked again."""
        self.ask("a.example")
        self.reactor.advance(299)
        self.assertEqual(self.ask("a.example").ttl, 1)
        self.reactor.advance(1)
        self.assertEqual(self.ask("a.example").ttl, 300)
        self.assertEqual(len(self.server.asked), 2)

    def test_not_kept(self) -> None:
        """A TTL of zero is respected."""
        self.server.add("zero.example", "A", "8.8.8.8", ttl=0)
        self.ask("zero.example")
        self.assertTrue(self.ask("zero.example").found)
        self.assertEqual((len(self.server.asked), len(self.resolver.cache)), (2, 0))

    def test_capped(self) -> None:
        """A TTL of weeks is limited, that of absence even more."""
        self.server.add("long.example", "A", "8.8.8.8", ttl=10**6)
        self.assertEqual(self.ask("long.example").ttl, TTL)
        self.server.soa = "ns.example. admin.example. 1 3600 600 86400 86400"
        self.assertEqual(self.ask("none.example").ttl, NEGATIVE_TTL)

    def test_negative(self) -> None:
        """RFC 2308 §5: absence is kept for the minimum of the SOA record; without one, for no more than the limit."""
        self.assertEqual(self.ask("none.example").ttl, 60)
        self.server.soa = None
        self.assertLessEqual(self.ask("other.example").ttl, NEGATIVE_TTL)
        self.assertEqual(self.ask("none.example").status, Status.NO_SUCH_NAME)
        self.assertEqual(self.server.count("none.example", "A"), 1)

    def test_failures(self) -> None:
        """A failure is kept for a few seconds only."""
        self.server.rcodes["a.example", "A"] = dns.rcode.SERVFAIL
        self.assertEqual(self.ask("a.example").ttl, FAILURE_TTL)
        self.server.rcodes.clear()
        self.assertTrue(self.ask("a.example").failed)
        self.reactor.advance(FAILURE_TTL)
        self.assertTrue(self.ask("a.example").found)

    def test_bounded(self) -> None:
        """The least recently used answers are removed first, by the weight of their records. Large records weigh more."""
        resolver = Resolver(self.reactor, ["127.0.0.1:5300"], cached=6)
        for number in range(4):
            self.server.add(f"n{number}.example", "A", "8.8.8.8", "8.8.4.4")
        for name in ("n0", "n1", "n2", "n0", "n3"):
            self.ask(f"{name}.example", resolver=resolver)
        self.assertEqual((len(resolver.cache), resolver.cache.weight), (3, 6))
        self.ask("n0.example", resolver=resolver)
        self.ask("n1.example", resolver=resolver)
        self.assertEqual([self.server.count(f"n{number}.example", "A") for number in range(4)], [1, 2, 1, 1])
        self.server.add("heavy.example", "TLSA", "3 0 0 " + "00" * 1200)
        self.ask("heavy.example", "TLSA", resolver=resolver)
        self.assertEqual((len(resolver.cache), resolver.cache.weight), (1, 5))
        self.ask("n0.example", resolver=resolver)
        resolver.cache.clear()
        self.assertEqual((len(resolver.cache), resolver.cache.weight), (0, 0))

    def test_unknown(self) -> None:
        """An empty cache has no answer."""
        self.assertIsNone(Cache(self.reactor).get(Question(dns.name.root, dns.rdatatype.A)))


class JoiningTests(ResolverCase):
    """Tests of simultaneous look-ups."""

    def test_joined(self) -> None:
        """The same question at the same time is sent once, and all callers get the answer."""
        answers = [self.resolver.query(name, "A") for name in ("a.example", "A.example", "a.example.")]
        self.assertEqual(self.resolver.in_flight, 1)
        self.reactor.settle()
        self.assertEqual([self.successResultOf(answer).status for answer in answers], [Status.FOUND] * 3)
        self.assertEqual((len(self.server.asked), self.resolver.in_flight), (1, 0))

    def test_cancelled(self) -> None:
        """A caller that cancels affects no other. When the last has cancelled, the look-up ends."""
        one, other = self.resolver.query("a.example", "A"), self.resolver.query("a.example", "A")
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.reactor.settle()
        self.assertTrue(self.successResultOf(other).found)
        lone = self.resolver.query("b.example", "A")
        self.assertEqual(len(self.reactor.udp), 2)
        lone.cancel()
        self.failureResultOf(lone, CancelledError)
        self.assertEqual((len(self.reactor.udp), self.resolver.in_flight), (1, 0))
        self.assertEqual(self.resolver.given_up, {"abandoned": 1})
        self.reactor.settle()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_left_alone_after_long_silence(self) -> None:
        """A look-up that was silent for seconds before its last caller cancelled is kept as a failure. Otherwise it is made again."""
        for seconds, kept in ((HOPELESS_SECONDS - 0.5, False), (HOPELESS_SECONDS + 0.5, True)):
            name = f"silent{seconds:.0f}.example"
            self.server.mute.add((name, "A"))
            lone = self.resolver.query(name, "A")
            self.reactor.pass_time(seconds)
            lone.cancel()
            self.failureResultOf(lone, CancelledError)
            again = self.resolver.query(name, "A")
            if kept:
                self.assertIn("no answer in", self.successResultOf(again).reason)
            else:
                self.assertNoResult(again)
                again.cancel()
                self.failureResultOf(again, CancelledError)

    def test_strangers_join_ours(self) -> None:
        """A stranger joins a look-up of ours. We never join a stranger's, which may wait in its line or be given up."""
        ours, theirs = self.resolver.query("a.example", "A"), self.resolver.query("a.example", "A", stranger())
        self.assertEqual(self.resolver.in_flight, 1)
        theirs.addErrback(lambda _: None).cancel()
        other = self.resolver.query("b.example", "A", stranger())
        again = self.resolver.query("b.example", "A")
        self.assertEqual(self.resolver.in_flight, 3)
        self.reactor.settle()
        self.assertEqual([self.successResultOf(each).failed for each in (ours, other, again)], [False] * 3)

    def test_slots(self) -> None:
        """Look-ups beyond the slots wait. Beyond the line's limit the one that waited longest is told that we are busy, not that it failed."""
        resolver = Resolver(self.reactor, ["127.0.0.1:5300"], lookups=2)
        self.server.mute.add(("n0.example", "A"))
        names = [f"n{number}.example" for number in range(6)]
        answers = [resolver.query(name, "A") for name in names]
        self.assertEqual((resolver.in_flight, resolver.in_line), (1, 4))
        dropped = self.successResultOf(answers[1])
        self.assertEqual((dropped.status, dropped.reason, dropped.ttl), (Status.BUSY, "too many look-ups at once", 0))
        self.reactor.pass_time(2.5)
        self.assertTrue(self.successResultOf(answers[0]).busy)
        self.assertEqual([self.successResultOf(answer).status for answer in answers[2:]], [Status.NO_SUCH_NAME] * 4)
        self.assertEqual(resolver.given_up, {"line-full": 1, "displaced": 1})
        self.assertEqual((resolver.in_flight, resolver.in_line, self.reactor.getDelayedCalls()), (0, 0, []))

    def test_not_asked_in_time(self) -> None:
        """A look-up whose turn does not come in time was never sent: the failure is ours."""
        resolver = Resolver(self.reactor, ["127.0.0.1:5300"], lookups=2, timeout=1)
        self.server.mute.add(("n0.example", "A"))
        first, second = resolver.query("n0.example", "A"), resolver.query("n1.example", "A")
        self.reactor.pass_time(1.25)
        failed = self.successResultOf(first)
        self.assertEqual((failed.status, failed.reason), (Status.FAILED, "no answer in 1 s"))
        unasked = self.successResultOf(second)
        self.assertEqual((unasked.status, unasked.reason), (Status.BUSY, "the look-up did not get its turn in 1 s"))
        self.assertEqual((resolver.in_flight, resolver.in_line), (0, 0))


class StrangerTests(ResolverCase):
    """Tests of look-ups for peers that have proven nothing (`net.requester`)."""

    def flood(self, sites: int, each: int, *, zone: str = "silent{}.example", start: int = 0) -> None:
        """Ask for names that are never answered, each below a zone of its own, from `sites` addresses of as many networks."""
        for site in range(sites):
            for number in range(each):
                name = f"x{start + number}." + zone.format(f"{site}-{start + number}")
                self.server.mute.add((name, "A"))
                self.resolver.query(name, "A", Requester.stranger(f"10.{site}.0.1")).addErrback(lambda _: None)

    def fresh(self, address: str = "192.0.2.77", seconds: float = 2.0) -> float:
        """Return how long a new peer of a healthy zone takes for two look-ups, one after the other."""
        self.names = getattr(self, "names", 0) + 1
        asker, began = Requester.stranger(address), self.reactor.seconds()
        for kind in ("A", "AAAA"):
            name = f"healthy{self.names}.example"
            self.server.add(name, kind, "8.8.8.8" if kind == "A" else "2a00::1")
            self.server.delays[name, kind] = 0.03
            answer = self.resolver.query(name, kind, asker)
            while not answer.called and self.reactor.seconds() - began < 20:
                self.reactor.settle()
                self.reactor.advance(0.01)
            self.assertTrue(self.successResultOf(answer).found, self.successResultOf(answer))
        return self.reactor.seconds() - began

    def test_one_address(self) -> None:
        """200 silent names a second from one address do not delay another address's look-ups."""
        times = []
        for second in range(12):
            self.flood(1, 200, start=200 * second)
            times.append(self.fresh())
            self.reactor.pass_time(1)
        self.assertLess(max(times), 0.2)
        self.assertLessEqual(self.resolver.in_flight, 16)

    def test_fifty_addresses(self) -> None:
        """Ten silent names a second from each of 50 addresses fill all slots. A new peer gets one at once all the same."""
        times = []
        for second in range(10):
            self.flood(50, 10, start=10 * second)
            times.append(self.fresh(f"192.0.2.{second}"))
            self.reactor.pass_time(1)
        self.assertEqual(self.resolver.in_flight, 128)
        self.assertLess(max(times), 1.0)

    def test_neighbours(self) -> None:
        """The same holds if the new peer's address is in the same network as all 50."""
        for second in range(6):
            for host in range(50):
                for number in range(10):
                    name = f"x.silent{host}-{second}-{number}.example"
                    self.server.mute.add((name, "A"))
                    self.resolver.query(name, "A", Requester.stranger(f"192.0.2.{host}")).addErrback(lambda _: None)
            self.assertLess(self.fresh("192.0.2.200"), 1.0)
            self.reactor.pass_time(1)

    def test_own_share(self) -> None:
        """Strangers use at most half of the slots. The other half is ours, and answers at once."""
        self.flood(60, 20)
        self.assertEqual(self.resolver.in_flight, 128)
        self.assertTrue(self.ask("a.example").found)

    def test_silent_zone(self) -> None:
        """After a few silent names below one domain further ones fail at once, for a minute, for the network that asked for them.

        Those of other networks, and ours, are still looked up.
        """
        self.flood(1, 4, zone="zone.example")
        self.ask("a.example")
        for _ in range(3):
            self.reactor.pass_time(3)
            self.resolver.cache.clear()
            self.ask("a.example")  # other names are answered meanwhile: only this zone is silent
        self.reactor.pass_time(3)
        before = len(self.server.asked)
        neighbour = Requester.stranger("10.0.0.77")
        answer = self.ask_as(neighbour, "y.zone.example")
        self.assertEqual((answer.status, answer.reason), (Status.FAILED, "the name servers of the zone did not answer lately"))
        self.assertEqual((len(self.server.asked), self.resolver.given_up["silent-zone"]), (before, 1))
        self.assertEqual(self.ask_as(neighbour, "y.other.example").status, Status.NO_SUCH_NAME)
        self.server.mute.add(("w.zone.example", "A"))
        self.assertNoResult(self.resolver.query("w.zone.example", "A").addErrback(lambda _: None))
        self.assertEqual(self.ask_as(stranger(), "y.zone.example").status, Status.NO_SUCH_NAME)
        self.assertEqual(self.ask_as(neighbour, "z.zone.example").status, Status.NO_SUCH_NAME)

    def test_silent_zone_in_line(self) -> None:
        """Names that still wait for a slot when their zone is found to be silent, which takes four names, are not looked up."""
        asked = [Requester.stranger("10.0.0.1") for _ in range(30)]
        names = [f"n{number}.zone.example" for number in range(30)]
        self.server.mute.update([(name, "A") for name in names])
        answers = [self.resolver.query(name, "A", one) for name, one in zip(names, asked, strict=True)]
        self.reactor.settle()
        self.assertEqual((self.resolver.in_flight, self.resolver.in_line), (16, 14))
        for _ in range(5):
            self.reactor.pass_time(3)
            self.resolver.cache.clear()
            self.ask("a.example")  # our resolver answers
        self.assertEqual((self.resolver.in_flight, self.resolver.in_line), (0, 0))
        self.assertLessEqual({self.successResultOf(answer).status for answer in answers}, {Status.FAILED, Status.BUSY})
        self.assertEqual(len({name for name, *_ in self.server.asked if "zone" in name}), 19)
        self.assertGreater(self.resolver.given_up["silent-zone"], 0)

    def test_silent_resolver(self) -> None:
        """If our own resolver does not answer at all, no zone is blamed."""
        self.flood(1, 8, zone="zone.example")
        self.reactor.pass_time(12)
        self.server.mute.clear()
        self.assertEqual(self.ask_as(Requester.stranger("10.0.0.77"), "y.zone.example").status, Status.NO_SUCH_NAME)

    def test_silent_resolver_is_busy(self) -> None:
        """A resolver that refuses packets, or a machine without sockets, is not the domain's fault."""
        self.server.stop()
        self.assertEqual(self.ask("a.example").status, Status.BUSY)
        self.reactor.broken = True
        self.assertEqual(self.ask("a.example").status, Status.BUSY)

    def test_questions(self) -> None:
        """One claim causes at most eight questions. Cached answers cost nothing."""
        asker = Requester.stranger("192.0.2.1")
        for number in range(QUESTIONS):
            self.assertFalse(self.ask_as(asker, f"n{number}.example").failed)
        self.assertTrue(self.ask_as(asker, "n10.example").failed)
        self.assertFalse(self.ask_as(asker, "n3.example").failed)
        self.ask("a.example")
        self.assertTrue(self.ask_as(asker, "a.example").found)
        self.assertEqual(self.resolver.given_up, {"questions": 1})

    def test_rate(self) -> None:
        """Questions for one address are rated over all claims. Cached answers are not counted."""
        resolver = Resolver(self.reactor, ["127.0.0.1:5300"], questions_per_second=1)
        statuses = []
        for number in range(22):
            answer = resolver.query(f"n{number}.example", "A", Requester.stranger("192.0.2.1"))
            self.reactor.settle()
            statuses.append(self.successResultOf(answer).status)
        self.assertEqual(statuses, [Status.NO_SUCH_NAME] * 20 + [Status.BUSY] * 2)
        answer = resolver.query("n30.example", "A", Requester.stranger("198.51.100.1"))
        self.reactor.settle()
        self.assertFalse(self.successResultOf(answer).failed)
        self.reactor.advance(1)
        again = resolver.query("n31.example", "A", Requester.stranger("192.0.2.1"))
        self.reactor.settle()
        self.assertFalse(self.successResultOf(again).failed)

    def ask_as(self, asker: Requester, name: str) -> Answer:
        answer = self.resolver.query(name, "A", asker)
        self.reactor.settle()
        return self.successResultOf(answer)
