"""Tests of the console's port with TLS, of its address in links, and of its imports, which need `[console]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import Config, parse
from s2sgw.console.opening import _address
from tests.support.certificates import shared_root
from tests.support.console import ConsoleCase
from tests.support.http import Client

ROOT = Path(__file__).resolve().parents[3]


class LoadingTests(SynchronousTestCase):
    def test_nothing_is_loaded(self) -> None:
        """The service without `[console]` imports no module of the console, and no templates."""
        code = "import sys, s2sgw.service, s2sgw.cli.main; print([n for n in sys.modules if n.startswith(('s2sgw.console', 'jinja2', 'markupsafe'))])"
        found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        self.assertEqual("[]", found.stdout.strip())


class SecureTests(ConsoleCase):
    """Tests of a console with a certificate."""

    def section(self) -> str:
        issued = shared_root().issue(dns=["admin.example.org"])
        (self.folder / "console.crt").write_bytes(issued.pem_chain)
        key = self.folder / "console.key"
        key.write_bytes(issued.key_pem)
        key.chmod(0o600)
        return super().section().replace("tcp:8269:interface=127.0.0.1", "tcp:8269").replace("[console]\n", '[console]\ncertificate = "console"\n')

    def test_cookie(self) -> None:
        """With TLS the cookie is sent only over TLS, and to no other host. Pages of the same host without TLS have another origin."""
        self.client.host = "admin.example.org:8269"
        fields = {"name": "alice", "password": "correct horse"}
        self.assertEqual(403, self.submit("/login", origin="http://admin.example.org:8269", **fields).status)
        cookie = self.submit("/login", origin="https://admin.example.org:8269", **fields).headers["set-cookie"]
        self.assertTrue(cookie.startswith("__Host-s2sgw="), cookie)
        self.assertIn("; Secure", cookie)

    def test_hosts(self) -> None:
        """The names in the certificate are host names of the console."""
        for host, status in (("admin.example.org", 200), ("other.example.org", 421)):
            self.assertEqual(status, Client(self.console.site, self.reactor, host=host).get("/login").status)

    def test_link(self) -> None:
        """A login link has the certificate's name."""
        self.assertTrue(self.console.verbs["console token"]({})["address"].startswith("https://admin.example.org:8269/login?token="))


class AddressTests(SynchronousTestCase):
    """Tests of the address in a link."""

    def address(self, text: str) -> str:
        def config() -> Config:
            return parse(f'[gateway]\ndomains = ["example.org"]\n[tls]\ncertificates = "/"\n[console]\n{text}', Path("/tmp/s2sgw.toml"))

        return _address(config, None)

    def test_addresses(self) -> None:
        """The address follows from the configuration."""
        self.assertEqual("http://127.0.0.1:8269", self.address('listen = "tcp:8269:interface=127.0.0.1"'))
        self.assertEqual("http://[::1]:8269", self.address(r'listen = "tcp:8269:interface=\\:\\:1"'))
        self.assertEqual("http://admin.example.org:8269", self.address('listen = "tcp:8269:interface=127.0.0.1"\nhosts = ["admin.example.org"]'))
        self.assertEqual("", self.address('listen = "unix:/run/s2sgw/console"'))
