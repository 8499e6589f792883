"""Tests of loading a configuration: one frozen Config, or all errors at once, each with its line, its key and a suggestion."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import Config, loading, parse
from s2sgw.config.cross_checks import tcp_place
from s2sgw.config.loading import SECTIONS
from s2sgw.config.password_hash import PasswordHash
from s2sgw.config.sections import Cluster
from s2sgw.policy import peer_pieces
from s2sgw.policy.model import PeerPolicy
from s2sgw.xmpp.jid import Domain
from tests.support.configurations import GATEWAY, ConfigTestCase

ROOT = Path(__file__).resolve().parents[3]


class DefaultTests(ConfigTestCase):
    """Of listed values the first is the default. An absent section counts as empty."""

    def test_contract(self) -> None:
        """Only the domains are required."""
        found = self.config()
        self.assertEqual((Domain.parse("example.org"),), found.gateway.domains)
        self.assertEqual(self.folder / "state", found.gateway.state)
        self.assertEqual([("tcp:5269", "starttls")], [(each.endpoint, each.tls) for each in found.listen])
        self.assertEqual((self.folder / "certs", "system", "1.2"), (found.tls.certificates, found.tls.trust_anchors, found.tls.minimum))
        self.assertEqual(((), False, "refuse", {}), (found.dns.servers, found.dns.trust_ad, found.dns.private_addresses, found.dns.static))
        self.assertEqual((600.0, 30.0, 64 * 2**20), (found.queue.hold, found.queue.iq_hold, found.queue.memory))
        self.assertEqual(("text", "info"), (found.log.format, found.log.level))
        (backend,) = found.backends
        self.assertEqual(
            ("s2s", (), ("127.0.0.1", 15269), "tcp:15270:interface=127.0.0.1", None, (), "localhost.", "required", "auto"),
            (backend.kind, backend.domains, backend.address, backend.listen, backend.dns_view, backend.forward, backend.target,
             backend.tls, backend.acks),
        )
        self.assertEqual(PeerPolicy(), found.policies.policy(Domain.parse("peer.example")))

    def test_empty_sections(self) -> None:
        """An empty section equals an absent one."""
        empty = "[listen]\n[tls]\n[dns]\n[backend]\n[queue]\n[log]\n[peers.default]\n"
        first, second = self.config(GATEWAY), self.config(GATEWAY + empty)
        for name in ("listen", "tls", "dns", "backends", "queue", "log"):
            self.assertEqual(getattr(first, name), getattr(second, name))

    def test_frozen(self) -> None:
        """A loaded configuration cannot be changed."""
        with self.assertRaises(ValidationError):
            self.config().queue.hold = 1.0

    def test_defaults_of_all_peers(self) -> None:
        """Keys that the default peer leaves out come from [tls] and [queue]."""
        found = self.config(
            GATEWAY + '[tls]\nminimum = "1.3"\ntrust_anchors = "certs"\n[queue]\nhold = "1h"\n[peers."a.example"]\nminimum = "1.2"\n',
        ).policies.policy(Domain.parse("a.example"))
        self.assertEqual(("1.3", self.folder / "certs", 3600.0), (found.minimum, found.trust_anchors, found.hold))


class ValueTests(ConfigTestCase):
    """Tests of the values of keys."""

    def test_backend_as_table_or_array(self) -> None:
        """One backend is a table or an array of one; several are an array."""
        single = self.config(GATEWAY + '[backend]\nkind = "echo"\n')
        array = self.config(GATEWAY + '[[backend]]\nkind = "echo"\n')
        self.assertEqual(single.backends, array.backends)

    def test_backend_for(self) -> None:
        """Each local domain has its backend. Another domain has none."""
        found = self.config(
            '[gateway]\ndomains = ["a.org", "b.org"]\n[[backend]]\ndomains = ["a.org"]\n[[backend]]\nkind = "echo"\ndomains = ["B.org"]\n',
        )
        a, b = found.backends
        self.assertIs(a, found.backend_for(Domain.parse("a.org")))
        self.assertIs(b, found.backend_for(Domain.parse("b.org")))
        self.assertIsNone(found.backend_for(Domain.parse("c.org")))
        self.assertEqual((Domain.parse("b.org"),), found.domains_of(b))
        alone = self.config()
        self.assertEqual(alone.gateway.domains, alone.domains_of(alone.backends[0]))

    def test_names_in_any_spelling(self) -> None:
        """Keys that are domains become A-labels, in any spelling."""
        found = self.config(GATEWAY + '[dns.static]\n"Bücher.example" = "127.0.0.1"\n[peers."*.Bücher.example"]\nallow = false\n')
        self.assertEqual({"xn--bcher-kva.example": "127.0.0.1:5269"}, found.dns.static)
        self.assertFalse(found.policies.policy(Domain.parse("a.xn--bcher-kva.example")).allow)

    def test_relative_paths(self) -> None:
        """Relative paths start at the file's folder."""
        (self.folder / "friend.crt").touch()
        (self.folder / "friend.key").touch()
        found = self.config(GATEWAY + '[peers."a.example"]\ncertificate = "friend"\ntrust_anchors = "certs"\n')
        peer = found.policies.policy(Domain.parse("a.example"))
        self.assertEqual((self.folder / "friend", self.folder / "certs"), (peer.certificate, peer.trust_anchors))

    def test_nameservers(self) -> None:
        """The configured name servers are used, otherwise the system's. Entries of the system that are not addresses are skipped."""
        self.assertEqual(("192.0.2.1:53", "[::1]:53"), self.config(system=("192.0.2.1", "::1", "nonsense")).nameservers)
        written = self.config(GATEWAY + '[dns]\nservers = ["127.0.0.1:5300"]\n', system=("192.0.2.1",))
        self.assertEqual(("127.0.0.1:5300",), written.nameservers)

    def test_endpoints(self) -> None:
        """Endpoint strings of every kind are accepted (`net.endpoint_strings`). Whether systemd passes one is checked at the start."""
        for endpoint in ("tcp:5269", "tcp6:5269:interface=\\\\:\\\\:1", "unix:/tmp/x", "systemd:domain=INET:index=0"):
            self.assertEqual([], self.with_gateway(f'[listen]\nendpoint = "{endpoint}"\n'))
        for endpoint, words in (("5269", 'write "tcp:5269"'), ("tls:5270", 'write endpoint = "tcp:5270" and tls = "direct"')):
            (complaint,) = self.with_gateway(f'[listen]\nendpoint = "{endpoint}"\n')
            self.assertIn("line 4: listen.endpoint: ", complaint)
            self.assertIn(words, complaint)
        self.assertEqual(
            ['line 4: listen.endpoint: must be an endpoint string such as "tcp:5269"'], self.with_gateway("[listen]\nendpoint = 5269\n"),
        )


class ConsoleTests(ConfigTestCase):
    """Tests of where the metrics are served."""

    def test_listen(self) -> None:
        """They are not served without an endpoint, and never on another listener's endpoint."""
        self.assertIsNone(self.config().console.listen)
        found = self.config(GATEWAY + '[console]\nlisten = "tcp:8269:interface=127.0.0.1"\n')
        self.assertEqual("tcp:8269:interface=127.0.0.1", found.console.listen)
        self.assertEqual(
            ["line 4: console.listen: uses the same address and port as listen[0].endpoint (tcp:5269)"],
            self.with_gateway('[console]\nlisten = "tcp:5269:interface=127.0.0.1"\n'),
        )
        self.assertEqual(
            ['line 4: console.lisen: there is no such key; did you mean "listen"?'], self.with_gateway('[console]\nlisen = "tcp:8269"\n'),
        )


class ConsoleAccessTests(ConfigTestCase):
    """Tests of the users of the console, and of their browsers."""

    def setUp(self) -> None:
        super().setUp()
        self.hash = PasswordHash(1 << 14, 8, 1, b"s" * 16, b"d" * 32).text()

    def test_users(self) -> None:
        """Users have hashes and roles. The host names for browsers are listed."""
        text = f'[console]\nhosts = ["Admin.example.org"]\n[console.users]\nalice = "{self.hash}"\n"b.c@d" = "{self.hash}"\n[console.roles]\nalice = "operator"\n'
        found = self.config(GATEWAY + text).console
        self.assertEqual((["alice", "b.c@d"], {"alice": "operator"}, ("admin.example.org.",)), (list(found.users), found.roles, found.hosts))
        self.assertEqual(self.hash, found.users["alice"].text())

    def test_bad_users(self) -> None:
        """Errors in users and roles are reported with their line. A secret written in their place is not shown."""
        text = '[console.users]\nalice = "secret"\n"a b" = "x"\n[console.roles]\nbob = "operator"\nalice = "admin"\n'
        found = self.with_gateway(text)
        self.assertEqual(
            ["line 4: console.users.alice", 'line 5: console.users."a b"', 'line 5: console.users."a b"', "line 8: console.roles.alice"],
            [": ".join(complaint.split(": ")[:2]) for complaint in found],
        )
        (role,) = self.with_gateway('[console.roles]\nbob = "operator"\n')
        self.assertIn("line 4: console.roles.bob: is no name among console.users", role)
        self.assertNotIn("secret", " ".join(found))

    def test_without_tls(self) -> None:
        """Without a certificate only loopback and UNIX sockets are permitted as listeners."""
        for endpoint in ("tcp:8269:interface=127.0.0.1", "tcp:8269:interface=localhost", r"tcp6:8269:interface=\\:\\:1", "unix:/run/x"):
            self.assertEqual([], self.with_gateway(f'[console]\nlisten = "{endpoint}"\n'), endpoint)
        for endpoint in ("tcp:8269", "tcp:8269:interface=0.0.0.0", "tcp:8269:interface=192.0.2.1", "systemd:name=console"):
            (found,) = self.with_gateway(f'[console]\nlisten = "{endpoint}"\n')
            self.assertIn("needs console.certificate", found)
        self.assertEqual(
            ["line 5: console.certificate: console.crt does not exist", "line 5: console.certificate: console.key does not exist"],
            self.with_gateway('[console]\nlisten = "tcp:8269"\ncertificate = "console"\n'),
        )


class NeutralTests(ConfigTestCase):
    """Tests of keys that are written with their default, and of unusual shapes."""

    def test_defaults_written_out(self) -> None:
        """A value that equals the default is accepted."""
        for text in (
            "[policy]\ndeny_lists = []\nallow_only_listed = false\n",
            "[peers.default]\ndeny_namespaces = []\nkinds = [\"message\", \"presence\", \"iq\"]\nlimits = { stanzas_per_second = 0, bytes_per_second = 0 }\n",
        ):
            self.assertEqual([], self.with_gateway(text))

    def test_values(self) -> None:
        """Each of the values of a key is accepted."""
        for text in ('[backend]\nacks = "tcp"\n', '[backend]\nacks = "ping"\n', '[backend]\nacks = "sm"\n', '[peers.default]\nunknown_issuer = "reject"\nresolve = "required"\n'):
            self.assertEqual([], self.with_gateway(text))

    def test_rest_of_policy(self) -> None:
        """An unknown key is reported as unknown."""
        self.assertEqual(
            ['line 4: policy.deny_list: there is no such key; did you mean "deny_lists"?'], self.with_gateway("[policy]\ndeny_list = []\n"),
        )
        self.assertEqual(["line 1: policy: must be a table"], self.complaints("policy = 1\n" + GATEWAY))

    def test_odd_shapes(self) -> None:
        """A value in place of a table is reported by the other checks."""
        self.assertEqual(["line 1: peers: must be a table"], self.complaints('peers = "x"\n' + GATEWAY))
        self.assertEqual(["line 1: peers: must be a table"], self.complaints("peers = [1]\n" + GATEWAY))
        self.assertEqual(["line 1: listen: must be an array, as in [\"…\"]"], self.complaints("listen = 1\n" + GATEWAY))
        self.assertEqual(["line 1: listen[0]: must be a table"], self.complaints("listen = [1]\n" + GATEWAY))


class PolicySectionTests(ConfigTestCase):
    """Tests of [policy]: which peers to federate with."""

    def test_sources(self) -> None:
        """Files are relative to the folder, https URLs stay as they are."""
        (self.folder / "deny.txt").touch()
        found = self.config(GATEWAY + '[policy]\ndeny_lists = ["deny.txt", "https://lists.example:8443/a?b=c"]\nrefresh = "2h"\n').policy
        self.assertEqual(((self.folder / "deny.txt", "https://lists.example:8443/a?b=c"), 7200.0), (found.deny_lists, found.refresh))

    def test_wrong(self) -> None:
        """Another scheme, a password, no host, a value that is not text, a missing or repeated file, and a refresh that is too frequent are errors."""
        (self.folder / "deny.txt").touch()
        for source in (
            "http://lists.example/", "ftp://x/y", "https:///x", "https://a:b@lists.example/", "https://lists.example:0/", "https://[::1/",
            "https://lists.example/a b", "https://bücher.example/",
        ):
            self.assertEqual(
                [f'line 4: policy.deny_lists[0]: must be a file or an https URL such as "https://lists.example/deny.txt", not "{source}"'],
                self.with_gateway(f'[policy]\ndeny_lists = ["{source}"]\n'),
            )
        self.assertEqual(["line 4: policy.deny_lists[0]: must be a path as a string"], self.with_gateway("[policy]\ndeny_lists = [1]\n"))
        self.assertEqual(["line 4: policy.deny_lists[0]: none.txt does not exist"], self.with_gateway('[policy]\ndeny_lists = ["none.txt"]\n'))
        self.assertEqual(
            ["line 4: policy.deny_lists[1]: deny.txt is listed twice"], self.with_gateway('[policy]\ndeny_lists = ["deny.txt", "deny.txt"]\n'),
        )
        self.assertEqual(["line 4: policy.refresh: must be at least 60.0, not \"1s\""], self.with_gateway('[policy]\nrefresh = "1s"\n'))

    def test_unknown(self) -> None:
        """A misspelled key is reported with a suggestion, also within the tables of a peer."""
        self.assertEqual(['line 4: policy.deny_list: there is no such key; did you mean "deny_lists"?'], self.with_gateway("[policy]\ndeny_list = []\n"))
        self.assertEqual(
            ['line 4: peers.default.features.smm: there is no such key; did you mean "sm"?'],
            self.with_gateway("[peers.default]\nfeatures = { smm = true }\n"),
        )
        self.assertEqual(
            ['line 4: peers.default.limits.stanzas_per_second.mesage: there is no such key; did you mean "message"?'],
            self.with_gateway("[peers.default]\nlimits = { stanzas_per_second = { mesage = 1 } }\n"),
        )


class LongTests(ConfigTestCase):
    """Tests of a long file, which is read in pieces."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(peer_pieces, "LONG", 0)
        #: the documents that were read as TOML
        self.documents: list[str] = []
        self.patch(loading, "tomllib", self)

    TOMLDecodeError = tomllib.TOMLDecodeError

    def loads(self, text: str) -> dict[str, Any]:
        self.documents.append(text)
        self.tree = tomllib.loads(text)
        self.names = list(self.tree.get("peers", {}))
        return self.tree

    def section(self, name: str, keys: str = 'hold = "1m"') -> str:
        return f'[peers."{name}.example"]\n{keys}\n'

    def test_equal_sections(self) -> None:
        """Equal sections are read once: apart from the first and the last, which stay in the rest, and those that differ."""
        sections = [self.section(f"p{number}", 'hold = "2m"' if number == 3 else 'hold = "1m"') for number in range(100)]
        peers = self.config(GATEWAY + "".join(sections)).peers
        self.assertEqual([GATEWAY + sections[0] + sections[99], sections[1], sections[3]], self.documents)
        self.assertEqual({f"p{number}.example": 120.0 if number == 3 else 60.0 for number in range(100)}, {name: each.hold for name, each in peers.items()})
        self.assertEqual(2, len({id(each) for each in peers.values()}))

    def test_remembered_sections(self) -> None:
        """The number of remembered sections is bounded."""
        self.patch(loading, "RECENT", 2)
        holds = ("1m", "1m", "2m", "1m", "3m", "4m", "4m", "1m", "1m")
        peers = self.config(GATEWAY + "".join(self.section(f"p{number}", f'hold = "{hold}"') for number, hold in enumerate(holds))).peers
        self.assertEqual([int(hold[0]) * 60.0 for hold in holds], [peers[f"p{number}.example"].hold for number in range(len(holds))])
        self.assertEqual([1, 2, 4, 5, 7], [int(each[9]) for each in self.documents[1:]])

    def test_tables_within(self) -> None:
        """A table within a section belongs to it."""
        within = self.section("b") + '[peers."b.example".limits]\nstreams = 2\n'
        peers = self.config(GATEWAY + self.section("a") + within + self.section("c") + within.replace('"b', '"d') + self.section("e")).peers
        self.assertEqual([{"hold"}, {"hold", "limits"}] * 2 + [{"hold"}], [peers[f"{name}.example"].model_fields_set for name in "abcde"])

    def test_nothing_is_kept(self) -> None:
        """Tables that cannot be cut leave memory one by one, and so do the names that were made among them."""
        peers = self.config(GATEWAY + '[peers]\n"one-of-two.example" = {hold = "1m"}\n"other-of-two.example" = {hold = "2m"}\n').peers
        self.assertEqual((["one-of-two.example", "other-of-two.example"], {}), (self.names, self.tree["peers"]))
        self.assertEqual((["one-of-two.example", "other-of-two.example"], set()), (list(peers), {id(each) for each in peers} & {id(each) for each in self.names}))

    def test_order(self) -> None:
        """Sections of peers may stand anywhere, and have any header."""
        text = self.section("a") + self.section("b") + self.section("c") + '[gateway]\ndomains = ["example.org"]\n'
        text += self.section("d") + self.section("e") + self.section("f") + "[peers.default]\nhold = \"1h\"\n[peers]\n\"G.example\" = {}\n"
        self.assertEqual({"default", *(f"{name}.example" for name in "abcdefg")}, set(self.config(text).peers))
        self.assertNotIn(text, self.documents)

    def test_errors(self) -> None:
        """An error in a piece is told as in a short file: the syntax, a second section of a peer, a value, a section that is unknown."""
        for bad, complaint in (
            (self.section("b", "hold = 1m"), 'line 6: put the value in quotes: hold = "1m"'),
            (self.section("a"), 'line 5: [peers."a.example"] stands here a second time (first on line 3)'),
            (self.section("A"), 'line 5: peers."A.example": is the same domain as "a.example"'),
            (self.section("C"), 'line 7: peers."c.example": is the same domain as "C.example"'),
            (self.section("b", 'hold = "1"'), 'line 6: peers."b.example".hold: must be a duration such as "10m" (units: ms, s, m, h, d)'),
            (self.section("b") + '  [queues]\n', 'line 7: queues: there is no such section; did you mean "queue"?'),
            (self.section("b", 'proofs = ["pkix"'), "line 7: is not valid TOML: Unclosed array"),
        ):
            text = self.section("a") + bad + self.section("c") + self.section("d")
            self.assertEqual([complaint], self.with_gateway(text), bad)


class ExampleTests(SynchronousTestCase):
    """Tests that the examples load."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        for each in ("examples/certs", "certs/gateway", "certs/ca", "examples/special"):
            (self.root / each).mkdir(parents=True)
        for each in ("certs/ca/ca.crt", "examples/special/friend.crt", "examples/special/friend.key", "examples/special/friend.crl"):
            (self.root / each).touch()
        for each in ("friend.secret", "router.secret"):
            (self.root / "examples/special" / each).write_text("correct horse battery staple\n")
            (self.root / "examples/special" / each).chmod(0o600)

    def load(self, name: str) -> Config:
        return parse((ROOT / "examples" / name).read_text("utf-8"), self.root / "examples" / name)

    def test_echo(self) -> None:
        """`make run` has loopback, ports above 1024, the echo backend and no DNS."""
        found = self.load("echo.toml")
        self.assertEqual(["echo"], [each.kind for each in found.backends])
        for each in found.listen:
            host, port = tcp_place(each.endpoint) or ("", 0)
            self.assertEqual("127.0.0.1", host)
            self.assertGreater(port, 1024)
        self.assertEqual("allow", found.dns.private_addresses)

    def test_prosody(self) -> None:
        """The example has a gateway in front of a Prosody, with a view for it."""
        self.assertIsNotNone(self.load("prosody.toml").backends[0].dns_view)

    def test_full(self) -> None:
        """The full example has every key, and each default that it shows is the default."""
        found = self.load("full.toml")
        tree: dict[str, Any] = tomllib.loads((ROOT / "examples" / "full.toml").read_text("utf-8"))
        self.assertEqual(set(SECTIONS) - {"cluster"}, set(tree))
        models = {"gateway": found.gateway, "listen": found.listen[0], "tls": found.tls, "dns": found.dns, "backend": found.backends[0],
                  "queue": found.queue, "log": found.log, "admin": found.admin}
        for name, model in models.items():
            written = {key for each in tree[name] for key in each} if isinstance(tree[name], list) else tree[name]
            self.assertEqual(set(type(model).model_fields), set(written), name)
        objects = tree["peers"].values()
        self.assertEqual(set(type(found.peers["default"]).model_fields), {key for each in objects for key in each})
        policy = found.policies.policy(Domain.parse("peer.test"))
        self.assertEqual(PeerPolicy(objects=("default",)), policy)
        minimal = parse(GATEWAY, self.root / "examples" / "s2sgw.toml")
        self.assertEqual((minimal.queue, minimal.log, minimal.tls, minimal.listen), (found.queue, found.log, found.tls, found.listen))

    def test_cluster(self) -> None:
        """The example of a node has every key of [cluster], and each default that it shows is the default."""
        for name in ("secret", "backend-ca.pem", "backend-ca.key"):
            (self.root / "examples/shared").mkdir(exist_ok=True)
            (self.root / "examples/shared" / name).touch()
        (self.root / "examples/engine-ca.pem").touch()
        credentials = self.root / "examples/engine.credentials"
        credentials.write_text("s2sgw:secret\n")
        credentials.chmod(0o600)
        found = self.load("cluster.toml").cluster
        self.assertEqual(set(type(found).model_fields), found.model_fields_set)
        self.assertEqual((Cluster().lease, Cluster().bridge), (found.lease, found.bridge))

    def test_documented(self) -> None:
        """docs/configuration.md describes every key."""
        text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
        found = self.load("full.toml")
        for key in Cluster.model_fields:
            self.assertIn(f"| `{key}` |", text.partition("## `[cluster]`")[2].partition("## ")[0])
        for model in (found.gateway, found.listen[0], found.tls, found.dns, found.backends[0], found.queue, found.log, found.admin, found.peers["default"]):
            for key in type(model).model_fields:
                self.assertRegex(text, rf"`(limits\.|static\.)?{key}", key)
