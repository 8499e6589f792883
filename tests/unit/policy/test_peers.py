"""Tests of peer objects, their inheritance, and values that a configuration writes as text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy import values
from s2sgw.policy.denylist import DenyList
from s2sgw.policy.model import Features, Limits, PeerObject, PeerPolicy, StanzaRates
from s2sgw.policy.peers import RECENT, PeerPolicies
from s2sgw.xmpp.jid import Domain

PIN = "sha256:" + "ab" * 32


def peers(**objects: dict[str, Any]) -> PeerPolicies:
    """Return objects by name, with "__" for a dot and "any__" for "*."."""
    named = {name.replace("any__", "*.").replace("__", "."): PeerObject(**keys) for name, keys in objects.items()}
    return PeerPolicies(named)


def policy(of: PeerPolicies, name: str) -> PeerPolicy:
    return of.policy(Domain.parse(name))


class DefaultTests(SynchronousTestCase):
    """Tests of the defaults."""

    def test_contract(self) -> None:
        """The defaults are the documented ones."""
        found = policy(PeerPolicies(), "peer.example")
        self.assertEqual(
            (True, "required", "1.2", ("pkix", "dane", "posh", "pin"), "never", "reject", "required", "system", (), None, None, 600.0),
            (found.allow, found.tls, found.minimum, found.proofs, found.dialback, found.unknown_issuer, found.resolve,
             found.trust_anchors, found.pins, found.certificate, found.route, found.hold),
        )
        self.assertEqual((524288, 4, StanzaRates(), 0, "slow", False), (
            found.limits.stanza_bytes, found.limits.streams, found.limits.stanzas_per_second, found.limits.bytes_per_second,
            found.limits.excess, found.limits.rated,
        ))
        self.assertEqual(Features(sm=True, bidi=True, limits=True, multiplexing=True), found.features)
        self.assertEqual(
            ((), 0, ("message", "presence", "iq"), "error"), (found.deny_namespaces, found.deny_larger_than, found.kinds, found.denied),
        )
        self.assertIsNone(found.bar)
        self.assertEqual((), found.objects)

    def test_frozen(self) -> None:
        """A policy cannot be changed once it is made."""
        with self.assertRaises(AttributeError):
            policy(PeerPolicies(), "peer.example").allow = False  # type: ignore[misc]


class MostSpecificTests(SynchronousTestCase):
    """The exact name comes first, then the longest suffix, then the default. Each inherits from the next."""

    def setUp(self) -> None:
        self.peers = peers(
            default={"dialback": "with-tls", "hold": "1m"},
            any__example={"tls": "optional", "dialback": "always"},
            any__friends__example={"dialback": "never"},
            a__friends__example={"allow": False},
        )

    def test_default(self) -> None:
        """A peer without an object has the default."""
        self.assertEqual(("default",), policy(self.peers, "peer.test").objects)

    def test_suffix(self) -> None:
        """A suffix applies to names under it, at any depth, and not to itself."""
        self.assertEqual("always", policy(self.peers, "x.y.example").dialback)
        self.assertEqual(("*.example", "default"), policy(self.peers, "friends.example").objects)
        self.assertEqual(("default",), policy(self.peers, "example").objects)
        self.assertEqual(("default",), policy(self.peers, "notexample").objects)

    def test_longest_suffix(self) -> None:
        """The longest suffix applies, and inherits from the shorter one."""
        found = policy(self.peers, "b.friends.example")
        self.assertEqual(("*.friends.example", "*.example", "default"), found.objects)
        self.assertEqual(("never", "optional", 60.0), (found.dialback, found.tls, found.hold))

    def test_exact(self) -> None:
        """The exact name comes before every suffix, and inherits from all of them."""
        found = policy(self.peers, "A.Friends.Example.")
        self.assertEqual(("a.friends.example", "*.friends.example", "*.example", "default"), found.objects)
        self.assertEqual((False, "never", "optional", 60.0), (found.allow, found.dialback, found.tls, found.hold))

    def test_under_an_exact_name(self) -> None:
        """An exact name has no effect on names under it."""
        self.assertTrue(policy(self.peers, "x.a.friends.example").allow)

    @settings(max_examples=50)
    @given(st.permutations(["default", "*.example", "*.friends.example", "a.friends.example"]))
    def test_order_never_matters(self, order: list[str]) -> None:
        """The order of objects does not matter."""
        said: dict[str, dict[str, Any]] = {
            "default": {"hold": "1m"}, "*.example": {"tls": "optional", "hold": "2m"},
            "*.friends.example": {"dialback": "always"}, "a.friends.example": {"hold": "3m"},
        }
        found = PeerPolicies({name: PeerObject(**said[name]) for name in order})
        straight = PeerPolicies({name: PeerObject(**keys) for name, keys in said.items()})
        for name in ("a.friends.example", "b.friends.example", "c.example", "d.test"):
            self.assertEqual(policy(straight, name), policy(found, name))

    def test_one_policy_per_object(self) -> None:
        """Names that strangers choose make no new policies: peers of one object share one."""
        self.assertIs(policy(self.peers, "a.test"), policy(self.peers, "b.test"))
        self.assertIs(policy(self.peers, "a.b.example"), policy(self.peers, "c.example"))

    def test_resolved_when_asked(self) -> None:
        """An object is resolved at the first question, once: there may be very many objects."""
        objects = {f"{number}.example": PeerObject() for number in range(100)}
        refined: list[str] = []

        class Counting(dict[str, PeerObject]):
            def __getitem__(self, name: str) -> PeerObject:
                refined.append(name)
                return super().__getitem__(name)

        found = PeerPolicies(Counting(objects))
        self.assertEqual([], refined)
        self.assertIs(policy(found, "1.example"), policy(found, "1.example"))
        self.assertEqual(["1.example"], refined)

    def test_value(self) -> None:
        """A single key has the same value as in the whole policy."""
        found = PeerPolicies({
            "default": PeerObject(dialback="never"), "*.example": PeerObject(proofs=("pin",)), "a.example": PeerObject(allow=False),
        }, PeerPolicy(hold=7.0))
        for name in ("a.example", "*.example", "default"):
            for key in ("allow", "proofs", "dialback", "hold", "pins"):
                self.assertEqual(getattr(found.named(name), key), found.value(name, key), (name, key))

    def test_named(self) -> None:
        """The policy of an object is found by the object's own name."""
        self.assertEqual(("*.friends.example", "*.example", "default"), self.peers.named("*.friends.example").objects)
        self.assertRaises(KeyError, self.peers.named, "a.test")

    def test_addresses_have_no_suffix(self) -> None:
        """An address is under no suffix. An object with the same name is its policy."""
        found = peers(**{"any__0__0__1": {"allow": False}, "127__0__0__2": {"allow": False}})
        self.assertTrue(policy(found, "127.0.0.1").allow)
        self.assertFalse(policy(found, "127.0.0.2").allow)

    def test_names_that_strangers_choose(self) -> None:
        """The number of remembered names is bounded, however many are asked for, and the answers stay the same."""
        found = peers(friend__example={"allow": False})
        for number in range(3 * RECENT):
            self.assertTrue(policy(found, f"p{number}.example").allow)
            self.assertFalse(policy(found, "friend.example").allow)
            self.assertLessEqual(len(found._recent), RECENT)


class InheritanceTests(SynchronousTestCase):
    """Tests of inheritance."""

    def test_limits_key_by_key(self) -> None:
        """Each limit is inherited separately."""
        found = peers(default={"limits": {"streams": 2}}, a__example={"limits": {"stanza_bytes": "64KiB"}})
        self.assertEqual(Limits(stanza_bytes=65536, streams=2), policy(found, "a.example").limits)

    def test_domains(self) -> None:
        """The limit of sending domains per stream is inherited like any other."""
        found = peers(a__example={"limits": {"domains": 500}})
        self.assertEqual([policy(found, name).limits.domains for name in ("a.example", "b.example")], [500, 0])

    def test_rates(self) -> None:
        """A single number applies to stanzas of all kinds together. A given table replaces the inherited one."""
        found = peers(
            default={"limits": {"stanzas_per_second": 7, "bytes_per_second": "30kB", "excess": "refuse"}},
            a__example={"limits": {"stanzas_per_second": {"presence": 3}}}, b__example={"limits": {"stanzas_per_second": 0}},
        )
        base = policy(found, "x.example").limits
        self.assertEqual((StanzaRates(total=7), 30000, "refuse", True), (base.stanzas_per_second, base.bytes_per_second, base.excess, base.rated))
        self.assertEqual(StanzaRates(presence=3), policy(found, "a.example").limits.stanzas_per_second)
        self.assertEqual((StanzaRates(), 30000), (policy(found, "b.example").limits.stanzas_per_second, policy(found, "b.example").limits.bytes_per_second))

    def test_features_key_by_key(self) -> None:
        """Each feature is inherited separately."""
        found = peers(default={"features": {"bidi": False}}, a__example={"features": {"sm": False}})
        self.assertEqual(Features(sm=False, bidi=False, limits=True, multiplexing=True), policy(found, "a.example").features)

    def test_lists_are_replaced(self) -> None:
        """A given list replaces the inherited one, also an empty list."""
        found = peers(default={"pins": [PIN], "proofs": ["pin"]}, a__example={"pins": [], "proofs": ["pkix"]})
        self.assertEqual(((), ("pkix",)), (policy(found, "a.example").pins, policy(found, "a.example").proofs))
        self.assertEqual((PIN,), policy(found, "b.example").pins)

    def test_base(self) -> None:
        """Keys missing in the default object come from the gateway's own settings."""
        found = PeerPolicies({}, PeerPolicy(hold=5.0, trust_anchors=Path("/ca.pem")))
        self.assertEqual((5.0, Path("/ca.pem")), (policy(found, "a.example").hold, policy(found, "a.example").trust_anchors))

    def test_minimum_has_a_floor(self) -> None:
        """No peer can go below the gateway's own TLS minimum. Any peer may require more."""
        strict = PeerPolicies({"a.example": PeerObject(minimum="1.2")}, PeerPolicy(minimum="1.3"))
        self.assertEqual("1.3", policy(strict, "a.example").minimum)
        self.assertEqual("1.3", policy(peers(a__example={"minimum": "1.3"}), "a.example").minimum)

    def test_encryption(self) -> None:
        """Without TLS a peer can be proven only by dialback, so TLS is optional only if dialback does not need it."""
        for tls, dialback, comes_to in (
            ("optional", "always", "optional"), ("optional", "with-tls", "required"), ("optional", "never", "required"),
            ("required", "always", "required"),
        ):
            self.assertEqual(comes_to, PeerPolicy(tls=tls, dialback=dialback).encryption)  # type: ignore[arg-type]

    def test_every_key_is_resolved(self) -> None:
        """Every key of an object is in the policy."""
        for key in PeerObject.model_fields:
            self.assertTrue(hasattr(PeerPolicy(), key), key)


class BarTests(SynchronousTestCase):
    """Tests of peers that are barred with any proof."""

    def bar(self, of: PeerPolicies, name: str) -> tuple[str, str] | None:
        ending = policy(of, name).bar
        return None if ending is None else (ending.cause.value, ending.detail)

    def test_allow(self) -> None:
        """`allow = false` bars the peer."""
        found = peers(a__example={"allow": False})
        self.assertEqual(("not-allowed", "the policy for this peer does not allow it"), self.bar(found, "a.example"))
        self.assertIsNone(self.bar(found, "b.example"))

    def test_listed_only(self) -> None:
        """`allow_only_listed`: an object of its own, or a suffix, permits a peer. The default does not."""
        objects = {"default": PeerObject(allow=True), "a.example": PeerObject(), "*.b.example": PeerObject(), "c.example": PeerObject(allow=False)}
        found = PeerPolicies(objects, listed_only=True)
        self.assertEqual([None, None], [self.bar(found, name) for name in ("a.example", "x.y.b.example")])
        only = ("not-allowed", "only peers that the configuration names are allowed")
        self.assertEqual([only, only], [self.bar(found, name) for name in ("b.example", "other.test")])
        self.assertEqual(("not-allowed", "the policy for this peer does not allow it"), self.bar(found, "c.example"))

    def test_names_of_no_domain(self) -> None:
        """An IP address or a single label is a peer only if an object has exactly its name, in either direction."""
        found = peers(localhost={"hold": "1m"}, default={"allow": True})
        self.assertIsNone(self.bar(found, "localhost"))
        for name in ("intranet", "default", "192.0.2.1", "[2001:db8::1]"):
            told = self.bar(found, name)
            assert told is not None
            self.assertEqual(("not-allowed", True), (told[0], "exactly this name" in told[1]))
        self.assertIsNone(self.bar(peers(**{"192__0__2__1": {}}), "192.0.2.1"))

    def test_deny_lists(self) -> None:
        """A name in a list is denied with the list's text, until the list no longer has it."""
        found = peers(default={"hold": "1m"}, a__example={"hold": "2m"})
        found.deny([DenyList("list one", dict.fromkeys({"a.example", "*.bad.example"})), DenyList("list two", dict.fromkeys({"a.example", "c.example"}))])
        self.assertEqual(("deny-listed", "named by list one"), self.bar(found, "a.example"))
        self.assertEqual(("deny-listed", "named by list one"), self.bar(found, "x.bad.example"))
        self.assertEqual(("deny-listed", "named by list two"), self.bar(found, "c.example"))
        self.assertIsNone(self.bar(found, "bad.example"))
        self.assertEqual(120.0, policy(found, "a.example").hold)
        self.assertEqual(["list one", "list two"], [each.source for each in found.deny_lists])
        found.deny([])
        self.assertIsNone(self.bar(found, "a.example"))

    def test_denied_share_a_policy(self) -> None:
        """Names that strangers choose make no new policies here either."""
        found = peers()
        found.deny([DenyList("x", dict.fromkeys({"a.test", "b.test"}))])
        self.assertIs(policy(found, "a.test"), policy(found, "b.test"))

    def test_spared(self) -> None:
        """The operator's own object overrides a list: `allow = true` there, and nowhere else."""
        found = peers(default={"allow": True}, any__example={"allow": True}, a__example={"allow": True}, b__example={})
        found.deny([DenyList("x", dict.fromkeys({"a.example", "b.example", "c.example", "default"}))])
        self.assertEqual([None, "deny-listed", "deny-listed", "deny-listed"], [(self.bar(found, name) or (None,))[0] for name in ("a.example", "b.example", "c.example", "default")])

    def test_adopt(self) -> None:
        """New objects replace the old ones completely. The deny lists stay."""
        live = peers(a__example={"hold": "1m"})
        live.deny([DenyList("x", dict.fromkeys({"c.example"}))])
        policy(live, "c.example")
        before = live.adopt(PeerPolicies({"b.example": PeerObject(hold="2m")}, PeerPolicy(hold=7.0), listed_only=True))  # type: ignore[arg-type]
        self.assertEqual((7.0, 120.0), (policy(live, "a.example").hold, policy(live, "b.example").hold))
        self.assertEqual(("deny-listed", 7.0), (self.bar(live, "c.example")[0], policy(live, "c.example").hold))  # type: ignore[index]
        self.assertFalse(policy(live, "a.example").listed)
        self.assertEqual({"default"}, set(before))  # the policies that were requested


class ListedTests(SynchronousTestCase):
    """R14: an address or a single label may be a peer only if an object has exactly that name."""

    def test_listed(self) -> None:
        """An object of its own name lists it. A suffix or the default does not."""
        found = peers(default={}, localhost={}, any__example={})
        self.assertTrue(found.lists(Domain.parse("LOCALHOST")))
        for name in ("default", "a.example", "peer.test"):
            self.assertFalse(found.lists(Domain.parse(name)), name)


class ValueTests(SynchronousTestCase):
    """Tests of the conversion of text to values."""

    def refused(self, parse: Any, *texts: object) -> None:
        for text in texts:
            with self.assertRaises(ValueError, msg=repr(text)):
                parse(text)

    def test_durations(self) -> None:
        """A number with a unit is a duration in seconds. A number without a unit is refused."""
        spelt = {"20ms": 0.02, "30s": 30.0, "10m": 600.0, "1.5h": 5400.0, "2 d": 172800.0, "0s": 0.0}
        for text, seconds in spelt.items():
            self.assertAlmostEqual(seconds, values.parse_duration(text))
        self.refused(values.parse_duration, "10", 10, 1.5, "", "m", "-1s", "10 minutes", "1e3s", "٣s", True, None, ["10m"], "10m\n")

    def test_durations_written(self) -> None:
        """A duration is written in the largest unit that divides it, and reads back the same."""
        for text in ("20ms", "1s", "90s", "10m", "36h", "30d", "0.5ms", "1500ms"):
            self.assertEqual(text, values.format_duration(values.parse_duration(text)))
        self.assertEqual(("0s", "2m"), (values.format_duration(0), values.format_duration(120.0)))

    def test_sizes(self) -> None:
        """A whole number is bytes. Units are powers of 1000 or 1024 as written."""
        spelt = {"64MiB": 67108864, "4GiB": 4294967296, "512KiB": 524288, "1kB": 1000, "1.5MB": 1500000, "10B": 10, 0: 0, 7: 7}
        for text, size in spelt.items():
            self.assertEqual(size, values.parse_size(text))
        self.refused(values.parse_size, -1, True, 1.5, "64", "64mb", "MiB", None)

    def test_shares(self) -> None:
        """A share is a percentage."""
        for text, share in (("25%", 0.25), ("100 %", 1.0), ("0.5%", 0.005)):
            self.assertEqual(share, values.parse_share(text))
        self.refused(values.parse_share, "0%", "101%", "25", 25, 0.25, "-1%", "%", "1e1%", None)

    def test_domains(self) -> None:
        """All spellings of a domain give one value."""
        self.assertEqual(Domain.parse("bücher.example"), values.parse_domain("Xn--Bcher-Kva.example."))
        self.assertEqual("xn--bcher-kva.example", values.parse_domain_key("Bücher.example"))
        self.assertEqual("localhost.", values.parse_hostname("LocalHost"))
        self.refused(values.parse_domain, "", "a b", "-a.example", 5, None)

    def test_peer_names(self) -> None:
        """The name of a peer object is "default", a domain, or "*." and a domain."""
        for text, name in (("default", "default"), ("Friend.Example", "friend.example"), ("*.Bücher.example", "*.xn--bcher-kva.example")):
            self.assertEqual(name, values.parse_peer_name(text))
        self.refused(values.parse_peer_name, "*", "*.", "a.*.example", "*a.example", "", 1)

    def test_host_ports(self) -> None:
        """Names become A-labels, addresses their canonical form, and IPv6 addresses are in brackets."""
        for text, place in (
            ("127.0.0.1:5299", ("127.0.0.1", 5299)), ("[::0001]:53", ("::1", 53)), ("Bücher.example:1", ("xn--bcher-kva.example", 1)),
            ("localhost:65535", ("localhost", 65535)),
        ):
            self.assertEqual(place, values.parse_host_port(text))
        self.refused(
            values.parse_host_port, "a.example", "a.example:", ":5269", "a.example:0", "a.example:65536", "a.example:x", "a.example:-1",
            "::1", "[::1]", "[::1]:x", "a b:1", "a.example:٣", 5269, None,
        )

    def test_default_ports(self) -> None:
        """Without a port, a route has 5269 and a name server 53."""
        self.assertEqual("a.example:5269", values.parse_route("a.example"))
        self.assertEqual("[2001:db8::1]:5269", values.parse_route("[2001:DB8::1]"))
        self.assertEqual("a.example:5299", values.parse_route("a.example:5299"))
        self.assertEqual("127.0.0.1:53", values.parse_nameserver("127.0.0.1"))
        self.assertEqual("[::1]:53", values.parse_nameserver("::1"))
        self.assertEqual("[::1]:5300", values.parse_nameserver("[::1]:5300"))
        self.refused(values.parse_nameserver, "ns.example", "ns.example:53", 53)

    def test_view_address(self) -> None:
        """The DNS view has the address of one interface."""
        self.assertEqual(("127.53.0.1", 53), values.parse_view_address("127.53.0.1"))
        self.assertEqual(("::1", 5300), values.parse_view_address("[::1]:5300"))
        self.assertEqual(("192.0.2.1", 53), values.parse_view_address("192.0.2.1:53"))
        self.refused(values.parse_view_address, "[::]:53", "0.0.0.0:53", "localhost:53")

    def test_paths(self) -> None:
        """A relative path starts at the configuration's folder. An absolute one does not."""
        info: Any = SimpleNamespace(context={"folder": Path("/etc/s2sgw")})
        self.assertEqual(Path("/etc/s2sgw/certs"), values.parse_path("certs", info))
        self.assertEqual(Path("/srv/certs"), values.parse_path("/srv/certs", info))
        self.assertEqual(Path("certs"), values.parse_path("certs", SimpleNamespace(context=None)))
        for text in ("", 5, None):
            with self.assertRaises(ValueError):
                values.parse_path(text, info)

    def test_anchors(self) -> None:
        """Anchors are the system's, or at a path. "./system" is a path."""
        info: Any = SimpleNamespace(context={"folder": Path("/etc/s2sgw")})
        self.assertEqual("system", values.parse_anchors("system", info))
        self.assertEqual(Path("/etc/s2sgw/system"), values.parse_anchors("./system", info))

    def test_pins(self) -> None:
        """A pin has one spelling, whether it was given as hexadecimal, with colons, or as base64."""
        for text in (PIN, PIN.upper(), "sha256:" + ":".join(["AB"] * 32), "sha256:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="):
            self.assertEqual(PIN, values.parse_pin(text))
        self.refused(values.parse_pin, "ab" * 32, "sha512:" + "ab" * 32, "sha256:ab", None)
