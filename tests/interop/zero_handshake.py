"""XEP-0361 between two gateways, each with a Prosody: no header and no negotiation; TLS and a pinned key are the proof."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from s2sgw.trust.pem import unarmoured
from s2sgw.trust.pins import Fingerprint
from tests.interop.conversation import Ends, login, talk
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.peer import client_context
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.world import INSIDE, OUTSIDE, Front


@dataclass
class Agreed:
    """A Prosody behind each of two gateways with the agreement; fits `HasEnds`. `port` is the first one's port for such streams."""

    doors: tuple[Gateway, Gateway]
    ends: Ends
    port: int
    certificates: tuple[Certificate, Certificate]
    stranger: Certificate


def _pin(certificate: Certificate) -> str:
    return str(Fingerprint.of(next(iter(unarmoured(certificate.chain.read_bytes())))))


@asynccontextmanager
async def _agreed(lab: Lab) -> AsyncIterator[Agreed]:
    dns, authority = nameserver(lab), Authority(lab.directory("authority"))
    doors = gateway(lab, INSIDE), gateway(lab, OUTSIDE)
    certificates = authority.for_domain(INSIDE), authority.for_domain(OUTSIDE)
    ports = lab.port(), lab.port()
    dns.start()
    servers = []
    for own in (0, 1):
        other = 1 - own
        changes = {
            "listen": [
                {"endpoint": f"tcp:{doors[own].port}:interface=127.0.0.1"},
                {"endpoint": f"tcp:{ports[own]}:interface=127.0.0.1", "tls": "direct", "zero_handshake": True},
            ],
            "peers": {doors[other].domain: {
                "zero_handshake": True, "route": f"127.0.0.1:{ports[other]}", "proofs": ["pin"], "pins": [_pin(certificates[other])],
            }},
        }
        servers.append(Front(doors[own], "prosody", [certificates[own]], changes).start(dns, authority))
    ends = Ends(servers[0], servers[1], await login(servers[0], "juliet"), await login(servers[1], "romeo"))
    try:
        yield Agreed(doors, ends, ports[0], certificates, authority.for_domain("stranger.example"))
    finally:
        await ends.close()
        for door in doors:
            door.stop()


stage = Stage("two gateways with a zero handshake", _agreed)


def _blocking(title: str) -> Callable[[Callable[[Agreed], None]], None]:
    def add(run: Callable[[Agreed], None]) -> None:
        def started(at: Agreed) -> Awaitable[None]:
            return asyncio.to_thread(run, at)
        stage.scenario(title)(started)
    return add


@stage.scenario("messages pass in both directions, on streams proven only by the agreement")
async def _both(at: Agreed) -> None:
    for sender, receiver in at.ends.ways():
        await talk(sender, receiver, f"without a header, {sender.jid}")
    for door in at.doors:
        rows = await asyncio.to_thread(door.asked, "streams")
        methods = {(row["direction"], row["method"]) for row in rows if row["leg"] == "federation"}
        expect(methods, {("inbound", "zero-handshake"), ("outbound", "zero-handshake")}, door.domain)


def _heard(at: Agreed, certificate: Certificate | None, sent: str) -> str:
    """Return the data received on a connection to the listener until it closes."""
    heard = b""
    with socket.create_connection(("127.0.0.1", at.port), 5) as raw, client_context(certificate).wrap_socket(raw, server_hostname=INSIDE) as line:
        line.sendall(sent.encode())
        while data := line.recv(4096):
            heard += data
    return heard.decode()


@_blocking("a peer with another key, or without one, is refused for any data")
def _stranger(at: Agreed) -> None:
    forged = f"<message from='a@{OUTSIDE}' to='juliet@{INSIDE}/x'><body>forged</body></message>"
    for certificate in (at.stranger, None):
        heard = _heard(at, certificate, forged)
        check("<not-authorized" in heard and heard.endswith("</stream:stream>"), f"it received {heard!r}")
        step(heard)


@_blocking("the right key proves only its own domain, and a closing tag is answered")
def _others(at: Agreed) -> None:
    heard = _heard(at, at.certificates[1], f"<message from='a@else.example' to='juliet@{INSIDE}/x'><body>forged</body></message>")
    check("<invalid-from" in heard, f"it received {heard!r}")
    expect(_heard(at, at.certificates[1], "</stream:stream>"), "</stream:stream>", "the answer to the closing tag")
