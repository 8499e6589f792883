"""The configuration: one frozen Config, or all complaints at once, each with its line, its key and a suggestion."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic import ValidationError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import Config, ConfigError, load, parse
from s2sgw.config.cross_checks import certificate_files, tcp_place
from s2sgw.config.errors import Complaint, TOMLSource, key_text, suggest, translate, value_text
from s2sgw.config.loading import SECTIONS
from s2sgw.config.password_hash import PasswordHash
from s2sgw.policy.model import PeerPolicy
from s2sgw.xmpp.jid import Domain

ROOT = Path(__file__).resolve().parents[3]
GATEWAY = '[gateway]\ndomains = ["example.org"]\n'
PIN = "sha256:" + "ab" * 32


class ConfigTestCase(SynchronousTestCase):
    """A folder with what a configuration needs beside it."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "certs").mkdir(parents=True)

    def config(self, text: str = GATEWAY, system: tuple[str, ...] = ()) -> Config:
        return parse(text, self.folder / "s2sgw.toml", system_nameservers=system)

    def complaints(self, text: str, system: tuple[str, ...] = ()) -> list[str]:
        """What is wrong with `text`, the folder cut out."""
        try:
            self.config(text, system)
        except ConfigError as error:
            return [each.replace(f"{self.folder}/", "") for each in error.complaints]
        return []

    def with_gateway(self, text: str, system: tuple[str, ...] = ()) -> list[str]:
        """What is wrong with `text` behind a sound [gateway] of two lines."""
        return self.complaints(GATEWAY + text, system)


class DefaultTests(ConfigTestCase):
    """Where values are listed, the first is the default; a section that is left out counts as empty."""

    def test_contract(self) -> None:
        """Nothing but the domains is required."""
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
        """An empty section is a section left out."""
        empty = "[listen]\n[tls]\n[dns]\n[backend]\n[queue]\n[log]\n[peers.default]\n"
        first, second = self.config(GATEWAY), self.config(GATEWAY + empty)
        for name in ("listen", "tls", "dns", "backends", "queue", "log"):
            self.assertEqual(getattr(first, name), getattr(second, name))

    def test_frozen(self) -> None:
        """What was loaded does not change."""
        with self.assertRaises(ValidationError):
            self.config().queue.hold = 1.0

    def test_defaults_of_all_peers(self) -> None:
        """What the default peer leaves out comes from [tls] and [queue]."""
        found = self.config(
            GATEWAY + '[tls]\nminimum = "1.3"\ntrust_anchors = "certs"\n[queue]\nhold = "1h"\n[peers."a.example"]\nminimum = "1.2"\n',
        ).policies.policy(Domain.parse("a.example"))
        self.assertEqual(("1.3", self.folder / "certs", 3600.0), (found.minimum, found.trust_anchors, found.hold))


class ValueTests(ConfigTestCase):
    """What is written is what is meant."""

    def test_backend_as_table_or_array(self) -> None:
        """One backend is a table or an array of one, several are an array."""
        single = self.config(GATEWAY + '[backend]\nkind = "echo"\n')
        array = self.config(GATEWAY + '[[backend]]\nkind = "echo"\n')
        self.assertEqual(single.backends, array.backends)

    def test_backend_for(self) -> None:
        """Each local domain has its backend, another domain has none."""
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
        """Keys that are domains end up as A-labels, whatever their spelling."""
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
        """The configured name servers, or else the system's; what is no address in the system's list is passed over."""
        self.assertEqual(("192.0.2.1:53", "[::1]:53"), self.config(system=("192.0.2.1", "::1", "nonsense")).nameservers)
        written = self.config(GATEWAY + '[dns]\nservers = ["127.0.0.1:5300"]\n', system=("192.0.2.1",))
        self.assertEqual(("127.0.0.1:5300",), written.nameservers)

    def test_endpoints(self) -> None:
        """Endpoint strings of every kind (`net.endpoint_strings`); whether systemd hands one over is seen at the start."""
        for endpoint in ("tcp:5269", "tcp6:5269:interface=\\\\:\\\\:1", "unix:/tmp/x", "systemd:domain=INET:index=0"):
            self.assertEqual([], self.with_gateway(f'[listen]\nendpoint = "{endpoint}"\n'))
        for endpoint, words in (("5269", 'write "tcp:5269"'), ("tls:5270", 'write endpoint = "tcp:5270" and tls = "direct"')):
            (complaint,) = self.with_gateway(f'[listen]\nendpoint = "{endpoint}"\n')
            self.assertIn("line 4: listen.endpoint: ", complaint)
            self.assertIn(words, complaint)
        self.assertEqual(
            ['line 4: listen.endpoint: must be an endpoint string such as "tcp:5269"'], self.with_gateway("[listen]\nendpoint = 5269\n"),
        )


class ComplaintTests(ConfigTestCase):
    """What a complaint says."""

    def test_all_at_once(self) -> None:
        """Faults of every kind, in every section, are told together, in the order of the file."""
        text = (
            '[gateway]\ndomains = ["example.org", "example.org"]\n'  # 1, 2
            '[[listen]]\ntls = "drect"\nproxy_protocol = "v2"\n'  # 3-5
            '[tls]\ncertificate = "x"\n'  # 6, 7
            '[dns]\nservers = ["ns.example"]\n'  # 8, 9
            '[backend]\nacks = "udp"\nlisten = "tcp:x"\n'  # 10-12
            '[queue]\nhold = 10\ndurability = "always"\n'  # 13-15
            '[peers.default]\nlimits = { stanza_bytes = 1, streems = 2 }\nallow = "yes"\n'  # 16-18
            '[peers."*.example.net"]\nproofs = "pkix"\nsecret_file = "x"\n'  # 19-21
            "[consle]\n"  # 22
        )
        self.assertEqual(
            [
                'line 2: gateway.domains[1]: "example.org" is listed twice',
                'line 4: listen[0].tls: must be "starttls" or "direct", not "drect"',
                'line 5: listen[0].proxy_protocol: must be true or false',
                'line 7: tls.certificate: there is no such key; did you mean "certificates"?',
                'line 9: dns.servers[0]: must be an IP address with an optional port, not "ns.example"',
                'line 11: backend.acks: must be "auto", "sm", "ping" or "tcp", not "udp"',
                'line 12: backend.listen: "tcp:x": port must be a number, not "x"',
                'line 14: queue.hold: must be a duration such as "10m" (units: ms, s, m, h, d)',
                'line 15: queue.durability: must be "power-loss" or "crash", not "always"',
                "line 17: peers.default.limits.stanza_bytes: must be at least 10000, not 1",
                'line 17: peers.default.limits.streems: there is no such key; did you mean "streams"?',
                "line 18: peers.default.allow: must be true or false",
                'line 20: peers."*.example.net".proofs: must be an array, as in ["…"]',
                'line 21: peers."*.example.net".secret_file: x does not exist',
                'line 22: consle: there is no such section; did you mean "console"?',
            ],
            self.complaints(text),
        )

    def test_agreement_beside_faults(self) -> None:
        """A fault in one section hides no disagreement between others."""
        self.assertEqual(
            [
                'line 2: gateway.domains[0]: no backend serves "example.org"',
                'line 4: log.level: must be "info", "debug", "warn", "error" or "critical", not "loud"',
                'line 6: backend.domains[0]: "chat.net" is not among gateway.domains; known here: example.org',
            ],
            self.with_gateway('[log]\nlevel = "loud"\n[backend]\ndomains = ["chat.net"]\n'),
        )

    def test_files_beside_faults(self) -> None:
        """A fault in a section hides no missing file that the section names, and no key is complained of twice."""
        text = (
            '[gateway]\ndomains = ["example.org", ""]\nstate = "taken"\n'  # 1-3
            '[tls]\ncertificates = 5\nminimum = "1.1"\ntrust_anchors = "ca.pem"\n'  # 4-7
            '[peers.default]\ncrl = "revoked"\nlimits = { streams = 0, stanzas_per_second = -1 }\n'  # 8-10
            '[peers."bad peer"]\ncrl = "others"\n'  # 11, 12
        )
        (self.folder / "taken").touch()
        self.assertEqual(
            [
                'line 2: gateway.domains[1]: "" is not a domain name: it is empty',
                "line 3: gateway.state: taken is not a directory",
                "line 5: tls.certificates: must be a path as a string",
                'line 6: tls.minimum: must be "1.2" or "1.3", not "1.1"',
                "line 7: tls.trust_anchors: ca.pem does not exist",
                "line 9: peers.default.crl: revoked does not exist",
                "line 10: peers.default.limits.stanzas_per_second.total: must be at least 0, not -1",
                "line 10: peers.default.limits.streams: must be at least 1, not 0",
                'line 11: peers."bad peer": "bad peer" is not a domain name: labels are 1-63 letters, digits and hyphens',
            ],
            self.complaints(text),
        )

    def test_required(self) -> None:
        """The domains are required; the complaint has no line where there is none."""
        self.assertEqual(["gateway.domains: is missing"], self.complaints(""))
        self.assertEqual(["line 1: gateway.domains: is missing"], self.complaints("[gateway]\n"))
        self.assertEqual(["line 2: gateway.domains: must not be empty"], self.complaints("[gateway]\ndomains = []\n"))

    def test_types(self) -> None:
        """A value of another type is told what it must be."""
        for text, complaint in (
            ("[listen]\ntls = 1\n", 'line 4: listen.tls: must be "starttls" or "direct", not 1'),
            ('[dns]\nstatic = "x"\n', "line 4: dns.static: must be a table"),
            ('[peers]\nx = "y"\n', "line 4: peers.x: must be a table"),
            ("[peers.x]\nlimits = { streams = 1.5 }\n", "line 4: peers.x.limits.streams: must be a whole number"),
            ("[tls]\ncertificates = 1\n", "line 4: tls.certificates: must be a path as a string"),
            ("[peers.x]\npins = [1]\n", 'line 4: peers.x.pins[0]: must be a string "sha256:…"'),
            ('[peers."a b"]\n', 'line 3: peers."a b": "a b" is not a domain name: labels are 1-63 letters, digits and hyphens'),
            ("[limits]\nconnections = 0\n", "line 4: limits.connections: must be at least 1, not 0"),
            ("[limits]\nunproven = 9\n", 'line 4: limits.unproven: must be a percentage above "0%" and up to "100%", such as "25%"'),
            ('[limits]\nunproven = "101%"\n', 'line 4: limits.unproven: must be a percentage above "0%" and up to "100%", such as "25%"'),
            ('[limits]\nnegotiation = "4s"\n', 'line 4: limits.negotiation: must be a duration from "5s" to "5m"'),
            ("[backend]\ndns_view = \"192.0.2.1\"\n", 'line 4: backend.dns_view: must be a loopback address such as "127.53.0.1:53", not "192.0.2.1"'),
        ):
            self.assertEqual([complaint], self.with_gateway(text))
        self.assertEqual(["line 1: queue: must be a table"], self.complaints('queue = "x"\n' + GATEWAY))

    def test_suggestion(self) -> None:
        """For a word that is like none, the known ones are listed."""
        (complaint,) = self.with_gateway("[log]\nxyz = 1\n")
        self.assertEqual("line 4: log.xyz: there is no such key; known here: format, level", complaint)
        self.assertEqual('did you mean "tls"?', suggest("tsl", ["tls", "dns"]))

    def test_domain_without_quotes(self) -> None:
        """[peers.friend.example] is taken for a key of a peer "friend": the quotes are asked for, also for longer names."""
        for header, name in (("friend.example", "friend.example"), ("a.b.example", "a.b.example"), ("muc.friend.example.limits", "muc.friend.example")):
            self.assertEqual([f'line 3: peers.{name}: write [peers."{name}"]: a domain needs quotes here'], self.with_gateway(f"[peers.{header}]\n"))
        self.assertIn("there is no such key", self.with_gateway("[peers.default]\nfrobnicate = 1\n")[0])

    def test_byte_order_mark(self) -> None:
        """A file with a byte order mark, as some editors write it, is read."""
        path = self.folder / "bom.toml"
        path.write_text('[gateway]\ndomains = ["example.org"]\n[tls]\ncertificates = "."\n', "utf-8-sig")
        self.assertEqual("example.org", str(load(path).gateway.domains[0]))

    def test_not_toml(self) -> None:
        """A file that is no TOML is told where."""
        (complaint,) = self.complaints("[gateway\n")
        self.assertRegex(complaint, r"line 1: is not valid TOML: ")

    def test_words(self) -> None:
        """The exception in words names the file, and each complaint on a line of its own."""
        with self.assertRaises(ConfigError) as caught:
            self.config("[gateway]\nx = 1\n")
        path = self.folder / "s2sgw.toml"
        self.assertEqual(
            f"{path} cannot be used:\n  line 1: gateway.domains: is missing\n"
            "  line 2: gateway.x: there is no such key; known here: domains, source_addresses, state",
            str(caught.exception),
        )
        self.assertEqual(path, caught.exception.path)

    def test_other_findings(self) -> None:
        """A finding that we have no words for keeps pydantic's."""
        self.assertEqual("Odd", translate({"type": "odd", "input": 1, "loc": ("x",), "msg": "Odd"}, ()))

    def test_long_values(self) -> None:
        """A value is spelt as TOML spells it, and cut short."""
        self.assertEqual(("true", '"x"', "[1]"), (value_text(True), value_text("x"), value_text([1])))
        self.assertEqual(58, len(value_text("x" * 200)))


class SourceTests(SynchronousTestCase):
    """Where a key stands in the text."""

    TEXT = '''\
top = 1
[gateway] # comment
domains = [
  "a.example", # not = a key
]
text = """
domains = 5
[[listen]]
"""
[[listen]]
endpoint = "x"
[[listen]]
"end\\"point" = "y"
[peers."*.example.net"]
limits = { streams = 1 }
limits2.'a b' . c = 2
'''

    def test_lines(self) -> None:
        """Tables, arrays of tables, quoted and dotted keys; what is inside a value is found by its key."""
        tomllib.loads(self.TEXT)
        source = TOMLSource(self.TEXT)
        for path, line in (
            (("top",), 1), (("gateway",), 2), (("gateway", "domains"), 3), (("gateway", "domains", 0), 3), (("gateway", "text"), 6),
            (("listen", 0), 10), (("listen", 0, "endpoint"), 11), (("listen", 1, "tls"), 12), (("listen", 1, 'end"point'), 13),
            (("peers", "*.example.net", "limits", "streams"), 15), (("peers", "*.example.net", "limits2", "a b", "c"), 16),
            (("nowhere", "at", "all"), None), ((), None),
        ):
            self.assertEqual(line, source.line(path), path)

    def test_show(self) -> None:
        """A key is shown as TOML spells it."""
        self.assertEqual('listen[1].tls', key_text(("listen", 1, "tls")))
        self.assertEqual('peers."a.example".tls', key_text(("peers", "a.example", "tls")))

    def test_whole_file(self) -> None:
        """A complaint about the file has neither key nor line."""
        self.assertEqual("is odd", TOMLSource("").tell(Complaint((), "is odd")))


class AgreementTests(ConfigTestCase):
    """What must agree across keys."""

    def test_domains_without_backend(self) -> None:
        """Each local domain has a backend."""
        self.assertEqual(
            ['line 2: gateway.domains[1]: no backend serves "b.org"'],
            self.complaints('[gateway]\ndomains = ["a.org", "b.org"]\n[backend]\ndomains = ["a.org"]\n'),
        )

    def test_backend_domains(self) -> None:
        """No backend has a domain that is not local, or another's."""
        self.assertEqual(
            [
                'line 4: backend[0].domains[0]: "example.com" is not among gateway.domains; did you mean "example.org"?',
                'line 7: backend[1].domains[0]: "example.org" is served by backend[0] already',
            ],
            self.with_gateway(
                '[[backend]]\ndomains = ["example.com", "example.org"]\n[[backend]]\nkind = "echo"\ndomains = ["example.org"]\n',
            ),
        )

    def test_several_backends_say_their_domains(self) -> None:
        """Of several backends none serves all."""
        self.assertEqual(
            ["line 5: backend[1].domains: is missing: with several backends, each one must list its domains"],
            self.with_gateway('[[backend]]\ndomains = ["example.org"]\n[[backend]]\nkind = "echo"\n'),
        )

    def test_echo_keys(self) -> None:
        """The echo backend connects nowhere."""
        self.assertEqual(
            ['line 5: backend.address: has no effect for a backend of kind "echo"', 'line 6: backend.dns_view: has no effect for a backend of kind "echo"'],
            self.with_gateway('[backend]\nkind = "echo"\naddress = "127.0.0.1:1"\ndns_view = "127.0.0.1"\n'),
        )

    def test_router_keys(self) -> None:
        """jabberd2's router: on loopback, by a secret, without extensions; where it listens by default; all complaints at once."""
        self.assertEqual(
            [
                'line 3: backend.secret_file: is missing: the file with the user\'s secret in jabberd2\'s router-users.xml',
                "line 5: backend.address: must be on loopback: the connection to jabberd2's router is not encrypted",
                'line 6: backend.listen: has no effect for a backend of kind "jabberd2-router"',
                'line 7: backend.tls: has no effect for a backend of kind "jabberd2-router"',
                'line 8: backend.acks: must be "ping" or "tcp": jabberd2\'s router does not speak XEP-0198',
            ],
            sorted(self.with_gateway(
                '[backend]\nkind = "jabberd2-router"\naddress = "192.0.2.1:5347"\nlisten = "tcp:1"\ntls = "never"\nacks = "sm"\n',
            )),
        )

    def test_router_secret(self) -> None:
        """The secret's file is for its owner alone; a user is one word."""
        file = Path(self.mktemp()).absolute()
        file.write_text("sesame\n")
        file.chmod(0o644)
        found = self.with_gateway(f'[backend]\nkind = "jabberd2-router"\nsecret_file = "{file}"\nuser = "a b"\n')
        self.assertEqual(2, len(found))
        self.assertIn("is readable or writable by other users", found[0] + found[1])
        file.chmod(0o600)
        backend = self.config(GATEWAY + f'[backend]\nkind = "jabberd2-router"\nsecret_file = "{file}"\n').backends[0]
        self.assertEqual(("127.0.0.1:5347", "s2s"), (str(backend.address), backend.user))

    def test_one_default_route(self) -> None:
        """A router has one; what is the router's means nothing elsewhere."""
        file = Path(self.mktemp()).absolute()
        file.write_text("sesame")
        file.chmod(0o600)
        table = f'[[backend]]\nkind = "jabberd2-router"\nsecret_file = "{file}"\ndomains = '
        found = self.complaints(GATEWAY.replace('"]', '", "b.example"]') + table + '["example.org"]\n' + table + '["b.example"]\n')
        self.assertEqual(1, len(found))
        self.assertIn("is already the router of backend[0]", found[0])
        self.assertIn("has an effect only for", self.with_gateway('[backend]\nuser = "x"\n')[0])

    def test_view_keys(self) -> None:
        """What belongs to the view needs the view."""
        self.assertEqual(
            ["line 4: backend.forward: has no effect without dns_view", "line 5: backend.target: has no effect without dns_view"],
            self.with_gateway('[backend]\nforward = ["192.0.2.1"]\ntarget = "here."\n'),
        )

    def test_impossible_ports(self) -> None:
        """A port that cannot be opened is told before any other is."""
        self.assertEqual(
            [
                'line 4: listen[0].endpoint: "tcp:99999": there is no port 99999 (0 to 65535)',
                'line 6: backend.listen: "tcp:-1:interface=127.0.0.1": port must be a number, not "-1"',
                'line 8: console.listen: "tcp:65536": there is no port 65536 (0 to 65535)',
            ],
            self.with_gateway(
                '[[listen]]\nendpoint = "tcp:99999"\n[backend]\nlisten = "tcp:-1:interface=127.0.0.1"\n'
                '[console]\nlisten = "tcp:65536"\n'
            ),
        )

    def test_shared_listeners(self) -> None:
        """No two listeners on one endpoint, however it is spelt; another interface or any free port is no clash."""
        self.assertEqual(
            ["line 6: listen[1].endpoint: uses the same address and port as listen[0].endpoint (tcp:5269)"],
            self.with_gateway('[[listen]]\nendpoint = "tcp:5269"\n[[listen]]\nendpoint = "tcp:port=5269:interface=127.0.0.1"\ntls = "direct"\n'),
        )
        self.assertEqual(
            ["line 6: backend.listen: uses the same address and port as listen.endpoint (tcp:7000:interface=127.0.0.1)"],
            self.with_gateway('[listen]\nendpoint = "tcp:7000:interface=127.0.0.1"\n[backend]\nlisten = "tcp:7000:interface=127.0.0.1"\n'),
        )
        self.assertEqual(
            ["line 6: listen[1].endpoint: uses the same address and port as listen[0].endpoint (unix:/a)"],
            self.with_gateway('[[listen]]\nendpoint = "unix:/a"\n[[listen]]\nendpoint = "unix:/a"\n'),
        )
        for one, other in (
            ("tcp:5269:interface=127.0.0.1", "tcp:5269:interface=127.0.0.2"), ("tcp:0", "tcp:0"), ("tcp:5269", "tcp:5270"),
            ("unix:/a", "tcp:5269"), ("tcp:5269:interface=0.0.0.0", "tcp6:5269"),
        ):
            self.assertEqual([], self.with_gateway(f'[[listen]]\nendpoint = "{one}"\n[[listen]]\nendpoint = "{other}"\n'))

    def test_echo_listens_nowhere(self) -> None:
        """The default listener of an echo backend takes no port."""
        self.assertEqual([], self.with_gateway('[listen]\nendpoint = "tcp:15270"\n[backend]\nkind = "echo"\n'))

    def test_shared_views(self) -> None:
        """Two backends have two views."""
        self.assertEqual(
            ["line 10: backend[1].dns_view: is already used by backend[0]"],
            self.complaints(
                '[gateway]\ndomains = ["a.org", "b.org"]\n[[backend]]\ndomains = ["a.org"]\ndns_view = "127.53.0.1"\n'
                '[[backend]]\ndomains = ["b.org"]\nlisten = "tcp:7000"\naddress = "127.0.0.1:7001"\ndns_view = "127.53.0.1:53"\n',
            ),
        )

    def test_backend_is_not_the_gateway(self) -> None:
        """The server's address leads to the server, not back to us."""
        for address, listen in (
            ("127.0.0.1:5269", "tcp:5269"), ("localhost:5269", "tcp:5269"), ("192.0.2.1:5269", "tcp:5269:interface=192.0.2.1"),
            ("[::1]:5269", "tcp6:5269"),
        ):
            self.assertEqual(
                ["line 6: backend.address: is an address of the gateway itself (listen.endpoint)"],
                self.with_gateway(f'[listen]\nendpoint = "{listen}"\n[backend]\naddress = "{address}"\n'),
            )
        for address, listen in (
            ("192.0.2.1:5269", "tcp:5269"), ("server.example:5269", "tcp:5269"), ("127.0.0.1:5269", "tcp:5269:interface=127.0.0.2"),
            ("127.0.0.1:5269", "unix:/a"),
        ):
            self.assertEqual([], self.with_gateway(f'[listen]\nendpoint = "{listen}"\n[backend]\naddress = "{address}"\n'))

    def test_asking_the_view(self) -> None:
        """The gateway's own resolver is never the view, be it configured or the system's."""
        view = '[backend]\ndns_view = "127.53.0.1"\n'
        self.assertEqual(
            ["line 6: dns.servers[1]: is backend.dns_view: the gateway would query itself"],
            self.with_gateway(view + '[dns]\nservers = ["192.0.2.1", "127.53.0.1:53"]\n'),
        )
        self.assertEqual(
            [
                "line 4: backend.dns_view: 127.53.0.1:53 is also the system's name server, so the gateway would query itself: "
                "set dns.servers to other name servers, or use the view only for your server"
            ],
            self.with_gateway(view, ("192.0.2.1", "127.53.0.1")),
        )
        self.assertEqual([], self.with_gateway(view + '[dns]\nservers = ["192.0.2.1"]\n', ("127.53.0.1",)))
        self.assertEqual([], self.with_gateway(view, ("127.0.0.53",)))

    def test_view_asking_itself(self) -> None:
        """The view forwards to no view of ours."""
        self.assertEqual(
            ["line 5: backend.forward[0]: is a dns_view of the gateway: it would query itself"],
            self.with_gateway('[backend]\ndns_view = "127.53.0.1"\nforward = ["127.53.0.1", "192.0.2.1"]\n'),
        )

    def test_local_peers(self) -> None:
        """A local domain is no peer; a domain under it may be."""
        self.assertEqual(
            ['line 3: peers."example.org": is one of gateway.domains; a local domain is not a peer'],
            self.with_gateway('[peers."example.org"]\nallow = true\n[peers."*.example.org"]\nallow = false\n'),
        )

    def test_one_name_twice(self) -> None:
        """Two spellings of one domain are one domain."""
        self.assertEqual(
            ["line 3: peers: contains one domain twice, written differently"],
            self.with_gateway("[peers]\n\"a.example\" = {}\n\"A.example.\" = {}\n"),
        )
        self.assertEqual(
            ["line 3: dns.static: contains one domain twice, written differently"],
            self.with_gateway('[dns.static]\n"a.example" = "x:1"\n"A.example" = "y:1"\n'),
        )

    def test_very_many_peers(self) -> None:
        """Tables that say the same are one object; each name counts in its one spelling."""
        peers = "".join(f'[peers."{number}.EXAMPLE"]\nallow = false\nhold = "1m"\n' for number in range(1000))
        peers += '[peers."x.example"]\nallow = false\nhold = "60s"\nlimits = {streams = 3}\n'
        found = self.config(GATEWAY + peers).peers
        self.assertEqual((1001, 2), (len(found), len({id(peer) for peer in found.values()})))
        self.assertEqual({False}, {found[name].allow for name in ("0.example", "999.example", "x.example")})
        self.assertEqual((found["1.example"].hold, {"allow", "hold"}), (found["x.example"].hold, found["1.example"].model_fields_set))

    def test_one_of_very_many(self) -> None:
        """One wrong table among many is told by its line, and so is one that disagrees with another section."""
        peers = "".join(f'[peers."{number}.example"]\nallow = false\n' for number in range(1000))
        self.assertEqual(
            ['line 2004: peers."x.example".allow: must be true or false'],
            self.with_gateway(peers + '[peers."x.example"]\nallow = "no"\n'),
        )
        self.assertEqual(
            ['line 2003: peers."example.org": is one of gateway.domains; a local domain is not a peer'],
            self.with_gateway(peers + '[peers."example.org"]\n'),
        )

    def test_unread_pins(self) -> None:
        """Pins beside proofs that leave them out would never be looked at."""
        pins = f'[peers."a.example"]\npins = ["{PIN}"]\n'
        self.assertEqual(
            ['line 4: peers."a.example".pins: have no effect: "pin" is not in proofs'],
            self.with_gateway(pins + 'proofs = ["pkix"]\n'),
        )
        self.assertEqual([], self.with_gateway(pins + 'proofs = ["pkix", "pin"]\n'))
        self.assertEqual([], self.with_gateway(pins))

    def test_inherited_proofs_leave_pins_out(self) -> None:
        """Pins beside inherited proofs that leave them out would never be looked at either."""
        self.assertEqual(
            ['line 6: peers."a.example".pins: have no effect: "pin" is not in proofs'],
            self.with_gateway(f'[peers.default]\nproofs = ["pkix"]\n[peers."a.example"]\npins = ["{PIN}"]\n'),
        )

    def test_tcp_place(self) -> None:
        """Where a TCP endpoint listens."""
        self.assertEqual(("::1", 5269), tcp_place("tcp6:5269:interface=\\:\\:1"))
        self.assertEqual(("", 5269), tcp_place("tcp:port=5269"))
        self.assertIsNone(tcp_place("systemd:domain=INET:index=0"))


class FileTests(ConfigTestCase):
    """The files that a configuration names."""

    def test_missing(self) -> None:
        """What does not exist is told, each with its key."""
        (self.folder / "certs").rmdir()
        (self.folder / "half.crt").touch()
        self.assertEqual(
            [
                "line 4: tls.trust_anchors: ca.pem does not exist",
                'line 6: peers."a.example".certificate: half.key does not exist',
                'line 7: peers."a.example".trust_anchors: other.pem does not exist',
                "tls.certificates: certs is not a directory",
            ],
            sorted(
                re.sub(r"^line 3: tls.cert", "tls.cert", each)
                for each in self.with_gateway('[tls]\ntrust_anchors = "ca.pem"\n[peers."a.example"]\ncertificate = "half.crt"\ntrust_anchors = "other.pem"\n')
            ),
        )

    def test_unreadable(self) -> None:
        """What cannot be read is told, too."""
        (self.folder / "ca.pem").touch()
        with mock.patch.object(os, "access", lambda path, mode: Path(path).name not in ("ca.pem", "certs")):
            self.assertEqual(
                ["line 3: tls.certificates: certs cannot be read", "line 4: tls.trust_anchors: ca.pem cannot be read"],
                self.with_gateway('[tls]\ntrust_anchors = "ca.pem"\n'),
            )

    def test_state(self) -> None:
        """The state directory is one, or can be made."""
        (self.folder / "file").touch()
        self.assertEqual(
            ["line 3: gateway.state: file is not a directory"], self.with_gateway('state = "file"\n'),
        )
        (complaint,) = self.with_gateway('state = "file/state"\n')
        self.assertEqual("line 3: gateway.state: file/state is not writable: no permission on file", complaint)
        with mock.patch.object(os, "access", return_value=False):
            self.assertIn("line 1: gateway.state: state is not writable", " ".join(self.with_gateway("")))
        (self.folder / "state").mkdir()
        self.assertEqual([], self.with_gateway(""))

    def test_certificate_files(self) -> None:
        """The two forms of a certificate with its key."""
        (self.folder / "name").mkdir()
        self.assertEqual((self.folder / "name/fullchain.pem", self.folder / "name/privkey.pem"), certificate_files(self.folder / "name"))
        self.assertEqual((Path("a.b.crt"), Path("a.b.key")), certificate_files(Path("a.b")))
        self.assertEqual((Path("a.crt"), Path("a.key")), certificate_files(Path("a.crt")))

    def test_load(self) -> None:
        """A file is read where it is, a relative path made absolute."""
        path = self.folder / "s2sgw.toml"
        path.write_text(GATEWAY, "utf-8")
        self.assertEqual(path, load(os.path.relpath(path)).path)
        self.assertEqual(("192.0.2.1:53",), load(path, system_nameservers=["192.0.2.1"]).nameservers)

    def test_unreadable_configuration(self) -> None:
        """A configuration that cannot be read is a complaint like any other."""
        path = self.folder / "s2sgw.toml"
        with self.assertRaises(ConfigError) as caught:
            load(path)
        self.assertEqual(["cannot be read: No such file or directory"], caught.exception.complaints)
        path.write_bytes(b"\xff")
        with self.assertRaises(ConfigError) as caught:
            load(path)
        self.assertEqual(["cannot be read: is not UTF-8"], caught.exception.complaints)


class ConsoleTests(ConfigTestCase):
    """Where the metrics are served."""

    def test_listen(self) -> None:
        """Nowhere, unless an endpoint says where; never where somebody else listens."""
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
    """Who may use the console, and from where."""

    def setUp(self) -> None:
        super().setUp()
        self.hash = PasswordHash(1 << 14, 8, 1, b"s" * 16, b"d" * 32).text()

    def test_users(self) -> None:
        """Users with their hashes and roles; names under which browsers come."""
        text = f'[console]\nhosts = ["Admin.example.org"]\n[console.users]\nalice = "{self.hash}"\n"b.c@d" = "{self.hash}"\n[console.roles]\nalice = "operator"\n'
        found = self.config(GATEWAY + text).console
        self.assertEqual((["alice", "b.c@d"], {"alice": "operator"}, ("admin.example.org.",)), (list(found.users), found.roles, found.hosts))
        self.assertEqual(self.hash, found.users["alice"].text())

    def test_bad_users(self) -> None:
        """What is wrong with users and roles is told with its line; a secret that was written in their place is not."""
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
        """Without a certificate only loopback and UNIX sockets may be listened on."""
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
    """What is written out though it holds anyway, and what is odd."""

    def test_defaults_written_out(self) -> None:
        """A value that asks for what is done anyway passes."""
        for text in (
            "[policy]\ndeny_lists = []\nallow_only_listed = false\n",
            "[peers.default]\ndeny_namespaces = []\nkinds = [\"message\", \"presence\", \"iq\"]\nlimits = { stanzas_per_second = 0, bytes_per_second = 0 }\n",
        ):
            self.assertEqual([], self.with_gateway(text))

    def test_values(self) -> None:
        """Each of the values of a key is taken."""
        for text in ('[backend]\nacks = "tcp"\n', '[backend]\nacks = "ping"\n', '[backend]\nacks = "sm"\n', '[peers.default]\nunknown_issuer = "reject"\nresolve = "required"\n'):
            self.assertEqual([], self.with_gateway(text))

    def test_rest_of_policy(self) -> None:
        """An unknown key is told as such."""
        self.assertEqual(
            ['line 4: policy.deny_list: there is no such key; did you mean "deny_lists"?'], self.with_gateway("[policy]\ndeny_list = []\n"),
        )
        self.assertEqual(["line 1: policy: must be a table"], self.complaints("policy = 1\n" + GATEWAY))

    def test_odd_shapes(self) -> None:
        """What is no table where one belongs is left to the other checks."""
        self.assertEqual(["line 1: peers: must be a table"], self.complaints('peers = "x"\n' + GATEWAY))
        self.assertEqual(["line 1: peers: must be a table"], self.complaints("peers = [1]\n" + GATEWAY))
        self.assertEqual(["line 1: listen: must be an array, as in [\"…\"]"], self.complaints("listen = 1\n" + GATEWAY))
        self.assertEqual(["line 1: listen[0]: must be a table"], self.complaints("listen = [1]\n" + GATEWAY))


class PolicySectionTests(ConfigTestCase):
    """[policy]: whom to federate with at all."""

    def test_sources(self) -> None:
        """Files start at the folder, https URLs stay as they are."""
        (self.folder / "deny.txt").touch()
        found = self.config(GATEWAY + '[policy]\ndeny_lists = ["deny.txt", "https://lists.example:8443/a?b=c"]\nrefresh = "2h"\n').policy
        self.assertEqual(((self.folder / "deny.txt", "https://lists.example:8443/a?b=c"), 7200.0), (found.deny_lists, found.refresh))

    def test_wrong(self) -> None:
        """Another scheme, a password, no host, what is no text; a file that is not there, one named twice; a refresh in a rush."""
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
        """A misspelt key is told with what was meant, within the tables of a peer too."""
        self.assertEqual(['line 4: policy.deny_list: there is no such key; did you mean "deny_lists"?'], self.with_gateway("[policy]\ndeny_list = []\n"))
        self.assertEqual(
            ['line 4: peers.default.features.smm: there is no such key; did you mean "sm"?'],
            self.with_gateway("[peers.default]\nfeatures = { smm = true }\n"),
        )
        self.assertEqual(
            ['line 4: peers.default.limits.stanzas_per_second.mesage: there is no such key; did you mean "message"?'],
            self.with_gateway("[peers.default]\nlimits = { stanzas_per_second = { mesage = 1 } }\n"),
        )


class ExampleTests(SynchronousTestCase):
    """The examples load."""

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
        """`make run`: loopback, ports above 1024, the echo backend, no DNS."""
        found = self.load("echo.toml")
        self.assertEqual(["echo"], [each.kind for each in found.backends])
        for each in found.listen:
            host, port = tcp_place(each.endpoint) or ("", 0)
            self.assertEqual("127.0.0.1", host)
            self.assertGreater(port, 1024)
        self.assertEqual("allow", found.dns.private_addresses)

    def test_prosody(self) -> None:
        """A gateway in front of a Prosody, with a view for it."""
        self.assertIsNotNone(self.load("prosody.toml").backends[0].dns_view)

    def test_full(self) -> None:
        """The full example has every key there is, and each default that it shows is the default."""
        found = self.load("full.toml")
        tree: dict[str, Any] = tomllib.loads((ROOT / "examples" / "full.toml").read_text("utf-8"))
        self.assertEqual(set(SECTIONS), set(tree))
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

    def test_documented(self) -> None:
        """docs/configuration.md speaks of every key."""
        text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
        found = self.load("full.toml")
        for model in (found.gateway, found.listen[0], found.tls, found.dns, found.backends[0], found.queue, found.log, found.admin, found.peers["default"]):
            for key in type(model).model_fields:
                self.assertRegex(text, rf"`(limits\.|static\.)?{key}", key)
