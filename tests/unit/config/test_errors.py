"""Tests of configuration errors: each has its line, its key and a suggestion."""

from __future__ import annotations

import tomllib

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import ConfigError, load
from s2sgw.config.errors import Complaint, TOMLSource, key_text, suggest, translate, value_text
from tests.support.configurations import GATEWAY, ConfigTestCase


class SourceTests(SynchronousTestCase):
    """Tests of the position of a key in the text."""

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
        """Tables, arrays of tables, quoted and dotted keys are found. A position inside a value is found by its key."""
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
        """An error about the whole file has neither key nor line."""
        self.assertEqual("is odd", TOMLSource("").tell(Complaint((), "is odd")))


class ComplaintTests(ConfigTestCase):
    """Tests of the texts of errors."""

    def test_all_at_once(self) -> None:
        """Errors of every kind, in every section, are listed together, in the order of the file."""
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
        """An error in one section hides no conflict between others."""
        self.assertEqual(
            [
                'line 2: gateway.domains[0]: no backend serves "example.org"',
                'line 4: log.level: must be "info", "debug", "warn", "error" or "critical", not "loud"',
                'line 6: backend.domains[0]: "chat.net" is not among gateway.domains; known here: example.org',
            ],
            self.with_gateway('[log]\nlevel = "loud"\n[backend]\ndomains = ["chat.net"]\n'),
        )

    def test_files_beside_faults(self) -> None:
        """An error in a section hides no missing file that the section names. No key is reported twice."""
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
        """The domains are required. The error has no line if the key is missing."""
        self.assertEqual(["gateway.domains: is missing"], self.complaints(""))
        self.assertEqual(["line 1: gateway.domains: is missing"], self.complaints("[gateway]\n"))
        self.assertEqual(["line 2: gateway.domains: must not be empty"], self.complaints("[gateway]\ndomains = []\n"))

    def test_types(self) -> None:
        """For a value of the wrong type the error names the correct one."""
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
            ("[backend]\ndns_view = \"192.0.2.1\"\n", 'line 4: backend.dns_view: must be a loopback address such as "127.53.0.1:53", unless dns_view_clients lists who may ask'),
        ):
            self.assertEqual([complaint], self.with_gateway(text))
        self.assertEqual(["line 1: queue: must be a table"], self.complaints('queue = "x"\n' + GATEWAY))

    def test_suggestion(self) -> None:
        """For an unknown word without a similar one, the known words are listed."""
        (complaint,) = self.with_gateway("[log]\nxyz = 1\n")
        self.assertEqual("line 4: log.xyz: there is no such key; known here: format, level", complaint)
        self.assertEqual('did you mean "tls"?', suggest("tsl", ["tls", "dns"]))

    def test_domain_without_quotes(self) -> None:
        """[peers.friend.example] means a key of a peer "friend": the error asks for quotes, also for longer names."""
        for header, name in (("friend.example", "friend.example"), ("a.b.example", "a.b.example"), ("muc.friend.example.limits", "muc.friend.example")):
            self.assertEqual([f'line 3: peers.{name}: write [peers."{name}"]: a domain needs quotes here'], self.with_gateway(f"[peers.{header}]\n"))
        self.assertIn("there is no such key", self.with_gateway("[peers.default]\nfrobnicate = 1\n")[0])

    def test_byte_order_mark(self) -> None:
        """A file with a byte order mark, as some editors write it, is read."""
        path = self.folder / "bom.toml"
        path.write_text('[gateway]\ndomains = ["example.org"]\n[tls]\ncertificates = "."\n', "utf-8-sig")
        self.assertEqual("example.org", str(load(path).gateway.domains[0]))

    def test_not_toml(self) -> None:
        """For a file that is not TOML the error names the position."""
        (complaint,) = self.complaints("[gateway\n")
        self.assertRegex(complaint, r"line 1: is not valid TOML: ")

    def test_words(self) -> None:
        """The text of the exception names the file, with each error on a line of its own."""
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
        """An error for which we have no text keeps pydantic's."""
        self.assertEqual("Odd", translate({"type": "odd", "input": 1, "loc": ("x",), "msg": "Odd"}, ()))

    def test_long_values(self) -> None:
        """A value is written as TOML spells it, and shortened."""
        self.assertEqual(("true", '"x"', "[1]"), (value_text(True), value_text("x"), value_text([1])))
        self.assertEqual(58, len(value_text("x" * 200)))
