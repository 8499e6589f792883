"""A console over the verbs of a real gateway, and a browser of its pages in memory."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.serialization import Encoding

from s2sgw.admin.http_api import APIServices
from s2sgw.composition.gateway import build_gateway
from s2sgw.config import password_hash
from s2sgw.config.password_hash import PasswordHash
from s2sgw.console.opening import build_console
from s2sgw.net.threads import AtOnce
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.peerdb.pending import PendingCertificate
from s2sgw.reporting.metrics import MetricsPage
from s2sgw.runtime.preflight import check_configuration
from s2sgw.trust.pins import Fingerprint
from tests.support.certificates import self_signed
from tests.support.fakes import ThreadlessReactor
from tests.support.http import Client, Response
from tests.support.peer_database import database
from tests.unit.composition.test_reconfiguration import FolderCase

PASSWORDS = {"alice": "correct horse", "bob": "battery staple"}


class ConsoleCase(FolderCase):
    """A console with two users: alice is an operator, bob is read-only."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(password_hash, "COST", password_hash.LEAST_COST)
        self.hashes = {name: PasswordHash.of(word).text() for name, word in PASSWORDS.items()}
        self.also(self.section())
        self.patch(PeerRecords, "at", lambda state, deliver, limit, is_listed, shared: PeerRecords(database(limit=limit), is_listed))
        self.reactor = ThreadlessReactor()
        self.gateway = build_gateway(check_configuration(self.path).config, self.reactor)
        self.addCleanup(self.gateway.peer_records.database.close)
        self.gateway.reconfiguration.open()
        self.addCleanup(self.gateway.reconfiguration.close)
        self.reasons: list[str] = []
        gateway = self.gateway
        services = APIServices(
            self.reactor, gateway.slices, gateway.verbs, gateway.verbs["watch"], MetricsPage(gateway.metrics), lambda: self.reasons,
        )
        self.console = build_console(
            lambda: gateway.running.config, services, AtOnce(), gateway.audit, lambda: 1_800_000_000.0,
            gateway.running.config.console.certificate,
        )
        self.client = self.browser()

    def section(self) -> str:
        """Return the console's part of the configuration."""
        users = "".join(f'{name} = "{text}"\n' for name, text in self.hashes.items())
        return (
            '[dns.static]\n"peer.example" = "127.0.0.1:9"\n[peers.default]\nunknown_issuer = "ask"\n'
            f'[console]\nlisten = "tcp:8269:interface=127.0.0.1"\n[console.users]\n{users}[console.roles]\nalice = "operator"\n'
        )

    def browser(self, address: str = "127.0.0.1") -> Client:
        """Return a browser that is not logged in."""
        return Client(self.console.site, self.reactor, address)

    def log_in(self, name: str = "alice", client: Client | None = None) -> Client:
        """Log in, and return the browser."""
        client = client or self.client
        response = self.submit("/login", client, name=name, password=PASSWORDS[name])
        self.assertEqual(303, response.status, response.text)
        client.headers["Cookie"] = response.headers["set-cookie"].partition(";")[0]
        return client

    def submit(self, path: str, client: Client | None = None, /, origin: str | None = "http://localhost:8269", **fields: str) -> Response:
        """Send a form as a page of the console does."""
        client = client or self.client
        headers = {} if origin is None else {"Origin": origin}
        return client.ask("POST", path, urlencode(fields).encode(), Content_Type="application/x-www-form-urlencoded", **headers)

    def form(self, path: str, action: str) -> dict[str, str]:
        """Return the hidden fields of the form on a page that is sent to `action`."""
        text = self.client.get(path).text
        inside = next(form for form in re.findall(r"<form.*?</form>", text, re.DOTALL) if f'action="{action}"' in form)
        return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', inside)}

    def hold_certificate(self, peer: str = "peer.example", **changes: Any) -> Fingerprint:
        """Let a certificate of a peer wait for approval, and return its key."""
        certificate = self_signed(dns=[peer], common_name="<b>evil</b>").chain[0].public_bytes(Encoding.DER)
        key = Fingerprint.of(certificate)
        self.gateway.peer_records.pending_certificates.hold(PendingCertificate(**{
            "domain": peer, "key": key, "first": 1.0, "last": 2.0, "times": 3, "direction": "inbound", "local": "example.org",
            "address": "192.0.2.1:5", "cause": "unknown-issuer", "reasons": ("<i>reason</i>",), "chain": (certificate,), **changes,
        }))
        return key

    def noted(self) -> list[dict[str, Any]]:
        """Return the lines of the audit log."""
        return [json.loads(line) for line in self.gateway.audit.path.read_text().splitlines()]
