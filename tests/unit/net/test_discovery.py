"""Tests of where a domain is reached, and of the causes if it cannot be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import dns.name
import dns.rcode
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.discovery import Candidate, Discovery, Resolution, Target, in_order
from s2sgw.net.requester import QUESTIONS, Requester
from s2sgw.net.resolver import Resolver
from s2sgw.trust.evidence import TLSA, TLSALookup
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain
from tests.support.dns import FakeReactor, FakeServer

PEER = Domain.parse("peer.example")


def unlocated(host: str) -> Target:
    """Return a target without known addresses."""
    return Target(host, 5269, (), located=False)


def listeners(*places: tuple[str, int]) -> Callable[[str, int], bool]:
    """Return a function that lists these addresses as our listeners."""
    return lambda address, port: (address, port) in places


class DiscoveryCase(SynchronousTestCase):
    """Base class with a discovery, its resolver and a name server."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.server = FakeServer(self.reactor, ("127.0.0.1", 5300))
        for name, address in (("h1", "8.8.0.1"), ("h2", "8.8.0.2"), ("h3", "8.8.0.3")):
            self.server.add(f"{name}.example", "A", address)
        self.resolver = Resolver(self.reactor, ["127.0.0.1:5300"])

    def discovery(self, **options: Any) -> Discovery:
        return Discovery(self.reactor, self.resolver, **{"random": Random(7), **options})

    def resolve(self, domain: str = "peer.example", route: str | None = None, **options: Any) -> Resolution:
        """Return the resolution that needs no time."""
        found = self.discovery(**options).resolve(Domain.parse(domain), route)
        self.reactor.settle()
        return self.successResultOf(found)

    def located(self, **options: Any) -> Resolution:
        """Return the resolution with the addresses of all targets."""
        finder = self.discovery(**options)
        found = finder.resolve(PEER)
        self.reactor.settle()
        resolution = self.successResultOf(found)
        targets = finder.locate(resolution.targets)
        self.reactor.settle()
        return replace(resolution, targets=self.successResultOf(targets))

    def places(self, resolution: Resolution) -> list[tuple[str, int, tuple[str, ...]]]:
        self.assertIsNone(resolution.ending)
        return [(target.host, target.port, target.addresses) for target in resolution.targets]

    def cause(self, resolution: Resolution) -> Cause:
        self.assertEqual(resolution.targets, ())
        assert resolution.ending is not None
        return resolution.ending.cause


class ServiceTests(DiscoveryCase):
    """Tests of SRV records."""

    def test_priorities(self) -> None:
        """RFC 6120 §3.2.1: targets are in the order of their priorities, each with its port and addresses."""
        self.server.srv("peer.example", "20 0 5270 h2.example.", "10 0 5269 h1.example.", "30 0 5271 h3.example.")
        self.assertEqual(
            self.places(self.located()),
            [("h1.example", 5269, ("8.8.0.1",)), ("h2.example", 5270, ("8.8.0.2",)), ("h3.example", 5271, ("8.8.0.3",))],
        )

    def test_no_fallback(self) -> None:
        """R36: if there is an SRV record, the domain itself is not tried."""
        self.server.add("peer.example", "A", "8.8.0.9")
        self.server.srv("peer.example", "1 0 5269 gone.example.")
        self.assertEqual(self.cause(self.resolve()), Cause.NO_SUCH_DOMAIN)
        self.assertEqual(self.server.count("peer.example", "A"), 0)

    def test_not_available(self) -> None:
        """R2: the SRV target "." means that the service does not exist."""
        self.server.add("peer.example", "A", "8.8.0.9")
        self.server.srv("peer.example", "0 0 0 .")
        resolution = self.resolve()
        self.assertEqual(self.cause(resolution), Cause.NO_SUCH_DOMAIN)
        self.assertIn("no such service", str(resolution.ending))

    def test_odd_targets(self) -> None:
        """Targets that cannot be host names are skipped. A target that occurs twice counts once."""
        self.server.srv("peer.example", "1 0 5269 h\\032x.example.", "2 0 5269 h1.example.", "3 0 5269 h2.example.", "4 0 5269 H1.example.")
        self.assertEqual([host for host, _, _ in self.places(self.resolve())], ["h1.example", "h2.example"])

    def test_aliases(self) -> None:
        """The service name and the target may be aliases."""
        self.server.add("_xmpp-server._tcp.peer.example", "CNAME", "_xmpp-server._tcp.host.example.")
        self.server.srv("host.example", "1 0 5269 alias.example.")
        self.server.add("alias.example", "CNAME", "h1.example.")
        self.assertEqual(self.places(self.resolve()), [("alias.example", 5269, ("8.8.0.1",))])

    def test_internationalised(self) -> None:
        """An internationalised domain is looked up by its A-labels."""
        self.server.srv("xn--bcher-kva.example", "1 0 5269 h1.example.")
        self.assertEqual(len(self.places(self.resolve("Bücher.example"))), 1)

    def test_families(self) -> None:
        """Addresses of both families alternate, IPv6 first. Their number is bounded."""
        self.server.add("both.example", "A", *(f"8.8.1.{last}" for last in range(20)))
        self.server.add("both.example", "AAAA", "2a00::1", "2a00::2")
        self.server.srv("peer.example", "1 0 5269 both.example.")
        [(_, _, addresses)] = self.places(self.resolve())
        self.assertEqual([":" in address for address in addresses[:5]], [True, False, True, False, False])
        self.assertEqual(len(addresses), 16)

    def test_some_targets_fail(self) -> None:
        """Targets without addresses, or whose look-up fails, are left out if another one has addresses."""
        self.server.rcodes["broken.example", "*"] = dns.rcode.SERVFAIL
        self.server.srv("peer.example", "1 0 5269 broken.example.", "2 0 5269 gone.example.", "3 0 5269 h3.example.")
        self.assertEqual(self.places(self.resolve()), [("h3.example", 5269, ("8.8.0.3",))])

    def test_many_targets(self) -> None:
        """Of very many targets a bounded number is looked up."""
        self.server.srv("peer.example", *(f"{number} 0 {number + 1} h1.example." for number in range(40)))
        self.assertEqual([port for _, port, _ in self.places(self.resolve())], list(range(1, 17)))


class DirectTests(DiscoveryCase):
    """Tests of direct TLS (XEP-0368) beside STARTTLS."""

    def order(self, **options: Any) -> list[tuple[str, int, bool]]:
        return [(target.host, target.port, target.direct_tls) for target in self.resolve(**options).targets]

    def test_merged(self) -> None:
        """R36: the targets of both services are one list by priority. The same host may be in it for both."""
        self.server.srv("peer.example", "10 0 5269 h1.example.", "30 0 5269 h2.example.")
        self.server.srv("peer.example", "20 0 5223 h1.example.", "5 0 443 h3.example.", service="_xmpps-server")
        self.assertEqual(
            self.order(), [("h3.example", 443, True), ("h1.example", 5269, False), ("h1.example", 5223, True), ("h2.example", 5269, False)]
        )

    def test_same_place(self) -> None:
        """A port named by both services is tried in both ways: it may be multiplexed, or one record may be wrong."""
        self.server.srv("peer.example", "10 0 5269 h1.example.")
        self.server.srv("peer.example", "20 0 5269 h1.example.", service="_xmpps-server")
        self.assertEqual(self.order(), [("h1.example", 5269, False), ("h1.example", 5269, True)])

    def test_weights(self) -> None:
        """Within a priority weights count across the services, as a statistical test shows."""
        self.server.srv("peer.example", "10 25 5269 h1.example.")
        self.server.srv("peer.example", "10 75 5223 h2.example.", service="_xmpps-server")
        finder = self.discovery()
        firsts: Counter[bool] = Counter()
        for _ in range(1000):
            found = finder.resolve(PEER)
            self.reactor.settle()
            firsts[self.successResultOf(found).targets[0].direct_tls] += 1
        self.assertApproximates(firsts[True] / firsts.total(), 0.75, 0.03)

    def test_direct_alone(self) -> None:
        """A domain may have direct TLS alone, with its STARTTLS service absent or denied by ".". There is no fallback then."""
        self.server.add("peer.example", "A", "8.8.0.9")
        self.server.srv("peer.example", "20 0 5223 h1.example.", service="_xmpps-server")
        self.assertEqual(self.order(), [("h1.example", 5223, True)])
        self.resolver.cache.clear()
        self.server.srv("peer.example", "0 0 0 .")
        self.assertEqual(self.order(), [("h1.example", 5223, True)])

    def test_no_direct(self) -> None:
        """A direct service denied by "." does not affect STARTTLS: its records count, or the domain itself."""
        self.server.add("peer.example", "A", "8.8.0.9")
        self.server.srv("peer.example", "0 0 0 .", service="_xmpps-server")
        self.assertEqual(self.order(), [("peer.example", 5269, False)])
        self.resolver.cache.clear()
        self.server.srv("peer.example", "20 0 5269 h1.example.")
        self.assertEqual(self.order(), [("h1.example", 5269, False)])

    def test_both_denied(self) -> None:
        """R2: if both are denied, the domain does not exist."""
        self.server.srv("peer.example", "0 0 0 .")
        self.server.srv("peer.example", "0 0 0 .", service="_xmpps-server")
        self.assertEqual(self.cause(self.resolve()), Cause.NO_SUCH_DOMAIN)

    def test_one_fails(self) -> None:
        """If one service cannot be looked up, the targets of the other remain. Without any the answer is unknown (R2)."""
        for broken, works in (("_xmpps-server", "_xmpp-server"), ("_xmpp-server", "_xmpps-server")):
            self.resolver.cache.clear()
            self.server.rcodes = {(f"{broken}._tcp.{PEER}", "SRV"): dns.rcode.SERVFAIL}
            self.server.add("peer.example", "A", "8.8.0.9")
            self.assertEqual(self.cause(self.resolve()), Cause.DNS_UNREACHABLE)
            self.resolver.cache.clear()
            self.server.srv("peer.example", "20 0 5269 h1.example.", service=works)
            self.assertEqual(self.order(), [("h1.example", 5269, works == "_xmpps-server")])
            self.server.records.pop((f"{works}._tcp.{PEER}", "SRV"))

    def test_one_silent(self) -> None:
        """A service whose look-up gets no answer costs three seconds."""
        self.server.srv("peer.example", "20 0 5269 h1.example.")
        self.server.mute.add(("_xmpps-server._tcp.peer.example", "SRV"))
        found = self.discovery().resolve(PEER)
        self.reactor.pass_time(2.75)
        self.assertNoResult(found)
        self.reactor.pass_time(0.5)
        self.assertEqual(len(self.places(self.successResultOf(found))), 1)

    def test_secure(self) -> None:
        """R13: a target is secure if its own SRV record is, apart from its addresses. The domain itself is secure if both absences are."""
        self.server.secure = True
        self.server.srv("peer.example", "10 0 5269 h1.example.", "20 0 5269 h2.example.")
        self.server.srv("peer.example", "30 0 5223 h3.example.", service="_xmpps-server")
        self.server.insecure = {("_xmpps-server._tcp.peer.example", "SRV"), ("h2.example", "A"), ("h3.example", "AAAA")}
        secured = [(target.secure, target.addresses_secure) for target in self.located().targets]
        self.assertEqual(secured, [(True, True), (True, False), (False, True)])
        for insecure, secure in (("_xmpp-server", False), ("_xmpps-server", False), ("_xmpp-client", True)):
            self.resolver.cache.clear()
            self.server.insecure = {(f"{insecure}._tcp.h1.example", "SRV")}
            self.assertEqual([target.secure for target in self.resolve("h1.example").targets], [secure])


class SelfTests(DiscoveryCase):
    """Tests of the domain itself as target."""

    def test_fallback(self) -> None:
        """R36: without an SRV record, or data, the target is the domain itself at port 5269."""
        self.server.add("peer.example", "A", "8.8.0.9")
        self.assertEqual(self.places(self.resolve()), [("peer.example", 5269, ("8.8.0.9",))])
        self.server.add("_xmpp-server._tcp.other.example", "TXT", "x")
        self.server.add("other.example", "AAAA", "2a00::9")
        self.assertEqual(self.places(self.resolve("other.example")), [("other.example", 5269, ("2a00::9",))])

    def test_nothing(self) -> None:
        """R2: without SRV, A and AAAA records the domain does not exist."""
        resolution = self.resolve()
        self.assertEqual(self.cause(resolution), Cause.NO_SUCH_DOMAIN)
        self.assertTrue(resolution.ending and resolution.ending.final)

    def test_literal(self) -> None:
        """An address as a domain needs no DNS, but must be public."""
        self.assertEqual(self.places(self.resolve("8.8.8.8")), [("8.8.8.8", 5269, ("8.8.8.8",))])
        self.assertEqual(self.places(self.resolve("[2a00::1]")), [("2a00::1", 5269, ("2a00::1",))])
        self.assertEqual(self.cause(self.resolve("[::1]")), Cause.PRIVATE_ADDRESS)
        self.assertEqual(self.server.asked, [])

    def test_too_long_for_a_service(self) -> None:
        """A domain that is too long to have an SRV record may have addresses."""
        name = ".".join(["a" * 60] * 4) + ".ab"
        self.server.add(name, "A", "8.8.0.9")
        self.assertEqual(len(self.places(self.resolve(name))), 1)


class UnaskableTests(DiscoveryCase):
    """R2: a failed look-up is no proof that a name does not exist."""

    def test_service_fails(self) -> None:
        """R2: SERVFAIL for the SRV record is temporary, and no reason for the fallback."""
        self.server.add("peer.example", "A", "8.8.0.9")
        self.server.rcodes["_xmpp-server._tcp.peer.example", "SRV"] = dns.rcode.SERVFAIL
        resolution = self.resolve()
        self.assertEqual(self.cause(resolution), Cause.DNS_UNREACHABLE)
        assert resolution.ending is not None
        self.assertFalse(resolution.ending.final)
        self.assertEqual(resolution.ending.detail, "_xmpp-server._tcp.peer.example SRV: SERVFAIL")

    def test_addresses_fail(self) -> None:
        """If the look-up of one family fails and the other has no address, the answer is unknown."""
        self.server.rcodes["peer.example", "AAAA"] = dns.rcode.SERVFAIL
        resolution = self.resolve()
        self.assertEqual(self.cause(resolution), Cause.DNS_UNREACHABLE)
        self.assertIn("peer.example AAAA: ", str(resolution.ending))

    def test_one_target_fails(self) -> None:
        """The same holds if the look-up of one of several targets fails."""
        self.server.rcodes["h1.example", "*"] = dns.rcode.REFUSED
        self.server.srv("peer.example", "1 0 5269 h1.example.", "2 0 5269 gone.example.")
        self.assertEqual(self.cause(self.resolve()), Cause.DNS_UNREACHABLE)

    def test_silence(self) -> None:
        """A silent name server is given up within the time of a resolution."""
        self.server.mute.add(("_xmpp-server._tcp.peer.example", "*"))
        found = self.discovery(timeout=4).resolve(PEER)
        self.reactor.pass_time(3.75)
        self.assertNoResult(found)
        self.reactor.pass_time(0.5)
        self.assertIn("no answer in time", str(self.successResultOf(found).ending))

    def test_silence_of_targets(self) -> None:
        """This time applies to the service and its targets together."""
        self.server.srv("peer.example", "1 0 5269 h1.example.")
        self.server.delays["_xmpp-server._tcp.peer.example", "SRV"] = 1.5
        self.server.mute.add(("h1.example", "*"))
        found = self.discovery(timeout=4).resolve(PEER)
        self.reactor.pass_time(4.25)
        self.assertEqual(self.cause(self.successResultOf(found)), Cause.DNS_UNREACHABLE)


class GraceTests(DiscoveryCase):
    """Tests of slow answers, which do not delay others."""

    def test_silent_family(self) -> None:
        """A name server that never answers for AAAA costs one second."""
        self.server.srv("peer.example", "1 0 5269 h1.example.")
        self.server.mute.add(("h1.example", "AAAA"))
        found = self.discovery().resolve(PEER)
        self.reactor.pass_time(0.75)
        self.assertNoResult(found)
        self.reactor.pass_time(0.5)
        self.assertEqual(len(self.places(self.successResultOf(found))), 1)

    def test_slow_first_target(self) -> None:
        """A target of the best priority stays first, even if its look-up is slower than another one's."""
        self.server.srv("peer.example", "1 0 5269 h1.example.", "2 0 5269 h2.example.")
        self.server.delays["h1.example", "A"] = 1.5
        found = self.discovery().resolve(PEER)
        self.reactor.pass_time(2)
        self.assertEqual([host for host, _, _ in self.places(self.successResultOf(found))], ["h1.example", "h2.example"])

    def test_silent_target(self) -> None:
        """After two seconds the next target is looked up too. The silent one keeps its place, because it may only be slow."""
        self.server.srv("peer.example", "1 0 5269 h1.example.", "2 0 5269 h2.example.")
        self.server.mute.add(("h1.example", "*"))
        found = self.discovery().resolve(PEER)
        self.reactor.pass_time(1.75)
        self.assertNoResult(found)
        self.reactor.pass_time(0.5)
        targets = self.successResultOf(found).targets
        self.assertEqual([(target.host, target.located) for target in targets], [("h1.example", False), ("h2.example", True)])

    def test_silent_target_of_a_priority(self) -> None:
        """If all targets of a priority are looked up, one without an answer costs three seconds."""
        self.server.srv("peer.example", "1 0 5269 h1.example.", "1 0 5269 h2.example.")
        self.server.mute.add(("h1.example", "*"))
        finder = self.discovery()
        found = finder.locate([unlocated("h1.example"), unlocated("h2.example")])
        self.reactor.pass_time(2.75)
        self.assertNoResult(found)
        self.reactor.pass_time(0.5)
        self.assertEqual([target.host for target in self.successResultOf(found)], ["h2.example"])


class RefusedAddressTests(DiscoveryCase):
    """Tests of addresses that a stranger's DNS must not name."""

    def test_known_and_private(self) -> None:
        """If the address of the first target is known, and not public, the next target is looked up."""
        self.server.add("inside.example", "A", "10.0.0.1")
        self.server.srv("peer.example", "1 0 5269 inside.example.", "2 0 5269 h1.example.")
        for _ in range(2):  # the second time, everything is known
            self.assertEqual(self.places(self.located()), [("h1.example", 5269, ("8.8.0.1",))])

    def test_private(self) -> None:
        """Addresses that are not public are removed. If none is left, the ending says so."""
        self.server.add("mixed.example", "A", "10.0.0.1", "8.8.0.7")
        self.server.add("mixed.example", "AAAA", "::ffff:8.8.0.7", "64:ff9b::808:7", "fe80::1")
        self.server.add("inner.example", "A", "127.0.0.1", "0.0.0.0", "169.254.169.254")
        self.server.srv("peer.example", "1 0 5269 inner.example.", "2 0 5269 mixed.example.")
        self.assertEqual(self.places(self.resolve()), [("mixed.example", 5269, ("8.8.0.7",))])
        resolution = self.resolve("inner.example")
        self.assertEqual(self.cause(resolution), Cause.PRIVATE_ADDRESS)
        self.assertIn("127.0.0.1", str(resolution.ending))

    def test_allowed(self) -> None:
        """With private_addresses = "allow" they are accepted."""
        self.server.add("peer.example", "A", "127.0.0.1")
        self.assertEqual(self.places(self.resolve(private_addresses="allow")), [("peer.example", 5269, ("127.0.0.1",))])

    def test_own(self) -> None:
        """Our own listeners cannot be a peer's target, in any spelling. Another port of the machine can."""
        self.server.add("peer.example", "A", "8.8.0.9")
        self.server.add("peer.example", "AAAA", "2a00::9")
        own = listeners(("8.8.0.9", 5269), ("2a00::9", 5269))
        self.assertEqual(self.cause(self.resolve(own_addresses=own)), Cause.LOOP)
        other = listeners(("8.8.0.9", 5270), ("2a00::9", 5269))
        self.assertEqual(len(self.places(self.resolve(own_addresses=other))), 1)

    def test_own_mapped(self) -> None:
        """The same holds for mapped addresses, if private ones are allowed."""
        self.server.add("peer.example", "AAAA", "::ffff:127.0.0.1")
        self.assertEqual(self.cause(self.resolve(private_addresses="allow", own_addresses=listeners(("127.0.0.1", 5269)))), Cause.LOOP)


class FixedTests(DiscoveryCase):
    """Tests of the operator's static answers and routes."""

    def test_static(self) -> None:
        """A static answer counts as resolved without any DNS, for its domain alone, with any address."""
        options: dict[str, Any] = {"static": {"Peer.Example": "127.0.0.1:5299", "bücher.example": "[::1]"}, "own_addresses": listeners(("127.0.0.1", 5299))}
        self.assertEqual(self.places(self.resolve(**options)), [("127.0.0.1", 5299, ("127.0.0.1",))])
        self.assertEqual(self.places(self.resolve("xn--bcher-kva.example", **options)), [("::1", 5269, ("::1",))])
        self.assertEqual(self.server.asked, [])
        self.assertEqual(self.cause(self.resolve("sub.peer.example", **options)), Cause.NO_SUCH_DOMAIN)

    def test_route(self) -> None:
        """A route comes before everything else. A host name in it is looked up, and may have a private address."""
        self.server.add("inner.example", "A", "10.0.0.1")
        static = {"peer.example": "127.0.0.1:5299"}
        self.assertEqual(self.places(self.resolve(route="inner.example:5280", static=static)), [("inner.example", 5280, ("10.0.0.1",))])
        self.assertEqual(self.places(self.resolve(route="[::1]:1", static=static)), [("::1", 1, ("::1",))])

    def test_localhost(self) -> None:
        """A route to this machine by name needs no DNS."""
        self.assertEqual(self.places(self.resolve(route="localhost:5299")), [("localhost", 5299, ("::1", "127.0.0.1"))])
        self.assertEqual(self.server.asked, [])

    def test_route_to_nowhere(self) -> None:
        """A host name in a route that does not exist, or cannot be looked up, is reported like any other."""
        self.assertEqual(self.cause(self.resolve(route="gone.example")), Cause.NO_SUCH_DOMAIN)
        self.server.rcodes["bad.example", "*"] = dns.rcode.SERVFAIL
        self.assertEqual(self.cause(self.resolve(route="bad.example")), Cause.DNS_UNREACHABLE)

    def test_bad_route(self) -> None:
        """A route that no configuration permits is an ending with a text, not an exception."""
        self.assertEqual(self.cause(self.resolve(route="a b")), Cause.INTERNAL)

    def test_bad_static(self) -> None:
        """A static answer must be a host and a port."""
        with self.assertRaises(ValueError):
            self.discovery(static={"peer.example": "a b"})


class ManyTests(DiscoveryCase):
    """Tests of simultaneous resolutions."""

    def test_joined(self) -> None:
        """The same domain by the same route is resolved once for all callers. A caller that cancels affects no other."""
        self.server.srv("peer.example", "1 0 5269 h1.example.")
        finder = self.discovery()
        one, other, routed = finder.resolve(PEER), finder.resolve(PEER), finder.resolve(PEER, "127.0.0.1")
        one.cancel()
        self.reactor.settle()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(len(self.places(self.successResultOf(other))), 1)
        self.assertEqual(self.successResultOf(routed).targets[0].host, "127.0.0.1")
        self.assertEqual(self.server.count("_xmpp-server._tcp.peer.example", "SRV"), 1)

    def test_told_once(self) -> None:
        """A claim is one transaction: its requester gets the same answer again, though the DNS has changed. Others look it up, and failures are not kept."""
        finder, requester = self.discovery(), Requester.stranger("192.0.2.1")
        failed = finder.resolve(PEER, requester=requester)
        self.reactor.settle()
        self.assertIsNotNone(self.successResultOf(failed).ending)
        self.resolver.cache.clear()
        requester._answers.clear()
        self.server.srv("peer.example", "1 0 5269 h1.example.")
        found = finder.resolve(PEER, requester=requester)
        self.reactor.settle()
        resolution = self.successResultOf(found)
        self.assertEqual((resolution.ending, self.successResultOf(finder.resolve(PEER, requester=requester))), (None, resolution))
        asked = len(self.server.asked)
        self.resolver.cache.clear()
        self.successResultOf(finder.resolve(PEER, requester=requester))
        self.assertEqual(len(self.server.asked), asked)
        other = finder.resolve(PEER, requester=Requester.stranger("192.0.2.2"))
        self.reactor.settle()
        self.assertGreater(len(self.server.asked), asked)
        self.assertEqual(len(self.places(self.successResultOf(other))), 1)

    def test_abandoned(self) -> None:
        """When all callers have cancelled, no further question is sent, and nothing stays in memory."""
        self.server.mute.add(("_xmpp-server._tcp.peer.example", "SRV"))
        finder = self.discovery()
        asking = [finder.resolve(PEER), finder.resolve(PEER)]
        for each in asking:
            self.assertEqual(self.resolver.in_flight, 2)
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.reactor.settle()
        self.assertEqual((self.resolver.in_flight, self.reactor.getDelayedCalls()), (0, []))
        self.assertEqual(len(finder._joined), 0)

    def test_strangers_apart(self) -> None:
        """A stranger never waits behind another stranger's look-up: it joins those of its own site, and ours."""
        self.server.srv("peer.example", "1 0 5269 h1.example.")
        finder = self.discovery()
        askers = [Requester.stranger("192.0.2.1"), Requester.stranger("192.0.2.1"), Requester.stranger("198.51.100.1"), None]
        found = [finder.resolve(PEER, None, asker) for asker in askers]
        self.assertEqual(len(finder._joined), 3)
        self.reactor.settle()
        self.assertTrue(all(self.successResultOf(each).ending is None for each in found))


class ClaimTests(DiscoveryCase):
    """Tests of the cost of a stranger's claim of a name."""

    def claim(self, asker: Requester | None = None) -> Resolution:
        found = self.discovery().resolve(PEER, None, asker or Requester.stranger("192.0.2.1"))
        self.reactor.settle()
        return self.successResultOf(found)

    def test_healthy(self) -> None:
        """Of sixteen targets one is looked up if it has an address: four questions. The others keep their places."""
        self.server.srv("peer.example", *(f"{number} 0 5269 h{number}.example." for number in range(1, 17)))
        resolution = self.claim()
        self.assertEqual([target.located for target in resolution.targets], [True] + [False] * 15)
        self.assertEqual(len(self.server.asked), 4)

    def test_no_address(self) -> None:
        """At most eight questions are sent, whatever a zone contains: three targets. The others are not reported as absent."""
        self.server.srv("peer.example", *(f"1 0 5269 x{number}.victim.example." for number in range(16)))
        resolution = self.claim()
        self.assertEqual(self.cause(resolution), Cause.DNS_UNREACHABLE)
        self.assertIn("13 more targets were not looked up", str(resolution.ending))
        self.assertEqual(len(self.server.asked), 8)

    def test_ours(self) -> None:
        """Before a message of ours is given up, all targets are looked up."""
        self.server.srv("peer.example", *(f"{number} 0 5269 x{number}.example." for number in range(1, 16)), "16 0 5269 h1.example.")
        found = self.discovery().resolve(PEER)
        self.reactor.settle()
        self.assertEqual([target.host for target in self.successResultOf(found).targets], ["h1.example"])

    def test_one_transaction(self) -> None:
        """RFC 1035 §3.2.1: with a TTL of zero no question is repeated for one claim. It is for the next claim."""
        self.server.add("_xmpp-server._tcp.peer.example", "SRV", "1 0 5269 z.example.", ttl=0)
        self.server.add("z.example", "A", "8.8.0.1", ttl=0)
        asker = Requester.stranger("192.0.2.1")
        for _ in range(5):
            self.assertIsNone(self.claim(asker).ending)
        self.assertEqual(self.server.count("z.example", "A"), 1)
        self.claim()
        self.assertEqual(self.server.count("z.example", "A"), 2)

    def test_budget(self) -> None:
        """A claim causes at most eight questions. Then it fails, and is not accepted on less evidence."""
        self.server.srv("peer.example", *(f"1 0 5269 x{number}.victim.example." for number in range(16)))
        asker = Requester.stranger("192.0.2.1")
        finder = self.discovery()
        for number in range(8):
            located = finder.locate([unlocated(f"y{number}.victim.example")], asker)
            self.reactor.settle()
            self.assertEqual(self.successResultOf(located), ())
        self.assertEqual(len(self.server.asked), QUESTIONS)

    def test_busy(self) -> None:
        """If our own resolver cannot be reached, the domain's name servers are not blamed."""
        self.server.srv("peer.example", "1 0 5269 h1.example.")
        self.server.stop()
        resolution = self.claim()
        self.assertEqual(self.cause(resolution), Cause.RESOLVER_BUSY)
        assert resolution.ending is not None
        self.assertFalse(resolution.ending.final)


class OrderTests(SynchronousTestCase):
    """RFC 2782: targets are ordered in proportion to their weights."""

    def first(self, weights: dict[str, int], rounds: int = 5000) -> Counter[str]:
        """Return how often each target came first."""
        random = Random(1)
        candidates = [Candidate(dns.name.from_text(name), 1, weight=weight) for name, weight in weights.items()]
        return Counter(str(in_order(candidates, random)[0].name).rstrip(".") for _ in range(rounds))

    def share(self, weights: dict[str, int], name: str) -> float:
        counted = self.first(weights)
        return counted[name] / counted.total()

    def test_shares(self) -> None:
        """Each target is first as often as its weight says."""
        weights = {"a": 10, "b": 30, "c": 60}
        for name, weight in weights.items():
            self.assertApproximates(self.share(weights, name), weight / 100, 0.012)

    def test_second(self) -> None:
        """The second target is drawn among the rest by weight."""
        random = Random(2)
        candidates = [Candidate(dns.name.from_text(name), 1, weight=weight) for name, weight in (("a", 10**4), ("b", 30), ("c", 10))]
        seconds = Counter(str(in_order(candidates, random)[1].name) for _ in range(5000))
        self.assertApproximates(seconds["b."] / (seconds["b."] + seconds["c."]), 0.75, 0.02)

    def test_zero_beside_weights(self) -> None:
        """A weight of zero has a very small chance beside others, but not none."""
        self.assertApproximates(self.share({"a": 0, "b": 99}, "a"), 0.01, 0.004)

    def test_all_zero(self) -> None:
        """If all weights are zero, the targets share equally, whatever their order in the answer."""
        for name in "abc":
            self.assertApproximates(self.share({"a": 0, "b": 0, "c": 0}, name), 1 / 3, 0.015)

    def test_priority_first(self) -> None:
        """No weight takes precedence over a priority, and no target is lost."""
        candidates = [
            Candidate(dns.name.from_text("late"), 1, priority=2, weight=65535),
            Candidate(dns.name.from_text("soon"), 1, priority=1, weight=0),
        ]
        for seed in range(50):
            self.assertEqual([str(one.name) for one in in_order(candidates, Random(seed))], ["soon.", "late."])


class TLSATests(DiscoveryCase):
    """R22: tests of the TLSA records of a target, and of their DNSSEC status."""

    KEY = "aa" * 32

    def setUp(self) -> None:
        super().setUp()
        self.server.secure = True
        self.server.srv("peer.example", "1 0 5269 h1.example.")

    def lookups(self, **options: Any) -> list[TLSALookup]:
        """Look up the TLSA records of each target of the peer, afresh."""
        self.resolver.cache.clear()
        finder = self.discovery(**options)
        resolving = finder.resolve(PEER)
        self.reactor.settle()
        asking = [finder.tlsa(target) for target in self.successResultOf(resolving).targets]
        self.reactor.settle()
        return [self.successResultOf(asked) for asked in asking]

    def test_secured(self) -> None:
        """If every step is secure, the records are returned unchanged, for the port of the target."""
        self.server.add("_5269._tcp.h1.example", "TLSA", f"3 1 1 {self.KEY}", f"2 0 2 {self.KEY}{self.KEY}")
        [lookup] = self.lookups()
        key = bytes.fromhex(self.KEY)
        self.assertEqual({str(record) for record in lookup.records}, {str(TLSA(3, 1, 1, key)), str(TLSA(2, 0, 2, key + key))})
        self.assertEqual((lookup.target, lookup.secure, lookup.addresses_secure, lookup.failure), ("h1.example", True, True, ""))

    def test_none(self) -> None:
        """The absence of records may be secure too."""
        [lookup] = self.lookups()
        self.assertEqual((lookup.records, lookup.secure, lookup.failure), ((), True, ""))

    def test_insecure_target(self) -> None:
        """The TLSA records of an insecure target are not looked up."""
        self.server.insecure.add(("_xmpp-server._tcp.peer.example", "SRV"))
        [lookup] = self.lookups()
        self.assertEqual((lookup.records, lookup.secure, lookup.failure), ((), False, "its zone is not signed (DNSSEC)"))
        self.assertEqual(self.server.count("_5269._tcp.h1.example", "TLSA"), 0)

    def test_insecure_addresses(self) -> None:
        """Insecure addresses are marked as such: inbound they do not matter."""
        self.server.insecure.add(("h1.example", "A"))
        self.server.add("_5269._tcp.h1.example", "TLSA", f"3 1 1 {self.KEY}")
        [lookup] = self.lookups()
        self.assertEqual((len(lookup.records), lookup.secure, lookup.addresses_secure), (1, True, False))

    def test_insecure_records(self) -> None:
        """Insecure TLSA records are never returned as secure."""
        self.server.insecure.add(("_5269._tcp.h1.example", "TLSA"))
        self.server.add("_5269._tcp.h1.example", "TLSA", f"3 1 1 {self.KEY}")
        [lookup] = self.lookups()
        self.assertEqual((len(lookup.records), lookup.secure), (1, False))

    def test_failures(self) -> None:
        """A look-up that fails, is bogus or gets no answer is marked as such and does not count."""
        self.server.rcodes["_5269._tcp.h1.example", "TLSA"] = dns.rcode.SERVFAIL
        [lookup] = self.lookups()
        self.assertEqual((lookup.secure, lookup.failure), (False, "_5269._tcp.h1.example TLSA: SERVFAIL"))
        self.server.rcodes.clear()
        self.server.mute.add(("_5269._tcp.h1.example", "TLSA"))
        self.resolver.cache.clear()
        asking = self.discovery(timeout=3).tlsa(Target("h1.example", 5269, (), secure=True))
        self.reactor.pass_time(3.25)
        self.assertIn("no answer in time", self.successResultOf(asking).failure)

    def test_alias(self) -> None:
        """RFC 7671 §7: for an alias the records of its true name count first, then its own."""
        self.server.srv("other.example", "1 0 5269 alias.example.")
        self.server.add("_xmpp-server._tcp.peer.example", "CNAME", "_xmpp-server._tcp.other.example.")
        self.server.add("alias.example", "CNAME", "h1.example.")
        self.server.add("_5269._tcp.alias.example", "TLSA", "3 1 1 " + "01" * 32)
        [lookup] = self.lookups()
        self.assertEqual((lookup.target, [record.data[0] for record in lookup.records]), ("alias.example", [1]))
        self.server.add("_5269._tcp.h1.example", "TLSA", "3 1 1 " + "02" * 32)
        [lookup] = self.lookups()
        self.assertEqual((lookup.target, [record.data[0] for record in lookup.records]), ("alias.example", [2]))

    def test_insecure_alias(self) -> None:
        """If DNSSEC does not secure the alias, its true name does not count."""
        self.server.srv("other.example", "1 0 5269 alias.example.")
        self.server.add("_xmpp-server._tcp.peer.example", "CNAME", "_xmpp-server._tcp.other.example.")
        self.server.add("alias.example", "CNAME", "h1.example.")
        self.server.insecure.add(("alias.example", "A"))
        self.server.add("_5269._tcp.h1.example", "TLSA", "3 1 1 " + "02" * 32)
        [lookup] = self.lookups()
        self.assertEqual((lookup.records, lookup.addresses_secure), ((), False))
        self.assertEqual(self.server.count("_5269._tcp.h1.example", "TLSA"), 0)

    def test_operators_word(self) -> None:
        """A static answer is not secured by DNSSEC."""
        [lookup] = self.lookups(static={"peer.example": "127.0.0.1:5269"})
        self.assertFalse(lookup.secure)


class DeferredTests(DiscoveryCase):
    """Tests of the look-ups underneath."""

    def test_internal_error(self) -> None:
        """An internal error is an ending too."""
        def broken(name: object, rdtype: object, requester: object) -> Deferred[Any]:
            raise RuntimeError("boom")

        self.resolver.query = broken  # type: ignore[method-assign, assignment]
        resolution = self.resolve()
        self.assertEqual(self.cause(resolution), Cause.INTERNAL)
        self.assertIn("boom", str(resolution.ending))
