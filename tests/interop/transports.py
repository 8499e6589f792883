"""All transports: both families, races past black holes, direct TLS, SOCKS5, the PROXY protocol, limits of the peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.interop.conversation import talk
from tests.lab.certificates import Authority
from tests.lab.client import Client, error
from tests.lab.guests import Door
from tests.lab.lab import Lab
from tests.lab.peer import SERVER, Stream, client_context
from tests.lab.receiver import Receiver
from tests.lab.scenario import Stage, check, expect, expect_in_order, step
from tests.lab.socks import SocksProxy
from tests.lab.transport_receiver import Far
from tests.lab.world import INSIDE, World, world

#: The source addresses of the gateway's streams to peers.
SOURCE = "127.0.0.7"
ONION = "abcdefghijklmnopqrstuvwxyz234567.onion"


@dataclass
class Gates(Door):
    """A `Door` with more ways in and out."""

    proxied: int = 0  # the port of a listener that expects the PROXY protocol
    socks: SocksProxy = field(kw_only=True)


@asynccontextmanager
async def _gates(lab: Lab) -> AsyncIterator[Gates]:
    socks, proxied = SocksProxy(lab.port(), {}), lab.port()
    changes = {
        "gateway": {"source_addresses": [SOURCE]}, "queue": {"hold": "20s"},
        "peers": {"*.onion": {"proxy": f"socks5://127.0.0.1:{socks.port}"}},
    }
    async with world(lab, "prosody", "prosody", changes) as made:
        await asyncio.to_thread(_enlarge, made, f"""
[[listen]]
endpoint = "tcp:{proxied}:interface=127.0.0.1"
proxy_protocol = true
trusted_proxies = ["127.0.0.1", "192.0.2.0/24"]
""")
        stranger = Authority(lab.directory("stranger"), "a stranger's CA")
        try:
            yield Gates(made, asyncio.get_running_loop(), stranger, proxied=proxied, socks=socks)
        finally:
            socks.close()


def _enlarge(made: World, text: str) -> None:
    """Restart the gateway with additions to its file."""
    made.gateway.stop()
    with made.gateway.config.open("a") as file:
        file.write(text)
    made.gateway.start()


stage = Stage("transports: families, races, direct TLS, SOCKS5, the PROXY protocol", _gates)


def _visit(title: str) -> Callable[[Callable[[Gates], None]], None]:
    """Decorate a blocking scenario, to be run in a thread."""
    def add(run: Callable[[Gates], None]) -> None:
        stage.scenario(title)(lambda at: asyncio.to_thread(run, at))
    return add


# --- outbound ----------------------------------------------------------------------------------------------------------


def _juliet(at: Door) -> Client:
    return at.made.ends.left


def _far(at: Door, domain: str, **options: object) -> Far:
    """Return a listening peer that is not in the DNS yet."""
    return Far(at.made.lab, domain, at.certificate(domain), str(at.made.authority.file), **options)  # type: ignore[arg-type]


def _serve(at: Door, domain: str, *records: str, hosts: tuple[str, ...] = ()) -> None:
    """Add records to the DNS. `records` are "xmpp-server priority port host"."""
    for record in records:
        service, priority, port, host = record.split()
        at.made.dns.records.append(f"_{service}._tcp.{domain}. 5 IN SRV {priority} 0 {port} {host}")
    at.made.dns.records.extend(hosts)
    at.made.dns.reload()


def _sent(at: Door, far: Receiver, text: str = "hello", seconds: float = 10.0) -> float:
    """Send a message from Juliet to a user of `far`; return the seconds until it has arrived."""
    start = time.monotonic()
    writing = _juliet(at).message(f"a@{far.domain}/x", text)
    asyncio.run_coroutine_threadsafe(writing, at.loop).result(5)
    got = far.wait(1, seconds)
    took = time.monotonic() - start
    expect(got[-1].findtext(f"{SERVER}body"), text, "the text")
    step(f"{far.domain}: arrived after {took * 1000:.0f} ms")
    return took


@contextlib.contextmanager
def _black_hole(address: str, port: int) -> Iterator[None]:
    """Return a listening socket whose queue is full: the kernel drops further connections."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        stack.enter_context(socket.create_server((address, port), family=family, backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex((address, port))
        time.sleep(0.1)
        yield


@_visit("a peer with only IPv6 and one with only IPv4 are reached, from the configured source address")
def _families(at: Gates) -> None:
    six = _far(at, "only-six.example", six=True)
    _serve(at, six.domain, f"xmpp-server 0 {six.port} six.example.")
    _sent(at, six)
    expect(six.callers, ["::1"], "the address that connected by IPv6")
    four = _far(at, "only-four.example")
    _serve(at, four.domain, f"xmpp-server 0 {four.port} four.example.")
    _sent(at, four)
    expect(four.callers, [SOURCE], "the address that connected by IPv4")
    six.close()
    four.close()


@_visit("R36: an IPv6 address that is a black hole costs a quarter of a second")
def _raced(at: Gates) -> None:
    far = _far(at, "raced.example")
    hosts = ("both.example. 5 IN A 127.0.0.1", "both.example. 5 IN AAAA ::1")
    _serve(at, far.domain, f"xmpp-server 0 {far.port} both.example.", hosts=hosts)
    with _black_hole("::1", far.port):
        took = _sent(at, far)
    check(0.2 < took < 1.5, f"it took {took:.2f} s")
    far.close()


@_visit("R36: after a target that refuses, or whose TLS is broken, the next priority is tried at once")
def _next(at: Gates) -> None:
    far, closed = _far(at, "second.example"), at.made.lab.port()
    _serve(at, far.domain, f"xmpp-server 0 {closed} localhost.", f"xmpp-server 5 {far.port} localhost.")
    took = _sent(at, far)
    check(took < 1.5, f"it took {took:.2f} s")
    far.close()
    stranger = Receiver(at.made.lab, "third.example", at.stranger.for_domain("third.example"))
    good = _far(at, "third.example")
    _serve(at, good.domain, f"xmpp-server 0 {stranger.port} localhost.", f"xmpp-server 5 {good.port} localhost.")
    took = _sent(at, good)
    expect((stranger.connections, stranger.stanzas), (1, []), "the untrusted server")
    check(took < 1.5, f"it took {took:.2f} s")
    good.close()
    stranger.close()


@_visit("the failure of all targets is known at once: the user gets the bounce when the hold time is over")
def _all_failed(at: Gates) -> None:
    ports = [at.made.lab.port() for _ in range(3)]
    _serve(at, "dead.example", *(f"xmpp-server {number} {port} localhost." for number, port in enumerate(ports)))
    asyncio.run_coroutine_threadsafe(_juliet(at).message("a@dead.example/x", "nobody"), at.loop).result(5)
    deadline = time.monotonic() + 3.0
    while not (rows := at.made.gateway.asked("refusals", "dead.example")) and time.monotonic() < deadline:
        time.sleep(0.05)
    check(rows, "no refusal was recorded within 3 s")
    expect(rows[0]["cause"], "connection-refused", "cause")


@_visit("XEP-0368: direct TLS out, with SNI and ALPN, and no STARTTLS on it")
def _direct(at: Gates) -> None:
    far = _far(at, "direct.example", direct=True)
    _serve(at, far.domain, f"xmpps-server 0 {far.port} localhost.", f"xmpp-server 5 {at.made.lab.port()} localhost.")
    _sent(at, far)
    expect(far.asked, [(far.domain, "xmpp-server")], "SNI and ALPN")
    check(not any("starttls" in said for said in far.said), f"STARTTLS under TLS: {far.said}")
    far.close()


@_visit("broken direct TLS: STARTTLS is used, and direct TLS is disabled for a day, which is reported")
def _direct_broken(at: Gates) -> None:
    far = _far(at, "halfway.example")
    _serve(at, far.domain, f"xmpps-server 0 {far.port} localhost.", f"xmpp-server 5 {far.port} localhost.")
    took = _sent(at, far)
    check(took < 2, f"it took {took:.2f} s")
    expect(far.connections, 2, "connections")
    check(at.made.gateway.logs("extension disabled"), "the log does not mention it")
    expect([row["without"] for row in at.made.gateway.asked("peers", far.domain)], [["direct-tls"]], "s2sgw peers: disabled")
    far.close()


@_visit("XEP-0478: a stanza above the peer's limit is bounced with the reason, a smaller one arrives")
def _limited(at: Gates) -> None:
    after = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>12000</max-bytes></limits>"
    far = _far(at, "narrow.example", after=after)
    _serve(at, far.domain, f"xmpp-server 0 {far.port} localhost.")

    async def ask() -> ET.Element:
        juliet = _juliet(at)
        ident = await juliet.message(f"a@{far.domain}/x", "x" * 13_000)
        return await juliet.wait(lambda got: got.get("id") == ident and got.get("type") == "error", 10, "a bounce")
    condition, text = error(asyncio.run_coroutine_threadsafe(ask(), at.loop).result(12))
    expect(condition, "policy-violation", "condition")
    step(text)
    _sent(at, far, "small enough")
    expect(len(far.stanzas), 1, "stanzas that arrived")
    far.close()


@_visit("an onion service through a SOCKS5 proxy, in both directions, without a DNS query")
def _onion(at: Gates) -> None:
    far = _far(at, ONION)
    at.socks.names[ONION] = far.port
    _sent(at, far)
    expect(at.socks.asked, [(ONION, 5269)], "requests to the proxy")
    at.greets(ONION)
    missing = "nosuchservice.onion"
    asyncio.run_coroutine_threadsafe(_juliet(at).message(f"a@{missing}/x", "x"), at.loop).result(5)
    time.sleep(0.5)
    check((missing, 5269) in at.socks.asked, f"the proxy was not asked for {missing}: {at.socks.asked}")
    process = at.made.dns.process
    check(process is not None and "onion" not in process.log.read_text(), "the name server got a query for an onion service")
    far.close()


@_visit("a dead peer is tried at growing intervals, however much is sent to it; its own stream ends the wait at once")
def _dead(at: Gates) -> None:
    domain, port = "sleeper.example", at.made.lab.port()
    texts = [f"number {number}" for number in range(40)]
    _serve(at, domain, f"xmpp-server 0 {port} localhost.")
    answered: list[float] = []
    with _hanging_up(port, answered):
        for text in texts:
            asyncio.run_coroutine_threadsafe(_juliet(at).message(f"a@{domain}/x", text), at.loop).result(5)
            time.sleep(0.2)
            if text == texts[0]:  # Prosody's stream must exist before it keeps the order (see `undeliverable`)
                check(_within(10.0, lambda: bool(answered)), "the gateway does not connect")
    step(f"tried {len(answered)} times in 8 s, at {', '.join(f'{when - answered[0]:.1f}' for when in answered)}")
    check(2 <= len(answered) <= 5, f"tried {len(answered)} times in 8 s")
    far = _far(at, domain, port=port)
    start = time.monotonic()
    at.enter(domain).close()
    far.wait(40)
    took = time.monotonic() - start
    step(f"all arrived {took * 1000:.0f} ms after its own stream")
    check(took < 1.5, f"it took {took:.1f} s")
    expect_in_order([got.findtext(f"{SERVER}body") for got in far.stanzas], texts, "in order")
    far.close()


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    """Return True if the condition holds within this many seconds."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


@contextlib.contextmanager
def _hanging_up(port: int, answered: list[float]) -> Iterator[None]:
    """Return a listener that accepts and closes each connection."""
    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()
                answered.append(time.monotonic())
    with socket.create_server(("127.0.0.1", port), backlog=16) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


# --- inbound -----------------------------------------------------------------------------------------------------------


def _authenticate(at: Gates, stream: Stream, domain: str) -> None:
    """Do STARTTLS and EXTERNAL on an open connection."""
    stream.open(INSIDE, domain)
    stream.starttls(client_context(at.certificate(domain)), INSIDE)
    stream.open(INSIDE, domain)
    stream.external(domain)
    stream.open(INSIDE, domain)


@_visit("PROXY protocol from load balancers, versions 1 and 2: the peer's address is the one in its header")
def _proxy_in(at: Gates) -> None:
    second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((203, 0, 113, 9, 127, 0, 0, 1)) + b"\x0f\xa1\x14\x95"
    for number, (preface, address) in enumerate((
        (b"PROXY TCP4 203.0.113.8 127.0.0.1 4000 5269\r\n", "203.0.113.8:4000"), (second, "203.0.113.9:4001"),
    )):
        domain = f"balanced{number}.example"
        at.made.dns.serve(domain, 1)
        at.made.dns.reload()
        stream = Stream.dial(at.proxied)
        stream.send(preface)
        _authenticate(at, stream, domain)
        stream.send(at.message(domain, f"by way of a load balancer {number}"))
        at.delivered(f"by way of a load balancer {number}")
        rows = at.made.gateway.asked("streams", domain)
        inbound = [row["address"] for row in rows if (row["leg"], row["direction"]) == ("federation", "inbound")]
        expect(inbound, [address], "address")
        stream.send("</stream:stream>")
        stream.end()


@_visit("PROXY protocol from load balancers: an unlisted address, or a stream without a header, is refused")
def _proxy_refused(at: Gates) -> None:
    other = socket.create_connection(("127.0.0.1", at.proxied), 5, source_address=("127.0.0.2", 0))
    other.settimeout(5)
    with contextlib.suppress(ConnectionError):
        other.sendall(b"PROXY TCP4 203.0.113.8 127.0.0.1 4000 5269\r\n")
        expect(other.recv(100), b"", "the answer to an unlisted address")
    bare = socket.create_connection(("127.0.0.1", at.proxied), 5)
    bare.settimeout(5)
    with contextlib.suppress(ConnectionError):
        bare.sendall(b"<?xml version='1.0'?><stream:stream xmlns='jabber:server'>")
        expect(bare.recv(100), b"", "the answer to a stream without a header")
    other.close()
    bare.close()
    check(at.made.gateway.logs("only listed proxies may connect here"), "the log does not mention the unlisted address")


# --- towards the backend ---------------------------------------------------------------------------------------------------


announced = Stage(
    "the PROXY protocol towards ejabberd",
    lambda lab: world(lab, "ejabberd", "prosody", {"backend": {"proxy_protocol": True}}),
)


@announced.scenario("PROXY protocol towards the backend: both directions, and the server logs the peer's address")
async def _announced(made: World) -> None:
    for _ in range(2):
        await talk(made.ends.left, made.ends.right, "out and back")
        await talk(made.ends.right, made.ends.left, "in and back")
    rows = made.gateway.asked("streams", "outside.example")
    addresses = [row["address"] for row in rows if (row["leg"], row["direction"]) == ("federation", "inbound")]
    step(f"the peer's streams: {addresses}")
    for address in addresses:
        logged = await asyncio.to_thread(made.behind.logs, f"Accepted proxied connection {address} ")
        check(logged, f"the server's log does not have {address}")
    check(addresses, "the peer has no stream")
