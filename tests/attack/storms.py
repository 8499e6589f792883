"""Two things at once: streams that are resumed while stanzas are in flight, the largest stanzas in the smallest pieces, direct TLS."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import count
from pathlib import Path

from tests.attack.honest import connect
from tests.attack.shared import GUESTS, guest, source, stage
from tests.attack.world import INSIDE, AttackWorld
from tests.lab.certificates import Certificate
from tests.lab.peer import PeerError, Stream, client_context, header, mechanisms
from tests.lab.scenario import check, step

_SM = "xmlns='urn:xmpp:sm:3'"
_RESUMED, _FAILED = "{urn:xmpp:sm:3}resumed", "{urn:xmpp:sm:3}failed"


def again_and_again(number: int, seconds: float, run: Callable[[int, float], None]) -> None:
    """Call `run(number of the thread, end)` repeatedly in each of these threads, until the end."""
    end = time.monotonic() + seconds

    def repeat(at: int) -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError, PeerError, ET.ParseError):
                run(at, end)
            time.sleep(0.02)

    started = [threading.Thread(target=repeat, args=(at,), daemon=True) for at in range(number)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(max(0.0, end - time.monotonic()) + 0.2)


def both_ways(port: int, address: str, domain: str, certificate: Certificate) -> Stream:
    """Return an authenticated stream that carries stanzas in both directions (XEP-0288)."""
    stream = Stream(socket.create_connection(("127.0.0.1", port), 10, (address, 0)))
    try:
        stream.open(INSIDE, domain)
        stream.starttls(client_context(certificate), INSIDE)
        stream.open(INSIDE, domain)
        stream.send("<bidi xmlns='urn:xmpp:bidi'/>")
        stream.external(domain)
        stream.open(INSIDE, domain)
    except BaseException:
        stream.close()
        raise
    return stream


# --- resumption ------------------------------------------------------------------------------------------------------


def resumptions(port: int, files: list[str], seconds: float) -> None:
    """Resume streams on other connections as soon as possible, several times each, while the echo's answers come back on them."""
    certificate = Certificate(*map(Path, files))
    again_and_again(10, seconds, lambda at, end: _resume(port, certificate, at, end))


def _resume(port: int, certificate: Certificate, at: int, end: float) -> None:
    domain = f"z{at}.{GUESTS}"
    stream = both_ways(port, f"127.61.{at}.1", domain, certificate)
    stream.send(f"<enable {_SM} resume='true' max='{'9' * at}'/>")
    id, held = stream.expect("{urn:xmpp:sm:3}enabled").get("id"), [stream]
    for number in count():
        stream.send(f"<message from='a@{domain}' to='echo@{INSIDE}'><body>{number}</body></message>" * 5 + f"<r {_SM}/>")
        stream = both_ways(port, f"127.61.{at}.2", domain, certificate)
        stream.send(f"<resume {_SM} previd='{id}' h='0'/>" * (1 + number % 3))
        held.append(stream)
        answer = stream.next(5.0)
        while answer is not None and answer.tag not in (_RESUMED, _FAILED):
            answer = stream.next(5.0)
        if answer is None or answer.tag == _FAILED or time.monotonic() > end:
            return
        if len(held) > 2:
            held.pop(0).close()


@stage.scenario("peers that resume their streams endlessly while stanzas are in flight in both directions, and reloads meanwhile", 60)
async def _resumptions(at: AttackWorld) -> None:
    certificate = guest(at)
    async with at.under(resumptions, 6, files=[str(certificate.chain), str(certificate.key)]):
        for _ in range(5):
            await asyncio.sleep(1)
            at.process.signal(signal.SIGHUP)
    number = at.metrics()['s2sgw_resumptions_total{outcome="resumed",role="receiving"}']
    step(f"{number:.0f} streams resumed")
    check(number > 10, "hardly any stream was resumed")


# --- large stanzas -----------------------------------------------------------------------------------------------------

_ATTRIBUTES = "".join(f" a{number}='1'" for number in range(32)) + "".join(f" xmlns:p{number}='u:{number}'" for number in range(30))
#: Stanzas of the maximum size, each with as many as possible of: elements, attributes and namespaces, levels, entities, children, values.
_INSIDES = (
    f"<x xmlns='u:x'>{'<a/>' * 120_000}</x>",
    f"<x xmlns='u:x'>{f'<a{_ATTRIBUTES}/>' * 500}</x>",
    f"<x xmlns='u:x'>{('<a>' * 60 + '</a>' * 60) * 1000}</x>",
    f"<x xmlns='u:x'>{'&amp;' * 100_000}</x>",
    "".join(f"<c xmlns='u:{number}'>{'<b/>' * 200}</c>" for number in range(500)),
    "<x xmlns='u:x'>" + "<a b='&quot;'/>" * 33_000 + "</x>",
)


def large(port: int, files: list[str], seconds: float) -> None:
    """Send stanzas of nearly the maximum size; two of the peers send theirs in records of one byte."""
    certificate = Certificate(*map(Path, files))
    again_and_again(len(_INSIDES) + 2, seconds, lambda at, end: _send_large(port, certificate, at, end))


def _send_large(port: int, certificate: Certificate, at: int, end: float) -> None:
    domain = f"g{at}.{GUESTS}"
    stream = connect(port, f"127.66.{at}.1", INSIDE, domain, certificate, 10.0)
    said = f"<message from='a@{domain}' to='echo@{INSIDE}'><body>x</body>{_INSIDES[at % len(_INSIDES)]}</message>"
    while time.monotonic() < end:
        if at < len(_INSIDES):
            stream.send(said)
            time.sleep(0.05)
        else:
            for byte in said[:2000]:
                stream.send(byte)


@stage.scenario("the largest stanzas, of as many elements, attributes, namespaces and entities as there is room for, also byte by byte", 60)
async def _large(at: AttackWorld) -> None:
    certificate, used = guest(at), at.process.cpu_seconds()
    async with at.under(large, 5, files=[str(certificate.chain), str(certificate.key)]):
        pass
    step(f"{at.process.cpu_seconds() - used:.1f} s of CPU")


# --- direct TLS --------------------------------------------------------------------------------------------------------

_PROTOCOLS: tuple[list[str], ...] = (
    ["h2"], ["http/1.1", "xmpp-client"], ["xmpp-server"], ["x" * 255, "xmpp-server"], ["xmpp-server"] * 50, [], ["\0"], ["xmpp-serve"],
)
_NAMES = (
    INSIDE, "x" * 63 + ".example", INSIDE.upper(), "127.0.0.1", "xn--a.example", "a" * 240 + ".b", "nobody.example", None,
    "xn--" + "z" * 40 + ".example",
)


def directly(port: int, direct_port: int, files: list[str], seconds: float) -> None:
    """Connect by direct TLS with other protocols in ALPN, odd server names, or no TLS at all."""
    certificate = Certificate(*map(Path, files))
    numbers = count()
    again_and_again(8, seconds, lambda at, end: _direct(direct_port, certificate, at, next(numbers)))


def _direct(port: int, certificate: Certificate, at: int, number: int) -> None:
    said = header(INSIDE, f"d{at}.{GUESTS}")
    made = socket.create_connection(("127.0.0.1", port), 3, (f"127.71.{at}.1", 0))
    with contextlib.closing(made), contextlib.suppress(ValueError):  # Python refuses some names
        if number % 10 == 9:
            made.sendall(said)
            made.recv(100)
            return
        context = client_context(certificate if number % 2 else None)
        if protocols := _PROTOCOLS[number % len(_PROTOCOLS)]:
            context.set_alpn_protocols(protocols)
        secured = context.wrap_socket(made, server_hostname=_NAMES[number % len(_NAMES)])
        secured.settimeout(2)
        secured.sendall(said)
        if number % 3:
            secured.recv(65536)


def _offered(at: AttackWorld, protocols: list[str]) -> list[str]:
    """Return the mechanisms that are offered by direct TLS with these protocols."""
    context = client_context(guest(at))
    context.set_alpn_protocols(protocols)
    with contextlib.closing(socket.create_connection(("127.0.0.1", at.direct_tls_port), 8, (source(), 0))) as made:
        stream = Stream(context.wrap_socket(made, server_hostname=INSIDE))
        return mechanisms(stream.open(INSIDE, f"direct.{GUESTS}"))


@stage.scenario("direct TLS with other protocols in ALPN, odd server names, or no TLS at all", 60)
async def _directly(at: AttackWorld) -> None:
    certificate = guest(at)
    files = [str(certificate.chain), str(certificate.key)]
    async with at.under(directly, 4, direct_port=at.direct_tls_port, files=files):
        check("EXTERNAL" in await asyncio.to_thread(_offered, at, ["h2", "xmpp-server"]), "our protocol among others is not accepted")
        for protocols in (["h2"], ["xmpp-client"]):
            try:
                await asyncio.to_thread(_offered, at, protocols)
            except (OSError, PeerError):
                continue
            check(False, f"{protocols} is accepted")
