"""POSH with a real HTTPS server on loopback: documents, redirects, and limits for a stranger's web server (R23)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.lab.certificates import Certificate, Names
from tests.lab.lab import Lab, LabError
from tests.lab.scenario import Stage, check, step
from tests.lab.trust_world import Trusting, trusting
from tests.lab.trust_zone import PLAIN, signed_dns

#: POSH documents are on port 443 only, so the web servers of the lab have separate loopback addresses.
WEB, STRANGE_WEB = "127.44.53.1", "127.44.53.2"
PATH = "/.well-known/posh/xmpp-server.json"
PEERS = ("good", "other", "reference", "redirect", "twice", "long", "slow", "broken", "expired", "private", "missing")
STRANGE = "untrusted"


class _Pages(BaseHTTPRequestHandler):
    pages: dict[tuple[str, str], tuple[int, dict[str, str], bytes, float]]

    def do_GET(self) -> None:
        key = (self.headers.get("Host", "").partition(":")[0], self.path)
        status, headers, body, delay = self.pages.get(key, (404, {}, b"", 0.0))
        time.sleep(delay)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Web:
    """An HTTPS server. `pages` are by host and path: status, headers, body, seconds before the answer."""

    def __init__(self, address: str, certificate: Certificate) -> None:
        self.pages: dict[tuple[str, str], tuple[int, dict[str, str], bytes, float]] = {}
        try:
            self._server = ThreadingHTTPServer((address, 443), type("Pages", (_Pages,), {"pages": self.pages}))
        except OSError as error:
            raise LabError(f"no HTTPS server at {address}:443: {error}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain, certificate.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def page(self, host: str, body: bytes, path: str = PATH, status: int = 200, delay: float = 0.0, **headers: str) -> None:
        self.pages[host, path] = (status, headers, body, delay)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def document(certificate: Certificate | None, expires: int = 3600) -> bytes:
    """Return the document that names a certificate, or with None another one."""
    der = ssl.PEM_cert_to_DER_cert(certificate.chain.read_text()) if certificate else b"another"
    digest = base64.b64encode(hashlib.sha256(der).digest()).decode()
    return json.dumps({"fingerprints": [{"sha-256": digest}], "expires": expires}).encode()


@dataclass
class Posh:
    at: Trusting
    web: Web
    certificates: dict[str, Certificate]


def _publish(web: Web, strange: Web, certificates: dict[str, Certificate]) -> None:
    def name(one: str) -> str:
        return f"{one}.{PLAIN}"
    for one in ("good", "private"):
        web.page(name(one), document(certificates[one]))
    strange.page(name(STRANGE), document(certificates[STRANGE]))
    web.page(name("other"), document(None))
    web.page(name("expired"), document(certificates["expired"], 0))
    web.page(name("slow"), document(certificates["slow"]), delay=15.0)
    web.page(name("broken"), b"{")
    web.page(name("long"), document(certificates["long"])[:-1] + b', "x": "' + b"x" * 300_000 + b'"}')
    elsewhere = f"https://{name('good')}"
    for one in ("reference", "redirect", "twice"):
        web.page(name("good"), document(certificates[one]), f"/{one}.json")
    web.page(name("reference"), json.dumps({"url": f"{elsewhere}/reference.json", "expires": 600}).encode())
    web.page(name("redirect"), b"", status=302, Location=f"{elsewhere}/redirect.json")
    web.page(name("twice"), b"", status=302, Location=f"{elsewhere}/again")
    web.page(name("good"), b"", "/again", status=302, Location=f"{elsewhere}/twice.json")


@asynccontextmanager
async def _built(lab: Lab) -> AsyncIterator[Posh]:
    def build() -> Posh:
        at, dns = trusting(lab), signed_dns(lab)
        domains = {one: f"{one}.{PLAIN}" for one in (*PEERS, STRANGE)}
        certificates = {one: at.stranger.self_signed(domain) for one, domain in domains.items()}
        for one, domain in domains.items():
            receiver = at.listen(domain, certificates[one])
            dns.peer(PLAIN, one, receiver.port, address=STRANGE_WEB if one == STRANGE else WEB)
        dns.start()
        web = Web(WEB, at.authority.issue(Names(dns=tuple(domains.values()))))
        strange = Web(STRANGE_WEB, at.stranger.issue(Names(dns=tuple(domains.values()))))
        _publish(web, strange, certificates)
        at.configure(dns)
        at.start()
        return Posh(at, web, certificates)
    made = await asyncio.to_thread(build)
    try:
        yield made
    finally:
        made.at.gateway.stop()
        made.web.close()


stage = Stage("POSH: a real HTTPS server", _built)


def _scenario(title: str) -> Callable[[Callable[[Posh], None]], None]:
    def add(run: Callable[[Posh], None]) -> None:
        def started(made: Posh) -> Awaitable[None]:
            return asyncio.to_thread(run, made)
        stage.scenario(title)(started)
    return add


@_scenario("a document that vouches for a self-signed certificate proves the peer in both roles")
def _good(made: Posh) -> None:
    domain = f"good.{PLAIN}"
    text = made.at.asks(domain, made.certificates["good"])
    check(made.at.heard(domain, text), "the echo was not delivered")


@_scenario("one redirect is followed, by the document or by HTTP; two are not")
def _redirects(made: Posh) -> None:
    for one in ("reference", "redirect"):
        made.at.enter(f"{one}.{PLAIN}", made.certificates[one]).close()
    text = made.at.refused(f"twice.{PLAIN}", made.certificates["twice"])
    check("POSH" in text and "302" in text, text)


@_scenario("a document with another certificate, without one, expired, broken, or too long proves nothing")
def _bad(made: Posh) -> None:
    for one, words in (
        ("other", "does not vouch"), ("missing", "404"), ("expired", "expires"), ("broken", "no JSON"), ("long", "longer than"),
    ):
        text = made.at.refused(f"{one}.{PLAIN}", made.certificates[one])
        check(words in text, f"{one}: {text}")


@_scenario("a web server whose own certificate is not trusted proves nothing")
def _untrusted(made: Posh) -> None:
    text = made.at.refused(f"{STRANGE}.{PLAIN}", made.certificates[STRANGE])
    check("certificate verify failed" in text, text)


@_scenario("a web server that does not answer causes no delay")
def _slow(made: Posh) -> None:
    start = time.monotonic()
    text = made.at.refused(f"slow.{PLAIN}", made.certificates["slow"])
    took = time.monotonic() - start
    check("no answer" in text and took < 9.0, f"{took:.1f} s: {text}")
    step(f"after {took:.1f} s")


@_scenario("private addresses are not used, unless the configuration allows it")
def _private(made: Posh) -> None:
    domain, gateway = f"private.{PLAIN}", made.at.gateway
    before = gateway.config.read_text()
    changed = before.replace('private_addresses = "allow"', 'private_addresses = "refuse"')
    port = made.at.receivers[domain].port
    gateway.config.write_text(f'{changed}\n[dns.static]\n"{domain}" = "127.0.0.1:{port}"\n')
    made.at.restart()
    text = made.at.refused(domain, made.certificates["private"])
    check("not public" in text, text)
    gateway.config.write_text(before)
    made.at.restart()
    made.at.enter(domain, made.certificates["private"]).close()
