"""Tests of what `s2sgw setup` prints for each server, made from the configuration."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli.setup import SERVERS, SetupError, authority_file, inetrc_text, setup_text
from s2sgw.config import Config, parse
from s2sgw.xmpp.jid import Domain

GATEWAY = '[gateway]\nstate = "/var/lib/s2sgw"\ndomains = ["example.org", "b--c.example"]\n'
BACKEND = '[backend]\naddress = "127.0.0.1:15269"\nlisten = "tcp:15270:interface=127.0.0.1"\n'
VIEW = 'dns_view = "127.0.0.1:5353"\n'

PROSODY = """\
-- Prosody behind s2sgw, for example.org, b--c.example.
-- Save this as a file of its own, /etc/prosody/conf.d/s2sgw.cfg.lua in Debian. prosody.cfg.lua includes it at its end:
--     Include "conf.d/*.cfg.lua"
-- Its values then replace those above. In the global section of prosody.cfg.lua itself, delete the old lines of these
-- options first: s2s_interfaces, s2s_ports, s2s_direct_tls_ports, unbound, ssl, s2s_secure_auth, s2s_require_encryption, limits.
-- The last line of an option wins.
-- Required: the package lua-unbound, and "dialback", "limits" and "tls" in modules_enabled (Debian has the three there).

-- s2sgw connects to this address for all peers. Peers connect to s2sgw.
s2s_interfaces = { "127.0.0.1" }
s2s_ports = { 15269 }

-- Every peer resolves to s2sgw. Do not configure a trust anchor for DNSSEC here.
unbound = { resolvconf = false; hoststxt = false; forward = "127.0.0.1@5353" }

-- s2sgw shows a certificate of its private CA for each peer. This CA replaces the public ones: it must be the only one.
-- A VirtualHost with its own ssl table needs the cafile there too. The user of Prosody must be able to read the file.
ssl = { cafile = "/var/lib/s2sgw/backend-ca.pem" }
s2s_secure_auth = true
s2s_require_encryption = true

-- Few connections carry the stanzas of all peers. (The limit for clients is Debian's.)
limits = { c2s = { rate = "10kb/s" }; s2sin = { rate = "50mb/s"; burst = "2s" } }
"""


class SetupTestCase(SynchronousTestCase):
    def config(self, backend: str = BACKEND + VIEW, gateway: str = GATEWAY) -> Config:
        folder = Path(self.mktemp()).absolute()
        (folder / "certs").mkdir(parents=True)
        return parse(gateway + backend, folder / "s2sgw.toml")

    def settings(self, server: str, backend: str = BACKEND + VIEW) -> list[str]:
        """Return the lines without comments."""
        text = setup_text(server, self.config(backend))
        return [line for line in text.splitlines() if line and not line.startswith(("--", "#"))]


class ProsodyTests(SetupTestCase):
    def test_exact(self) -> None:
        """The lines are those of docs/admin.md, with the addresses and the authority of this configuration."""
        self.assertEqual(PROSODY, setup_text("prosody", self.config()))

    def test_tls(self) -> None:
        """The server's settings require TLS as the backend leg does."""
        for tls, secure, required in (("required", "true", "true"), ("optional", "true", "false"), ("never", "false", "false")):
            lines = self.settings("prosody", f'{BACKEND}{VIEW}tls = "{tls}"\n')
            self.assertIn(f"s2s_secure_auth = {secure}", lines)
            self.assertIn(f"s2s_require_encryption = {required}", lines)

    def test_onions(self) -> None:
        """If there are peers under .onion, libunbound is told to look them up (the view answers, and no other server is asked)."""
        lines = self.settings("prosody", BACKEND + VIEW + '[peers."*.onion"]\nproxy = "socks5://127.0.0.1:9050"\n')
        self.assertIn('unbound = { resolvconf = false; hoststxt = false; forward = "127.0.0.1@5353"; options = { ["local-zone:"] = "onion. transparent" } }', lines)

    def test_localhost(self) -> None:
        """Prosody listens on addresses, not on names."""
        self.assertIn('s2s_interfaces = { "127.0.0.1" }', self.settings("prosody", '[backend]\naddress = "localhost:15269"\n' + VIEW))

    def test_ipv6(self) -> None:
        """IPv6 addresses are spelled as each file needs them."""
        lines = self.settings("prosody", '[backend]\naddress = "[::1]:15269"\ndns_view = "[::1]:5353"\n')
        self.assertIn('s2s_interfaces = { "::1" }', lines)
        self.assertIn('unbound = { resolvconf = false; hoststxt = false; forward = "::1@5353" }', lines)


class EjabberdTests(SetupTestCase):
    def test_settings(self) -> None:
        """The lines have the listener, the authority, TLS, and a short memory of failures."""
        self.assertEqual(
            [
                "listen:", "  -", "    port: 15269", '    ip: "127.0.0.1"', "    module: ejabberd_s2s_in",
                'ca_file: "/var/lib/s2sgw/backend-ca.pem"', "s2s_use_starttls: required", "s2s_max_retry_delay: 1",
            ],
            self.settings("ejabberd"),
        )
        for tls, starttls in (("optional", "optional"), ("never", "false")):
            self.assertIn(f"s2s_use_starttls: {starttls}", self.settings("ejabberd", f'{BACKEND}{VIEW}tls = "{tls}"\n'))

    def test_inetrc(self) -> None:
        """The view is written in Erlang's syntax, in both families."""
        self.assertIn("#    {nameserver,{127,0,0,1},5353}.\n", setup_text("ejabberd", self.config()))
        six = setup_text("ejabberd", self.config(BACKEND + 'dns_view = "[::1]:5353"\n'))
        self.assertIn("#    {nameserver,{0,0,0,0,0,0,0,1},5353}.\n", six)

    def test_inetrc_file(self) -> None:
        """The file inetrc has the same lines, and otherwise only Erlang comments."""
        text = inetrc_text(self.config())
        lines = [line for line in text.splitlines() if not line.startswith("%")]
        self.assertEqual(['{resolv_conf,""}.', '{lookup,["file","dns"]}.', '{host,{127,0,0,1},["localhost"]}.', "{nameserver,{127,0,0,1},5353}."], lines)
        for line in lines:
            self.assertIn(f"#    {line}\n", setup_text("ejabberd", self.config()))

    def test_target(self) -> None:
        """ejabberd resolves the target by the system: a warning is printed if the system may not resolve it."""
        for target, told in (("localhost.", False), ("127.0.0.1", False), ("gateway.example", True)):
            text = setup_text("ejabberd", self.config(f'{BACKEND}{VIEW}target = "{target}"\n'))
            self.assertEqual(told, "resolves the target gateway.example. by the system" in text, target)


class Jabberd2Tests(SetupTestCase):
    def test_xml(self) -> None:
        """The text is XML, for any domain names, with address and port. The environment is in its comment."""
        text = setup_text("jabberd2", self.config())
        local = ElementTree.fromstring(text)
        self.assertEqual(("127.0.0.1", "15269"), (local.findtext("ip"), local.findtext("port")))
        self.assertIn("NAMESERVERS=127.0.0.1\n", text)
        self.assertIn("RES_OPTIONS=port:5353\n", text)

    def test_tls(self) -> None:
        """If TLS is required, a comment says that the server needs a certificate."""
        self.assertIn("It needs a certificate", setup_text("jabberd2", self.config()))
        self.assertIn("Without <pemfile/>", setup_text("jabberd2", self.config(f'{BACKEND}{VIEW}tls = "never"\n')))


class RouterTests(SetupTestCase):
    """Tests of jabberd2 with its router."""

    def lines(self, more: str = "") -> str:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        secret = folder / "router.secret"
        secret.write_text("sesame\n")
        secret.chmod(0o600)
        return setup_text("jabberd2", self.config(f'[backend]\nkind = "jabberd2-router"\nsecret_file = "{secret}"\n{more}'))

    def test_xml(self) -> None:
        """The lines have the user that may be the default route, and disable jabberd2's s2s, but do not contain the secret."""
        text = self.lines()
        tree = ElementTree.fromstring(f"<all>{text}</all>")
        self.assertEqual(["s2s"], [each.text for each in tree.iterfind("user/name")])
        self.assertEqual([("default-route", "s2s")], [(each.get("type"), each.findtext("user")) for each in tree.iterfind("acl")])
        self.assertIn("do not start jabberd2-s2s", text)
        self.assertNotIn("sesame", text)

    def test_another_user(self) -> None:
        """A user whose name differs from the name that it binds needs a permission."""
        text = self.lines('user = "gate"')
        tree = ElementTree.fromstring(f"<all>{text}</all>")
        self.assertEqual({("default-route", "gate"), ("bind", "gate")}, {(each.get("type"), each.findtext("user")) for each in tree.iterfind("acl")})

    def test_other_servers(self) -> None:
        """Only jabberd2 has a router."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "s").write_text("x")
        (folder / "s").chmod(0o600)
        config = self.config(f'[backend]\nkind = "jabberd2-router"\nsecret_file = "{folder}/s"\n')
        with self.assertRaises(SetupError):
            setup_text("prosody", config)


class OpenfireTests(SetupTestCase):
    def test_settings(self) -> None:
        """The properties point to the inner listener, need no view, and close the port for direct TLS."""
        self.assertEqual(
            ["dnsutil.dnsOverride = {*,127.0.0.1:15270}", "xmpp.server.socket.port = 15269", "xmpp.server.socket.ssl.active = false"],
            self.settings("openfire", BACKEND),
        )

    def test_by_hand(self) -> None:
        """Steps that no property does are listed: the trust store, the firewall, the services."""
        text = setup_text("openfire", self.config(BACKEND))
        self.assertIn("keytool -importcert -noprompt -alias s2sgw -file /var/lib/s2sgw/backend-ca.pem", text)
        self.assertIn("tcp dport 15269 iifname != lo drop", text)
        self.assertIn("conference.DOMAIN", text)

    def test_every_interface(self) -> None:
        """A listener on every interface is reached at loopback."""
        text = setup_text("openfire", self.config('[backend]\nlisten = "tcp:15270"\n'))
        self.assertIn("{*,127.0.0.1:15270}", text)


class RefusalTests(SetupTestCase):
    """Tests of configurations for which no lines can be printed."""

    def refused(self, words: str, server: str, config: Config, local: str | None = None) -> None:
        with self.assertRaises(SetupError) as caught:
            setup_text(server, config, Domain.parse(local) if local else None)
        self.assertIn(words, str(caught.exception))

    def test_unknown_server(self) -> None:
        """For an unknown server the known ones are listed."""
        self.refused("Supported: prosody, ejabberd, jabberd2, openfire", "tigase", self.config())

    def test_no_view(self) -> None:
        """Without the view none of the three servers finds the gateway."""
        for server in ("prosody", "ejabberd", "jabberd2"):
            self.refused("backend.dns_view is not set", server, self.config(BACKEND))

    def test_echo(self) -> None:
        """The echo backend needs no server."""
        self.refused("only the built-in echo backend serves the local domains", "prosody", self.config('[backend]\nkind = "echo"\n'))

    def test_no_port(self) -> None:
        """A listener without a TCP port cannot be used by a server."""
        for listen in ("unix:/run/x", "tcp:0"):
            self.refused("is not a TCP port", "prosody", self.config(f'[backend]\nlisten = "{listen}"\n{VIEW}'))

    def test_several_backends(self) -> None:
        """Of several backends one is selected by one of its domains."""
        config = self.config(
            '[[backend]]\ndomains = ["example.org"]\n' + VIEW
            + '[[backend]]\ndomains = ["b--c.example"]\naddress = "127.0.0.1:16269"\nlisten = "tcp:16270"\ndns_view = "127.0.0.1:5354"\n'
            + '[[backend]]\nkind = "echo"\ndomains = ["echo.example"]\n',
            GATEWAY.replace("]", ', "echo.example"]', 2).replace('[gateway, "echo.example"]', "[gateway]"),
        )
        self.refused("there are several backends", "prosody", config)
        self.refused("only the built-in echo backend serves echo.example", "prosody", config, "echo.example")
        self.refused("no backend serves other.example", "prosody", config, "other.example")
        self.assertIn("s2s_ports = { 16269 }", setup_text("prosody", config, Domain.parse("b--c.example")))


class AuthorityTests(SetupTestCase):
    def test_file(self) -> None:
        """Every text names the same file."""
        config = self.config()
        self.assertEqual(Path("/var/lib/s2sgw/backend-ca.pem"), authority_file(config))
        for server in SERVERS:
            if server != "jabberd2":  # this server needs no certificates on this leg
                self.assertIn(str(authority_file(config)), setup_text(server, config))
                self.assertIn("/etc/x/ca.pem", setup_text(server, config, authority=Path("/etc/x/ca.pem")))
                self.assertNotIn(str(authority_file(config)), setup_text(server, config, authority=Path("/etc/x/ca.pem")))
