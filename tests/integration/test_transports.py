"""Connections as configured: proxies, source addresses, the PROXY protocol, and names that are not looked up."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.authentication.lookups import EvidenceLookups
from s2sgw.composition.federation import MissedPeers, PeerLocations
from s2sgw.composition.gateway import GatewayComponents, build_gateway
from s2sgw.net.discovery import Discovery, Resolution
from s2sgw.net.proxy_protocol import LOCAL
from s2sgw.policy.values import Proxy, parse_proxy
from s2sgw.trust.evidence import POSHLookup
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.configurations import GATEWAY, ConfigTestCase
from tests.support.fakes import ThreadlessReactor
from tests.support.wires import CountingTransport
from tests.unit.net.test_discovery import DiscoveryCase
from tests.unit.net.test_socks import Recording

ONION = Domain.parse("abcdefghijklmnop.onion")
TOR = '[peers."*.onion"]\nproxy = "socks5://127.0.0.1:9050"\n'


class KeyTests(ConfigTestCase):
    """The keys of the configuration."""

    def test_proxy(self) -> None:
        """A proxy is set for a peer or a suffix, with a login or without. "none" removes an inherited one."""
        text = TOR + '[peers."plain.onion"]\nproxy = "none"\n[peers."far.example"]\nproxy = "socks5://me:p%40ss@[::1]"\n'
        policies = self.config(GATEWAY + text).policies
        found = {name: policies.policy(Domain.parse(name)).proxy for name in ("a.onion", "plain.onion", "far.example", "other.example")}
        self.assertEqual(found, {
            "a.onion": Proxy("127.0.0.1", 9050), "plain.onion": "none", "far.example": Proxy("::1", 1080, "me", "p@ss"),
            "other.example": "none",
        })  # fmt: skip
        self.assertEqual(str(Proxy("::1", 1080, "me", "secret")), "socks5://[::1]:1080")

    def test_no_proxy(self) -> None:
        """A value that is not the address of a SOCKS5 or HTTP proxy is rejected with a reason."""
        for text in ("https://127.0.0.1:1", "socks5://tor.example:9050", "socks5://user@127.0.0.1", "127.0.0.1:9050", 5, "socks5://127.0.0.1:0"):
            with self.subTest(text):
                self.assertRaises(ValueError, parse_proxy, text)

    def test_trusted_proxies(self) -> None:
        """The PROXY protocol needs the list of trusted proxies, and the list needs the protocol."""
        (listener,) = self.config(GATEWAY + '[listen]\nproxy_protocol = true\ntrusted_proxies = ["192.0.2.7", "2001:db8::/64"]\n').listen
        self.assertEqual(listener.trusted_proxies, (ip_network("192.0.2.7/32"), ip_network("2001:db8::/64")))
        self.assertEqual(
            ["line 4: listen.proxy_protocol: needs trusted_proxies: the addresses of the proxies that may connect here"],
            self.with_gateway("[listen]\nproxy_protocol = true\n"),
        )
        self.assertEqual(
            ["line 4: listen.trusted_proxies: has no effect without proxy_protocol = true"],
            self.with_gateway('[listen]\ntrusted_proxies = ["::1"]\n'),
        )
        self.assertEqual(1, len(self.with_gateway('[listen]\nproxy_protocol = true\ntrusted_proxies = ["192.0.2.7/24"]\n')))

    def test_zero_handshake(self) -> None:
        """XEP-0361: everything that is not negotiated must be configured: the route, direct TLS, and a pinned key as the only proof."""
        pins = f'pins = ["sha256:{"0" * 64}"]\n'
        sound = f'zero_handshake = true\nroute = "192.0.2.1:5300"\nproofs = ["pin"]\n{pins}'
        self.assertEqual([], self.with_gateway('[listen]\ntls = "direct"\nzero_handshake = true\n[peers."peer.example"]\n' + sound))
        for text, complaint in (
            ("[listen]\nzero_handshake = true\n", 'needs tls = "direct"'),
            ('[peers."peer.example"]\n' + sound.replace("route", "#route"), "needs route"),
            ('[peers."peer.example"]\n' + sound.replace(pins, ""), "needs pins"),
            ('[peers."peer.example"]\n' + sound.replace('"pin"]', '"pin", "pkix"]'), 'proofs = ["pin"]'),
            ('[peers."peer.example"]\ndialback = "with-tls"\n' + sound, 'needs dialback = "never"'),
            ('[peers."*.peer.example"]\n' + sound, "is agreed with single peers"), ("[peers.default]\nzero_handshake = true\n", "is agreed with single peers"),
            ("".join(f'[peers."p{number}.example"]\n{sound}' for number in range(65)), "at most 64 peers"),
        ):
            (found,) = self.with_gateway(text)
            self.assertIn(complaint, found)

    def test_source_addresses(self) -> None:
        """Addresses are accepted, names are not."""
        self.assertEqual(1, len(self.complaints(GATEWAY + 'source_addresses = ["me.example"]\n')))
        self.assertEqual(self.config(GATEWAY + 'source_addresses = ["192.0.2.1", "2001:DB8::1"]\n').gateway.source_addresses, ("192.0.2.1", "2001:db8::1"))


class DialTests(ConfigTestCase):
    """The destination and the source of a stream's connection."""

    def gateway(self, text: str) -> GatewayComponents:
        self.reactor = ThreadlessReactor()
        state = Path(self.mktemp()).absolute()
        return build_gateway(self.config(GATEWAY + f'state = "{state}"\n' + text), self.reactor)

    def dialled(self, dialler: Any, address: str) -> tuple[Any, ...]:
        dialler(address, 5269, lambda: None)
        return tuple(self.reactor.tcpClients[-1][index] for index in (0, 1, 4))

    def test_who_is_looked_for(self) -> None:
        """Unreachable peers are looked up again in the DNS, or at their routes. Local domains are not."""
        gateway = self.gateway('[queue]\ndisk = 0\n[peers."routed.example"]\nroute = "192.0.2.7:5270"\n')
        (local,) = gateway.running.local_domains
        routed = Domain.parse("routed.example")
        locations = PeerLocations(gateway.running, gateway.discovery)
        missed = MissedPeers(gateway.running.local_domains, gateway.rediscovery)
        for pair in (Pair(local, routed), Pair(routed, local)):
            missed.missed(pair, Resolution(pair.recipient))
        self.assertEqual(list(gateway.rediscovery._missed), [routed])
        (target,) = self.successResultOf(locations.resolve(routed)).targets
        self.assertEqual(target.port, 5270)

    def test_by_way_of_the_proxy(self) -> None:
        """The connection to a peer behind a proxy goes to the proxy; every other connection is direct. Both use the source address of the family."""
        diallers = self.gateway('source_addresses = ["192.0.2.1", "192.0.2.2"]\n[queue]\ndisk = 0\n' + TOR).diallers
        self.assertEqual(self.dialled(diallers.dialler(ONION), ONION.ascii), ("127.0.0.1", 9050, None))
        plain = diallers.dialler(Domain.parse("peer.example"))
        self.assertEqual(self.dialled(plain, "198.51.100.1"), ("198.51.100.1", 5269, ("192.0.2.1", 0)))
        self.assertEqual(self.dialled(plain, "2001:db8::1"), ("2001:db8::1", 5269, None))

    def test_who_looks_up(self) -> None:
        """The proxy looks a peer up, or the gateway does and sends the target's name to it; never for an onion service, and never without a proxy."""
        local = 'proxy = "http://127.0.0.1:3128"\nproxy_lookup = "local"\n'
        text = f'[queue]\ndisk = 0\n[peers.default]\nproxy_lookup = "local"\n[peers."a.example"]\n{local}[peers."b.example"]\nproxy = "socks5://[::1]"\n'
        diallers = self.gateway(text + 'proxy_lookup = "remote"\n[peers."*.onion"]\n' + local).diallers
        for name, known in (("a.example", (False, True)), ("b.example", (True, False)), ("c.example", (False, False)), (ONION.ascii, (True, False))):
            peer = Domain.parse(name)
            self.assertEqual((diallers.relayed(peer), diallers.dials_names(peer)), known, name)

    def test_the_backend_is_told_of_the_peer(self) -> None:
        """The backend is told the peer's address if the peer has an open stream, else that the connection is the gateway's own."""
        gateway = self.gateway("[queue]\ndisk = 0\n[backend]\nproxy_protocol = true\n")
        pair = Pair(Domain.parse("peer.example"), Domain.parse("example.org"))
        self.assertEqual(self.announced(gateway, pair), LOCAL)
        self.patch(gateway.accepted, "ends", {pair: ("198.51.100.7:4000", "192.0.2.1:5269")}.get)
        self.assertIn(bytes((198, 51, 100, 7, 192, 0, 2, 1)), self.announced(gateway, pair))

    def announced(self, gateway: GatewayComponents, pair: Pair) -> bytes:
        gateway.backends.legs["tcp:15270:interface=127.0.0.1"].dialler(pair)("127.0.0.1", 15269, Recording)
        protocol = self.reactor.tcpClients[-1][2].buildProtocol(None)
        assert protocol is not None
        transport = CountingTransport()
        protocol.makeConnection(transport)
        data: bytes = transport.value()
        return data


class Documents:
    def lookup(self, peer: Domain) -> Deferred[POSHLookup]:
        raise AssertionError("asked")


class NoLeakTests(DiscoveryCase):
    """RFC 7686: a name that goes through a proxy is not looked up at a name server or web server."""

    def test_relayed(self) -> None:
        """The domain, or the host of its route, is the address. There is no look-up."""
        relayed = Discovery(self.reactor, _Untouchable(), random=_NoRandom(), relayed=lambda domain: True, static={"s.example": "h.example:1"})  # type: ignore[arg-type]
        for domain, route, place in (
            ("abc.onion", None, ("abc.onion", 5269)), ("peer.example", "in.example:5300", ("in.example", 5300)), ("s.example", None, ("h.example", 1)),
        ):
            found = self.successResultOf(relayed.resolve(Domain.parse(domain), route))
            (target,) = found.targets
            self.assertEqual((target.host, target.port, target.addresses, found.ending), (*place, (place[0],), None))
            self.assertEqual(self.successResultOf(relayed.tlsa(target)).records, ())

    def test_onion_without_a_proxy(self) -> None:
        """A domain under .onion does not exist without a proxy, and there is no look-up."""
        plain = Discovery(self.reactor, _Untouchable(), random=_NoRandom())  # type: ignore[arg-type]
        for name in ("abc.onion", "sub.abc.onion"):
            self.assertEqual(self.cause(self.successResultOf(plain.resolve(Domain.parse(name)))), Cause.NO_SUCH_DOMAIN)
        self.server.add("onion.example", "A", "8.8.0.9")
        self.assertIsNone(self.resolve("onion.example").ending)

    def test_no_document(self) -> None:
        """No POSH document is fetched for it."""
        look_ups = EvidenceLookups(self.reactor, self.discovery(), Documents(), SimpleNamespace(relayed=lambda peer: True))  # type: ignore[arg-type]
        found = self.successResultOf(Deferred.fromCoroutine(look_ups.posh(ONION)))
        self.assertIn("through a proxy", found.failure or "")


class _Untouchable:
    """A resolver that must not be used."""

    def query(self, *_: object) -> None:
        raise AssertionError("asked")


class _NoRandom:
    """A source of chance that must not be used."""
