"""Servers that the gateway connects to: without TLS, injecting, lying, sending bombs, never reading, or the gateway itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.attack.honest import connect
from tests.attack.shared import (
    DOWN,
    EVIL,
    EVIL_PORT,
    LOOP,
    POSH_ADDRESS,
    POSH_SILENT,
    POSH_SILENT_ADDRESS,
    POSH_WEB,
    from_victim,
    no_dial,
    source,
    stage,
)
from tests.attack.world import INSIDE, AttackWorld
from tests.interop.trust_posh import Web, document
from tests.lab.certificates import Authority, Certificate
from tests.lab.peer import SASL, SERVER, TLS, PeerError, Stream, client_context, header, server_context
from tests.lab.scenario import check, expect, step

SECRET = "a secret"
_STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
_PROCEED = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
_EXTERNAL = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"
_SUCCESS = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
_CHALLENGE = "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>eA==</challenge>"
_ELSEWHERE = (
    "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>127.0.0.1:15271</see-other-host></stream:error>"
)
_FEATURES = "<stream:features>{}</stream:features>"


class HostileServer:
    """A listener that is the server of every domain below `EVIL`. The first label of the domain selects its behaviour."""

    def __init__(self, at: AttackWorld) -> None:
        self.plain: dict[str, bytes] = {}
        #: domains whose streams had TLS
        self.secured: set[str] = set()
        self.dials = 0
        #: domains to which a stanza was sent on an authenticated stream
        self.trusted: set[str] = set()
        certificate = at.certificate(f"*.{EVIL}")
        stranger = Authority(at.lab.directory("evil"), "s2sgw lab CA").self_signed(f"stranger.{EVIL}")
        self._context, self._strange = server_context(certificate), server_context(stranger)
        self._listener = socket.create_server(("127.0.0.1", EVIL_PORT), backlog=256)
        self._open: list[Stream] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Close the listener and all of its connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for stream in self._open:
            stream.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream = Stream(self._listener.accept()[0])
                self.dials += 1
                self._open.append(stream)
                threading.Thread(target=self._converse, args=(stream,), daemon=True).start()

    def _converse(self, stream: Stream) -> None:
        domain = ""
        with contextlib.suppress(PeerError, OSError, ET.ParseError, ValueError):
            domain = stream.wait_header().get("to", "")
            self._plain(stream, domain)
        if domain not in self.secured:
            self.plain[domain] = self.plain.get(domain, b"") + stream.heard

    def _plain(self, stream: Stream, domain: str) -> None:
        kind = domain.partition(".")[0]
        opening = header(INSIDE, domain).decode().removesuffix(">") + " id='evil'>"
        before = {
            "entities": "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>]>", "elsewhere": opening + _ELSEWHERE,
            "naked": opening + _FEATURES.format(""), "deep": opening + _FEATURES.format("<a>" * 50_000),
            "endless": opening + _FEATURES.format("<a/>" * 500_000), "silent": "",
            "many": opening + _FEATURES.format("<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" + "<mechanism>X</mechanism>" * 50_000),
        }
        if kind in before:
            stream.send(before[kind])
            stream.end(5.0)
            return
        stream.send(opening + _FEATURES.format(_STARTTLS))
        stream.expect(f"{TLS}starttls")
        if kind == "injected":
            stream.send(_PROCEED + opening + _FEATURES.format(_EXTERNAL) + _SUCCESS)
        else:
            stream.send(_PROCEED)
        if kind == "garbled":
            stream.send(random.Random(1).randbytes(20_000))
            stream.end(3.0)
            return
        stream.secure(self._strange if kind == "stranger" else self._context, None)
        self.secured.add(domain)
        self._authenticate(stream, domain, kind)

    def _authenticate(self, stream: Stream, domain: str, kind: str) -> None:
        stream.wait_header()
        opening = header(INSIDE, domain).decode().removesuffix(">") + " id='evil2'>"
        stream.send(opening + _FEATURES.format(_EXTERNAL))
        stream.expect(f"{SASL}auth")
        if kind == "challenging":
            stream.send(_CHALLENGE * 20_000)
            stream.end(5.0)
            return
        stream.send(_SUCCESS)
        stream.restart()
        stream.wait_header()
        stream.send(opening + _FEATURES.format("<sm xmlns='urn:xmpp:sm:3'/>" if kind == "lying" else ""))
        if kind == "lying":
            stream.send("<enabled xmlns='urn:xmpp:sm:3'/>" + "<a xmlns='urn:xmpp:sm:3' h='4000000000'/>" * 10)
        if kind == "speaking":
            stream.send(from_victim())
        if kind == "sink":
            time.sleep(60)
            return
        while (element := stream.next(5.0)) is not None:
            if element.tag == f"{SERVER}message":
                self.trusted.add(domain)


@contextmanager
def hostile_server(at: AttackWorld) -> Iterator[HostileServer]:
    """Listen while the block lasts."""
    server = HostileServer(at)
    try:
        yield server
    finally:
        server.close()


def _provoke(at: AttackWorld, domain: str, number: int = 1) -> None:
    """Let the echo answer `domain`, so that the gateway connects to its server."""
    with contextlib.closing(connect(at.port, source(), INSIDE, domain, at.certificate(domain), 10.0)) as stream:
        stream.send(f"<message from='a@{domain}' to='echo@{INSIDE}'><body>{SECRET}</body></message>" * number)
        time.sleep(0.2)


async def _provoked(at: AttackWorld, *kinds: str, seconds: float = 4.0) -> HostileServer:
    """Let the gateway connect to a server of each of these kinds, during honest traffic; return what they saw."""
    with hostile_server(at) as server:
        async with at.holding(seconds):
            await asyncio.gather(*(asyncio.to_thread(_provoke, at, f"{kind}.{EVIL}") for kind in kinds))
        await asyncio.sleep(0.5)
    told = b"".join(server.plain.values())
    check(SECRET.encode() not in told, f"a message was sent without TLS: {told[-300:]!r}")
    step(f"{server.dials} connections, messages to {', '.join(sorted(server.trusted)) or 'no server'}")
    check(server.dials >= len(kinds), "the gateway did not connect")
    return server


@stage.scenario("servers without TLS, with bytes behind <proceed/>, with garbled TLS or a certificate of another domain get no message", quick=True)
async def _untrusted(at: AttackWorld) -> None:
    server = await _provoked(at, "naked", "injected", "garbled", "stranger")
    expect(server.trusted, set(), "servers that were trusted")


@stage.scenario("servers that answer with bombs: entities, depth, endless features, mechanisms and challenges")
async def _bombs(at: AttackWorld) -> None:
    server = await _provoked(at, "entities", "deep", "endless", "many", "challenging", "silent")
    expect(server.trusted, set(), "servers that were trusted")


@stage.scenario("servers that redirect the gateway, acknowledge stanzas that were never sent, or send for others", quick=True)
async def _lies(at: AttackWorld) -> None:
    with no_dial() as dials:
        server = await _provoked(at, "elsewhere", "lying", "speaking")
        expect(dials(), 0, "connections to a redirect, or stanzas that were accepted")
    expect(server.trusted - {f"speaking.{EVIL}", f"lying.{EVIL}"}, set(), "servers that were trusted")


@stage.scenario("domains whose server is the gateway itself: it does not connect to itself", quick=True)
async def _loop(at: AttackWorld) -> None:
    domain = f"a.{LOOP}"
    async with at.holding(3):
        try:
            await asyncio.to_thread(_provoke, at, domain, 20)
        except PeerError as problem:
            step(f"refused: {str(problem)[:150]}")
        await asyncio.sleep(1)
        rows = at.gateway.asked("refusals", domain)
        check(any(row["cause"] == "loop" for row in rows), f"no loop in the record: {[row['cause'] for row in rows]}")


# --- the queue -------------------------------------------------------------------------------------------------------


def into_sink(port: int, domain: str, files: tuple[str, str], streams: int, seconds: float) -> None:
    """Let the echo answer a peer whose server never reads, as fast as it accepts messages."""
    certificate, end = Certificate(Path(files[0]), Path(files[1])), time.monotonic() + seconds
    said = f"<message from='a@{domain}' to='echo@{INSIDE}'><body>{'x' * 2000}</body></message>" * 20

    def pour(number: int) -> None:
        with contextlib.suppress(OSError, PeerError):
            stream = connect(port, f"127.52.{number}.1", INSIDE, domain, certificate, 8.0)
            while time.monotonic() < end:
                stream.send(said)

    threads = [threading.Thread(target=pour, args=(number,), daemon=True) for number in range(streams)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, end - time.monotonic()))


@stage.scenario("a peer whose server never reads has no more than its share of the queue, and others keep theirs", 90)
async def _sink(at: AttackWorld) -> None:
    domain, down = f"sink.{EVIL}", f"a.{DOWN}"
    certificate = at.certificate(domain)
    with hostile_server(at):
        files = (str(certificate.chain), str(certificate.key))
        async with at.under(into_sink, 6, domain=domain, files=files, streams=4):
            await asyncio.sleep(3)
            await asyncio.to_thread(_provoke, at, down)
            metrics = at.metrics()
            for where in ("memory", "disk"):
                used, limit = (metrics[f's2sgw_queue{kind}_bytes{{where="{where}"}}'] for kind in ("", "_limit"))
                step(f"{where}: {used / 1e6:.1f} of {limit / 1e6:.0f} MB")
                check(used <= limit * 0.5, f"one peer has {used / limit:.0%} of the queue's {where}")
        waiting = [row["stanzas"] for row in at.gateway.asked("lanes", down)]
        check(sum(waiting) == 1, f"the message for {down} no longer waits: {waiting}")
    at.gateway.command("queue", "drop", domain, check=False)
    at.gateway.command("queue", "drop", down, check=False)


# --- POSH ------------------------------------------------------------------------------------------------------------


def self_signed(port: int, files: tuple[str, str], seconds: float) -> None:
    """Claim new domains all the time whose web server never answers, with a certificate that proves none of them."""
    certificate, end = Certificate(Path(files[0]), Path(files[1])), time.monotonic() + seconds
    held: list[Stream] = []
    number = int(time.monotonic() * 1000)
    while time.monotonic() < end:
        number += 1
        domain = f"n{number}.{POSH_SILENT}"
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            stream = Stream(socket.create_connection(("127.0.0.1", port), 3, (f"127.53.{number % 250}.1", 0)))
            stream.open(INSIDE, domain)
            stream.starttls(client_context(certificate), INSIDE)
            stream.send(header(INSIDE, domain))
            held.append(stream)
        time.sleep(0.05)


@stage.scenario("strangers whose web servers never answer do not shut out a peer that POSH proves", 90)
async def _posh(at: AttackWorld) -> None:
    domain = f"good.{POSH_WEB}"
    strange = Authority(at.lab.directory("posh"), "nobody")
    own, any_ = strange.self_signed(domain), strange.self_signed("any.example")
    web = Web(POSH_ADDRESS, at.certificate(domain))
    web.page(domain, document(own))
    silent = socket.create_server((POSH_SILENT_ADDRESS, 443), backlog=1024)
    try:
        async with at.under(self_signed, 8, files=(str(any_.chain), str(any_.key))):
            await asyncio.sleep(4)
            began = time.monotonic()
            stream = await asyncio.to_thread(connect, at.port, source(), INSIDE, domain, own, 20.0)
            stream.close()
            seconds = time.monotonic() - began
            step(f"admitted by POSH after {seconds:.2f} s")
            check(seconds <= 2.0 * max(1.0, at.slowdown), f"a peer that POSH proves was admitted after {seconds:.1f} s")
    finally:
        silent.close()
        web.close()
