"""Tests of the differences between two configurations."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import parse
from s2sgw.config.diff import changes, unchangeable
from s2sgw.config.loading import SECTIONS

GATEWAY = '[gateway]\ndomains = ["example.org"]\n'


class ChangesTests(SynchronousTestCase):
    """Tests of the changes key by key."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "certs").mkdir(parents=True)

    def between(self, old: str, new: str, gateways: tuple[str, str] = (GATEWAY, GATEWAY)) -> dict[str, tuple[object, object]]:
        """Return the changes by key. Each text follows a valid [gateway]."""
        before, after = (parse(gateway + text, self.folder / "s2sgw.toml") for gateway, text in zip(gateways, (old, new), strict=True))
        found = changes(before, after)
        self.refused = unchangeable(found)
        return {change.key: (change.old, change.new) for change in found}

    def moved(self, old: str, new: str, before: str, after: str) -> list[str]:
        """Return the errors of a change of backends, with the local domains before and after."""
        self.between(old, new, (f"[gateway]\ndomains = {before}\n", f"[gateway]\ndomains = {after}\n"))
        return self.refused

    def test_cluster(self) -> None:
        """No key of the cluster can be reloaded, and the domains of its nodes cannot: all nodes have the same ones."""
        (self.folder / "shared").mkdir()
        for name in ("secret", "backend-ca.pem", "backend-ca.key"):
            (self.folder / "shared" / name).touch()
        text = (
            '[cluster]\nnode = "a"\nengine = ["nats://127.0.0.1"]\nlisten = "tcp:5271:interface=127.0.0.1"\n'
            'members = ["127.0.0.0/8"]\nshared = "shared"\n'
        )
        self.between(text, text.replace('"a"', '"b"'))
        self.assertEqual(["cluster.node: can change only at a restart"], self.refused)
        self.assertEqual(
            ["gateway.domains: can change only while all nodes of the cluster are stopped"],
            self.moved(text, text, '["a.example"]', '["b.example"]'),
        )
        self.assertEqual([], self.moved("", "", '["a.example"]', '["b.example"]'))

    def test_nothing(self) -> None:
        """A default that is written out, another order, or another spelling changes nothing."""
        self.assertEqual({}, self.between("", '[queue]\nhold = "600s"\n[tls]\nminimum = "1.2"\n'))
        self.assertEqual({}, self.between(
            '[peers."A.Example"]\nallow = false\n[peers.default]\nhold = "1m"\n', '[peers.default]\nhold = "60s"\n[peers."a.example."]\nallow = false\n',
        ))

    def test_values(self) -> None:
        """A changed, an added and a removed value are reported, also within tables."""
        self.assertEqual(
            {
                "tls.minimum": ("1.2", "1.3"), "queue.iq_hold": ("30s", "10s"), "policy.allow_only_listed": (False, True),
                "peers.default.limits.bytes_per_second": (1000, 2000), 'peers."a.example".allow': (False, None),
                'peers."*.b.example".pins': (None, ["sha256:" + "ab" * 32]),
            },
            self.between(
                '[peers.default.limits]\nbytes_per_second = 1000\n[peers."a.example"]\nallow = false\n',
                '[peers.default.limits]\nbytes_per_second = 2000\n[peers."*.b.example"]\npins = ["sha256:' + "ab" * 32 + '"]\n'
                '[tls]\nminimum = "1.3"\n[queue]\niq_hold = "10s"\n[policy]\nallow_only_listed = true\n',
            ),
        )
        self.assertEqual([], self.refused)

    def test_many_peers(self) -> None:
        """Unchanged peers are not reported, however many. A peer that is only written differently is unchanged."""
        peers = "".join(f'[peers."{number}.example"]\nhold = "60s"\n' for number in range(100))
        self.assertEqual(
            {'peers."5.example".hold': ("1m", "30s")},
            self.between(peers, peers.replace('"5.example"]\nhold = "60s"', '"5.example"]\nhold = "30s"').replace("60s", "1m")),
        )

    def test_shared_objects(self) -> None:
        """Equal sections share an object. Each peer is reported with its own changes."""
        old = "".join(f'[peers."{name}.example"]\nhold = "1m"\n[peers."{name}.example".limits]\nstreams = 2\n' for name in "abc")
        new = '[peers."a.example"]\nhold = "1m"\n[peers."b.example"]\nhold = "1m"\n[peers."d.example"]\nhold = "1m"\n'
        self.assertEqual(
            {
                **{f'peers."{name}.example".limits.streams': (2, None) for name in "abc"},
                'peers."c.example".hold': ("1m", None), 'peers."d.example".hold': (None, "1m"),
            },
            self.between(old, new),
        )

    def test_units(self) -> None:
        """Durations, sizes and shares are reported as the file writes them, also those of peers."""
        self.assertEqual(
            {
                "queue.hold": ("40s", "41s"), "queue.memory": ("256MiB", 1000000), "peers.default.hold": (None, "1h"),
                "limits.unproven": ("20%", "30%"),
            },
            self.between(
                '[queue]\nhold = "40s"\nmemory = "256MiB"\n[limits]\nunproven = "20%"\n',
                '[queue]\nhold = "41s"\nmemory = 1000000\n[peers.default]\nhold = "1h"\n[limits]\nunproven = "30%"\n',
            ),
        )

    def test_one_value_in_two_spellings(self) -> None:
        """Another spelling of the same value is no change."""
        self.assertEqual({}, self.between('[queue]\nhold = "40s"\nmemory = 1048576\n', '[queue]\nhold = "40000ms"\nmemory = "1MiB"\n'))

    def test_empty_objects(self) -> None:
        """An object without keys is a change too: it lists a peer."""
        self.assertEqual({'peers."a.example"': (None, {})}, self.between("", '[peers."a.example"]\n'))
        self.assertEqual({'peers."a.example".allow': (None, True), 'peers."a.example"': ({}, None)}, self.between(
            '[peers."a.example"]\n', '[peers."a.example"]\nallow = true\n',
        ))

    def test_unchangeable(self) -> None:
        """Keys of objects that are built once need a restart, and are reported each. Listeners, DNS and log do not."""
        self.between("", (
            '[[listen]]\nendpoint = "tcp:5270"\n[[listen]]\nendpoint = "tcp:5271"\ntls = "direct"\n[dns]\nservers = ["192.0.2.1"]\n'
            '[backend]\naddress = "192.0.2.2:5269"\n[log]\nlevel = "debug"\n[queue]\nmemory = "1MiB"\nhold = "1m"\n'
        ))
        self.assertEqual(["queue.memory: can change only at a restart"], self.refused)

    def test_console(self) -> None:
        """Every key of the console can change while the gateway runs."""
        console = '[console]\nlisten = "tcp:8269:interface=127.0.0.1"\nhosts = ["a.example"]\n'
        for old, new in (("", console), (console, "")):
            self.assertIn("console.listen", self.between(old, new))
            self.assertEqual([], self.refused)

    def test_domains(self) -> None:
        """Domains may be added and given up while the gateway runs."""
        one, two = '["a.example"]', '["a.example", "b.example"]'
        self.assertEqual([], self.moved("", "", one, two))
        self.assertEqual([], self.moved("", "", two, one))

    def test_backends(self) -> None:
        """Every key of an XMPP server behind the gateway can change while it runs. Servers may be added and removed, and domains moved."""
        one = '[[backend]]\ndomains = ["example.org"]\ndns_view = "127.53.0.1:53"\n'
        self.between(one, one + 'address = "127.0.0.1:5555"\ntls = "never"\nforward = ["192.0.2.1"]\n')
        self.assertEqual([], self.refused)
        changed = self.between(one, one.replace("127.53.0.1", "127.53.0.2") + 'listen = "tcp:15271"\n')
        self.assertEqual({"backend[0].dns_view", "backend[0].listen"}, set(changed))
        self.assertEqual([], self.refused)
        both, alone = '["a.example", "b.example"]', '[[backend]]\ndomains = ["a.example", "b.example"]\n'
        second = '[[backend]]\ndomains = ["b.example"]\nlisten = "tcp:15271"\naddress = "127.0.0.1:15299"\n'
        two = '[[backend]]\ndomains = ["a.example"]\n' + second
        self.assertEqual([], self.moved(alone, two, both, both))
        self.assertEqual([], self.moved(two, alone, both, both))
        first_goes = second.replace('["b.example"]', '["a.example", "b.example"]')
        self.assertEqual([], self.moved(two, first_goes, both, both))

    def test_other_backends(self) -> None:
        """The echo and routers may be added, removed and changed, and domains moved between backends of any kind."""
        one, two = '["a.example"]', '["a.example", "b.example"]'
        echo, server = '[[backend]]\nkind = "echo"\ndomains = {}\n', '[[backend]]\ndomains = {}\n'
        (self.folder / "secret").write_text("s")
        (self.folder / "secret").chmod(0o600)
        router = f'[[backend]]\nkind = "jabberd2-router"\nsecret_file = "{self.folder}/secret"\ndomains = {{}}\n'
        for before in (echo, server, router):
            for after in (echo, server, router):
                self.assertEqual([], self.moved(before.format(one), after.format(two), one, two))
                if before is not after:
                    self.assertEqual([], self.moved(before.format(one) + after.format('["b.example"]'), after.format(one), two, one))
        self.assertEqual([], self.moved(router.format(one), router.format(one) + 'user = "other"\n', one, one))

    def test_every_section_is_looked_at(self) -> None:
        """No section is left out: each is an attribute of the configuration."""
        config = parse(GATEWAY, self.folder / "s2sgw.toml")
        for name in SECTIONS:
            self.assertTrue(hasattr(config, "backends" if name == "backend" else name), name)
