"""Streams that the gateway opens: a peer with thousands of domains does not keep others from the existing server or from peers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from s2sgw.s2s.destinations import HANDSHAKES, SHARE
from tests.attack.honest import connect
from tests.attack.world import HONEST, INSIDE, LEFT_DESCRIPTORS, AttackWorld, attack_world
from tests.lab.certificates import Certificate
from tests.lab.gateway import PROJECT
from tests.lab.lab import Lab, Process
from tests.lab.peer import DIALBACK, STREAMS, PeerError, Stream, header, stream_error
from tests.lab.scenario import Stage, check, step

BEHIND = "behind.example"
#: Streams of the gateway in total, fewer than the attackers request; and streams to the server for one owner.
OURS, PER_OWNER = 300, 64
#: Domains whose server is the scenario's listener; others, to which nothing may be sent; and seconds to wait for an event.
HOLE, HOLE_PORT = "hole.test", 15270
UNTOUCHED, UNTOUCHED_PORT = "untouched.test", 15271
AT_ONCE = 2.0
#: Memory of the queue (`queue.memory`).
MEMORY = 64 * 2**20


@dataclass
class Sharing:
    """The stage, with a server behind the gateway."""

    at: AttackWorld
    behind: Process
    inner: int
    view: int

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the lines of the server."""
        for line in self.behind.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def most(self) -> dict[str, int]:
        """Return the maximum number of streams of each peer, by its registered domain."""
        tables = [row["most"] for row in self.rows() if "most" in row]
        return dict(tables[-1]) if tables else {}  # type: ignore[call-overload]

    async def until_there(self, text: str, seconds: float = 10.0) -> float:
        """Wait until the server has the message; return the seconds that it took."""
        began = time.monotonic()
        while not any(row.get("message") == text for row in self.rows()):
            check(time.monotonic() < began + seconds, f"{text!r} did not arrive within {seconds:.0f} s")
            await asyncio.sleep(0.05)
        return time.monotonic() - began


@asynccontextmanager
async def sharing_world(lab: Lab) -> AsyncIterator[Sharing]:
    """Build the stage: the echo serves one domain, the server behind the gateway another."""
    port, inner, view = lab.port(), lab.port(), lab.port()
    argv = [sys.executable, "-m", "tests.attack.backend", str(port)]
    behind = lab.start("behind", argv, lab.directory("behind"), {"PYTHONPATH": str(PROJECT)})
    lab.wait_for_port(behind, port)
    server = {
        "kind": "s2s", "domains": [BEHIND], "address": f"127.0.0.1:{port}", "tls": "never", "acks": "tcp",
        "listen": f"tcp:{inner}:interface=127.0.0.1", "dns_view": f"127.0.0.1:{view}",
    }
    changes = {"backend": [{"kind": "echo", "domains": [INSIDE]}, server], "queue": {"streams": OURS}}
    services = {HOLE: ("hole.example", HOLE_PORT, 1), UNTOUCHED: ("untouched.example", UNTOUCHED_PORT, 1)}
    async with attack_world(lab, changes, also=(BEHIND,), services=services) as at:
        yield Sharing(at, behind, inner, view)


stage = Stage("outgoing streams under attack", sharing_world)


# --- many busy domains -----------------------------------------------------------------------------------------------


def busy(
    port: int, certificates: dict[str, tuple[str, str]], local: str, streams: int, domains: int, every: float, seconds: float,
) -> None:
    """Send from each of very many domains, at this interval. Each certificate is one peer's: a name, and its sub-domains."""
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_busy, args=(port, name, files, local, number, domains, every, end), daemon=True)
        for name, files in certificates.items() for number in range(streams)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.03)
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _busy(
    port: int, name: str, files: tuple[str, str], local: str, number: int, domains: int, every: float, end: float,
) -> None:
    certificate = Certificate(Path(files[0]), Path(files[1]))
    own = [f"s{number}x{each}.{name}" for each in range(domains)]
    with contextlib.suppress(OSError, PeerError, ET.ParseError):
        stream = connect(port, f"127.20.{number}.1", local, own[0], certificate, 30.0)
        proven = [own[0]]
        due = time.monotonic() + every
        while time.monotonic() < end:
            if len(proven) < domains:
                stream.send(f"<db:result from='{own[len(proven)]}' to='{local}'>0123456789abcdef</db:result>")
                stream.expect(f"{DIALBACK}result", seconds=30.0)
                proven.append(own[len(proven)])
                time.sleep(0.11)  # as many as one stream may claim
            if time.monotonic() > due or len(proven) == domains:
                time.sleep(max(0.0, due - time.monotonic()))
                due = time.monotonic() + every
                stream.send("".join(f"<message from='a@{each}' to='b@{local}'><body>busy</body></message>" for each in proven))


def _files(certificate: Certificate) -> tuple[str, str]:
    return str(certificate.chain), str(certificate.key)


async def _fresh(world: Sharing, number: int) -> float:
    """Let a new peer send a message to the server; return the seconds until it arrives."""
    at = world.at
    domain = f"new{number}-{int(time.monotonic() * 1000)}.example"
    stream = await asyncio.to_thread(connect, at.port, f"127.21.0.{number + 1}", BEHIND, domain, at.certificate(domain), 8.0)
    stream.send(f"<message from='a@{domain}' to='b@{BEHIND}'><body>{domain}</body></message>")
    seconds = await world.until_there(domain)
    stream.close()
    return seconds


async def _outbound(at: AttackWorld, listener: socket.socket, domain: str, source: str) -> float:
    """Let the echo answer a peer whose server is new to the gateway; return the seconds until the gateway connects to that server."""
    stream = await asyncio.to_thread(connect, at.port, source, INSIDE, domain, at.certificate(domain), 8.0)
    began = time.monotonic()
    stream.send(f"<message from='a@{domain}' to='echo@{INSIDE}'><body>hello</body></message>")
    connection, _ = await asyncio.to_thread(listener.accept)
    seconds = time.monotonic() - began
    connection.close()
    stream.close()
    return seconds


@stage.scenario("a peer with 4,000 busy sub-domains: others reach the server at once, which sees few streams of it", 180)
async def _one_peer(world: Sharing) -> None:
    await _crowded(world, ["crowded.example"], streams=63, seconds=30, every=5.0)


@stage.scenario("eight peers with more busy sub-domains than there are streams", 180)
async def _eight_peers(world: Sharing) -> None:
    await _crowded(world, [f"crowd{number}.example" for number in range(8)], streams=2, seconds=24, every=2.0)


async def _crowded(world: Sharing, names: list[str], streams: int, seconds: float, every: float) -> None:
    at = world.at
    certificates = {name: _files(at.certificate(name, f"*.{name}")) for name in names}
    async with at.under(
        busy, seconds, certificates=certificates, local=BEHIND, streams=streams, domains=PER_OWNER, every=every,
        left_open=LEFT_DESCRIPTORS + min(PER_OWNER * len(names), OURS),  # streams to the server: lanes still wait
    ):
        used = at.process.cpu_seconds()
        await asyncio.sleep(seconds - 12)
        used = at.process.cpu_seconds() - used
        with socket.create_server(("127.0.0.1", HOLE_PORT)) as listener:
            listener.settimeout(10)
            out = await _outbound(at, listener, f"one.{HOLE}", "127.22.0.1")
        came = [await _fresh(world, number) for number in range(3)]
        lanes = sum(row["stanzas"] > 0 for row in at.gateway.asked("lanes"))
        step(
            f"{used / (seconds - 12):.0%} of a processor; streams to the server {world.most()}, {lanes} lanes wait; "
            f"from fresh peers in {', '.join(f'{each:.2f}' for each in came)} s, to a new peer in {out:.2f} s",
        )
        check(max(came) <= AT_ONCE, f"the message of a fresh peer took {max(came):.1f} s")
        check(out <= AT_ONCE, f"a message to a new peer was on its way after {out:.1f} s")
    most = {name: number for name, number in world.most().items() if name in names}
    check(sorted(most) == sorted(names), f"not all reached the server: {most}")
    check(max(most.values()) <= PER_OWNER, f"the server had {most} streams")


# --- a server that stands still ---------------------------------------------------------------------------------------


def pour(port: int, local: str, name: str, files: tuple[str, str], streams: int, seconds: float) -> None:
    """Send messages as fast as possible, on several streams, each as another sub-domain of one peer."""
    certificate, end = Certificate(Path(files[0]), Path(files[1])), time.monotonic() + seconds
    threads = [threading.Thread(target=_pour, args=(port, at, f"s{at}.{name}", local, certificate, end), daemon=True) for at in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _pour(port: int, at: int, own: str, local: str, certificate: Certificate, end: float) -> None:
    said = f"<message from='a@{own}' to='b@{local}'><body>{'x' * 400}</body></message>" * 30
    with contextlib.suppress(OSError, PeerError, ET.ParseError):
        stream = connect(port, f"127.74.{at}.1", local, own, certificate, 10.0)
        while time.monotonic() < end:
            stream.send(said)


@stage.scenario("the server stands still while a peer floods it: what another peer sends meanwhile arrives as soon as it goes on", 120)
async def _stands_still(world: Sharing) -> None:
    at, name, domain, number = world.at, "flood.example", "patient.example", 100
    stream = await asyncio.to_thread(connect, at.port, "127.75.0.1", BEHIND, domain, at.certificate(domain), 8.0)
    said = f"<message from='a@{domain}' to='b@{BEHIND}'><body>patient {{}}</body></message>"
    stream.send(said.format("before"))
    await world.until_there("patient before")
    async with at.under(
        pour, 10, local=BEHIND, name=name, files=_files(at.certificate(name, f"*.{name}")), streams=8,
        left=MEMORY, left_open=LEFT_DESCRIPTORS + 2 * 8,  # stanzas still wait
    ):
        world.behind.signal(signal.SIGSTOP)
        await asyncio.sleep(3)
        for each in range(number):
            stream.send(said.format(each))
        await asyncio.sleep(4)
        world.behind.signal(signal.SIGCONT)
        seconds = await world.until_there(f"patient {number - 1}", 30.0)
        step(f"arrived {seconds:.2f} s after the server went on")
        check(seconds <= 2 * AT_ONCE * at.noise, f"it took {seconds:.1f} s")
    stream.close()
    came = [row["message"] for row in world.rows() if row.get("from") == f"a@{domain}"][1:]
    check(came == [f"patient {each}" for each in range(number)], f"{len(came)} arrived, or not in their order: {came[:5]}")


# --- servers that accept connections and send nothing -----------------------------------------------------------------


@stage.scenario("1,000 domains whose server takes connections and says nothing: other peers are reached at once", 180)
async def _holes(world: Sharing) -> None:
    at = world.at
    certificate = at.certificate(HOLE, f"*.{HOLE}")
    with socket.create_server(("127.0.0.1", HOLE_PORT), backlog=4096) as hole:
        held: list[socket.socket] = []
        taking = asyncio.create_task(_take(hole, held))
        async with at.under(
            busy, 30, certificates={HOLE: _files(certificate)}, local=INSIDE, streams=16, domains=PER_OWNER, every=3.0,
            left_open=LEFT_DESCRIPTORS + HANDSHAKES // SHARE,  # handshakes with the silent servers: stanzas still wait for them
        ):
            await asyncio.sleep(20)
            metrics = at.metrics()
            handshakes = metrics['s2sgw_handshakes{purpose="outbound",state="in-flight"}']
            came = [await _fresh(world, number) for number in range(3)]
            step(f"{len(held)} connections taken, {handshakes:.0f} handshakes under way; from fresh peers in {max(came):.2f} s")
            check(max(came) <= AT_ONCE, "a fresh peer's message to the server waited for handshakes with silent servers")
            check(not any(row["cause"] for row in at.gateway.asked("lanes", HONEST)), "the honest peer's lane waits")
            check(0 < handshakes <= HANDSHAKES // SHARE, "one owner has more handshakes under way than it may")
        taking.cancel()
        for each in held:
            each.close()


async def _take(listener: socket.socket, held: list[socket.socket]) -> None:
    listener.setblocking(False)
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        held.append(connection)


# --- another user of this machine --------------------------------------------------------------------------------------


def at_the_inner_doors(port: int, inner: int, view: int, seconds: float) -> None:
    """Claim to be the server at the gateway's inner listener, and send garbage to its DNS view."""
    end, number = time.monotonic() + seconds, 0
    questions = [
        b"", b"\0" * 12, bytes(range(256)) * 2, b"\xff" * 512, b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x3f" + b"a" * 63 + b"\0\0\xff\0\1",
        b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\x21\0\1", b"\0\1\1\0\xff\xff\0\0\0\0\0\0",
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        while time.monotonic() < end:
            number += 1
            udp.sendto(questions[number % len(questions)], ("127.0.0.1", view))
            if number % 10 == 0:
                with contextlib.suppress(OSError, PeerError, ET.ParseError):
                    _claimed(inner, f"x{number}.{UNTOUCHED}", 0.5)
            time.sleep(0.002)


def _claimed(inner: int, to: str, seconds: float = 5.0) -> str:
    """Claim to be the server, with another dialback key, and send a message; return "" if the stream ends without an error."""
    with contextlib.closing(Stream.dial(inner)) as stream:
        stream.send(header(to, BEHIND))
        stream.wait_header(seconds)
        stream.send(f"<db:result from='{BEHIND}' to='{to}'>made up</db:result>")
        stream.send(f"<message from='a@{BEHIND}' to='b@{to}'><body>not of the server</body></message>")
        end = time.monotonic() + seconds
        while (element := stream.next(max(0.01, end - time.monotonic()))) is not None:
            if element.tag == f"{STREAMS}error":
                return stream_error(element)[0]
            if element.tag == f"{DIALBACK}result" and element.get("type") == "valid":
                return "valid"
    return ""


@stage.scenario("another user of this machine at the inner listener and the DNS view")
async def _inside(world: Sharing) -> None:
    at = world.at
    with socket.create_server(("127.0.0.1", UNTOUCHED_PORT)) as listener:
        listener.setblocking(False)
        async with at.under(at_the_inner_doors, 4, inner=world.inner, view=world.view):
            answers = [await asyncio.to_thread(_claimed, world.inner, f"v{number}.{UNTOUCHED}") for number in range(3)]
        step(f"answers: {answers}")
        check("valid" not in answers, "another process was accepted as the server")
        try:
            listener.accept()
        except BlockingIOError:
            pass
        else:
            check(False, "a message of another process was sent to a peer")
