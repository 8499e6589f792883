"""The negotiation up to a proven domain: data that is injected, early, garbled, slow, half-closed, or in a load balancer's name."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
import xml.etree.ElementTree as ET
from itertools import cycle

from tests.attack.crowd import addresses
from tests.attack.shared import (
    GUESTS,
    SECONDS,
    VICTIM,
    Case,
    Cases,
    Phase,
    answer_to,
    begin,
    from_victim,
    guest,
    no_dial,
    played,
    source,
    stage,
)
from tests.attack.world import INSIDE, AttackWorld
from tests.lab.certificates import Certificate
from tests.lab.peer import STARTTLS, PeerError, Stream, header
from tests.lab.scenario import check, expect, step

_SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"


def _auth(text: str = "=", mechanism: str = "EXTERNAL") -> bytes:
    return f"<auth {_SASL} mechanism='{mechanism}'>{text}</auth>".encode()


def _result(domain: str, more: str = "") -> bytes:
    return f"<db:result from='{domain}' to='{INSIDE}'{more}>0123456789abcdef</db:result>".encode()


_INJECTED: Cases = {
    "a message behind STARTTLS": Case("header", lambda _: STARTTLS + from_victim(), ("", "policy-violation", "not-authorized")),
    "a header and SASL behind STARTTLS": Case(
        "header", lambda domain: STARTTLS + header(INSIDE, domain) + _auth(), ("", "policy-violation", "not-authorized")),
    "white space behind STARTTLS": Case("header", lambda _: STARTTLS + b"\n", ("", "policy-violation")),
}
_UNPROVEN = ("invalid-from", "not-authorized")
_EARLY: Cases = {
    "a message before TLS": Case("header", lambda _: from_victim(), _UNPROVEN),
    "a message in the packet of the header": Case("raw", lambda _: header(INSIDE, VICTIM) + from_victim(), _UNPROVEN),
    "a message after TLS": Case("tls", from_victim, _UNPROVEN),
    "SASL before TLS": Case("header", lambda _: _auth(), ("policy-violation", "not-authorized", "unsupported-stanza-type", "open")),
    "dialback before TLS": Case("header", lambda domain: _result(domain) + from_victim(domain), ("policy-violation", "not-authorized")),
    "a message behind a dialback request": Case("tls", lambda domain: _result(domain) + from_victim(domain), _UNPROVEN),
    "resumption before a proof": Case(
        "tls", lambda _: b"<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>", ("not-authorized", "unsupported-stanza-type", "open")),
    "acknowledgements before a proof": Case("tls", lambda _: b"<r xmlns='urn:xmpp:sm:3'/>" * 500, ("not-authorized", "unsupported-stanza-type", "policy-violation", "open")),
}
_REFUSED = ("invalid-from", "not-authorized", "policy-violation", "unsupported-stanza-type")
_SASL_TRICKS: Cases = {
    "EXTERNAL that was not offered": Case("tls", lambda _: _auth() + from_victim(), _REFUSED),
    "PLAIN": Case("tls", lambda domain: _auth("AGEAYg==", "PLAIN") + from_victim(domain), _REFUSED),
    "another mechanism": Case("tls", lambda domain: _auth("=", "ANONYMOUS") + from_victim(domain), _REFUSED),
    "no base64": Case("tls", lambda domain: _auth("%%%") + from_victim(domain), _REFUSED),
    "200 kB of it": Case("tls", lambda _: _auth("A" * 200_000), ("policy-violation",)),
    "a response without a question": Case("tls", lambda domain: f"<response {_SASL}/>".encode() + from_victim(domain), _REFUSED),
    "abort, again and again": Case("tls", lambda _: f"<abort {_SASL}/>".encode() * 1000, ("not-authorized", "policy-violation", "unsupported-stanza-type")),
    "failure without end": Case("tls", lambda _: _auth("%%%") * 1000, ("policy-violation", "not-authorized")),
    "SASL once more": Case("proven", lambda _: _auth(), ("unsupported-stanza-type", "policy-violation", "not-authorized")),
    "success, by the peer": Case("tls", lambda domain: f"<success {_SASL}/>".encode() + from_victim(domain), _REFUSED),
}


def _hello(version: ssl.TLSVersion) -> bytes:
    """Return the first message of a TLS client that supports at most this version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


_RECORD = struct.Struct("!BHH")
_GARBLED: Cases = {
    "random bytes": Case("proceed", lambda _: bytes(range(1, 256)) * 40, ("",)),
    "HTTP": Case("proceed", lambda _: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ("",)),
    "XML in place of TLS": Case("proceed", lambda domain: header(INSIDE, domain) + from_victim(domain), ("",)),
    "a record that is too long": Case("proceed", lambda _: _RECORD.pack(22, 0x301, 0xFFFF) + b"\1" * 20_000, ("",)),
    "empty records": Case("proceed", lambda _: _RECORD.pack(22, 0x301, 0) * 5000, ("",)),
    "alerts": Case("proceed", lambda _: (_RECORD.pack(21, 0x303, 2) + b"\1\0") * 5000, ("", "open")),
    "a cipher too early": Case("proceed", lambda _: (_RECORD.pack(20, 0x303, 1) + b"\1") * 100, ("",)),
    "TLS 1.0": Case("proceed", lambda _: _hello(ssl.TLSVersion.TLSv1), ("",)),
    "TLS 1.1": Case("proceed", lambda _: _hello(ssl.TLSVersion.TLSv1_1), ("",)),
    "a hello twice": Case("proceed", lambda _: _hello(ssl.TLSVersion.TLSv1_2) * 2, ("",)),
}
CASES: Cases = {**_INJECTED, **_EARLY, **_SASL_TRICKS, **_GARBLED}


@stage.scenario("bytes behind STARTTLS are not taken into TLS", quick=True)
async def _injection(at: AttackWorld) -> None:
    with no_dial() as dials:
        await played(at, __name__, _INJECTED)
        expect(dials(), 0, "stanzas that were accepted")
    rows = at.gateway.asked("refusals", f"c0.{GUESTS}")
    check(any(row["cause"] == "tls-injection" for row in rows), f"not in the record: {rows}")


@stage.scenario("stanzas, SASL, dialback and acknowledgements before their time")
async def _early(at: AttackWorld) -> None:
    with no_dial() as dials:
        await played(at, __name__, _EARLY)
        expect(dials(), 0, "stanzas that were accepted")


@stage.scenario("SASL that was not offered, is garbled, or never ends")
async def _sasl(at: AttackWorld) -> None:
    with no_dial() as dials:
        await played(at, __name__, _SASL_TRICKS)
        expect(dials(), 0, "stanzas that were accepted")


@stage.scenario("TLS that is garbled, too old, or only records without end")
async def _garbled(at: AttackWorld) -> None:
    await played(at, __name__, _GARBLED)


# --- slow, and half-closed -------------------------------------------------------------------------------------------


def slow(port: int, number: int, seconds: float, phases: list[Phase]) -> None:
    """Hold connections in several phases; send one byte on each, one after another."""
    streams: list[Stream] = []
    saying = cycle(b"<starttls xmlns='urn:x:")
    sources = addresses("127.", number)
    end = time.monotonic() + seconds
    for at, phase in zip(range(number), cycle(phases), strict=False):
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            streams.append(begin(port, sources[at], phase, f"s{at}.{GUESTS}", None))
    while time.monotonic() < end:
        byte = bytes((next(saying),))
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.send(byte)
        time.sleep(0.3)


@stage.scenario("300 connections that send a byte from time to time, in each phase")
async def _slow(at: AttackWorld) -> None:
    async with at.under(slow, 8, number=300, phases=["raw", "header", "proceed", "tls"]):
        await asyncio.sleep(6)
        step(f"unproven {at.connections('unproven'):.0f}")


def half_closed(port: int, files: tuple[str, str], seconds: float) -> None:
    """Close the writing side in each phase, and continue reading, repeatedly."""
    certificate = Certificate(*files)  # type: ignore[arg-type]
    end, number = time.monotonic() + seconds, 0
    phases: tuple[Phase, ...] = ("raw", "header", "proceed", "tls", "proven")
    while time.monotonic() < end:
        number += 1
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            _half_close(port, f"127.33.{number % 250}.1", phases[number % 5], certificate)


def _half_close(port: int, address: str, phase: Phase, certificate: Certificate) -> None:
    stream = begin(port, address, phase, f"h{GUESTS}" if phase != "proven" else GUESTS, certificate if phase == "proven" else None)
    with contextlib.closing(stream):
        stream.raw.shutdown(socket.SHUT_WR)
        stream.end(3.0)


@stage.scenario("connections whose one side is closed, in each phase")
async def _half(at: AttackWorld) -> None:
    certificate = guest(at)
    async with at.under(half_closed, SECONDS, files=(str(certificate.chain), str(certificate.key))):
        for phase in ("raw", "header", "proceed", "tls", "proven"):
            began = time.monotonic()
            with contextlib.suppress(PeerError, OSError, ET.ParseError):
                await asyncio.to_thread(_half_close, at.port, source(), phase, certificate)
            check(time.monotonic() - began < 2.5, f"{phase}: the gateway keeps a connection that is half-closed")
    await asyncio.sleep(0.5)
    check(at.connections("unproven") <= 10, f"{at.connections('unproven'):.0f} connections are left")


# --- the PROXY protocol ----------------------------------------------------------------------------------------------

_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXIED = {
    "no address": b"PROXY TCP4 300.1.1.1 192.0.2.1 1 2\r\n", "another family": b"PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n",
    "no line": b"PROXY " + b"x" * 200, "no header": header(INSIDE, f"p.{GUESTS}"), "half a header": b"PROX",
    "a length of 65535": _V2 + struct.pack("!BBH", 0x21, 0x11, 0xFFFF) + b"x" * 100,
    "a header too short for its addresses": _V2 + struct.pack("!BBH", 0x21, 0x21, 4) + b"xxxx",
    "an unknown version": _V2 + struct.pack("!BBH", 0x91, 0x11, 12) + b"x" * 12,
    "two headers": b"PROXY TCP4 192.0.2.9 192.0.2.1 1 2\r\n" * 2,
}


def proxied(port: int, proxied_port: int, seconds: float) -> None:
    """Send wrong PROXY headers from an allowed address, and right ones from other addresses."""
    end = time.monotonic() + seconds
    for said in cycle(_PROXIED.values()):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            _said(proxied_port, "127.0.0.1", said, 0.3)
            _said(proxied_port, "127.34.0.1", b"PROXY TCP4 127.1.0.1 192.0.2.1 1 2\r\n" + header(INSIDE, GUESTS), 0.3)
            _said(port, "127.34.0.2", b"PROXY TCP4 127.1.0.1 192.0.2.1 1 2\r\n", 0.3)


def _said(port: int, address: str, said: bytes, seconds: float = 8.0) -> str:
    with contextlib.closing(Stream(socket.create_connection(("127.0.0.1", port), seconds, (address, 0)))) as stream:
        return answer_to(stream, said, seconds)


@stage.scenario("PROXY headers that are wrong, come from strangers, or come where none are expected")
async def _proxy(at: AttackWorld) -> None:
    async with at.under(proxied, 7, proxied_port=at.proxied_port):
        answers = await asyncio.gather(*(
            asyncio.to_thread(_said, at.proxied_port, "127.0.0.1", said) for said in _PROXIED.values()
        ))
        wrong = {name: answer for name, answer in zip(_PROXIED, answers, strict=True) if answer not in ("", "not-well-formed", "bad-format")}
        expect(wrong, {}, "headers that were accepted")
        said = b"PROXY TCP4 127.1.0.1 192.0.2.1 1 2\r\n" + header(INSIDE, GUESTS)
        expect(await asyncio.to_thread(_said, at.proxied_port, source(), said), "", "a header of a stranger")
        check(await asyncio.to_thread(_said, at.port, source(), said) != "open", "a header was believed where none is expected")
