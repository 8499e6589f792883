"""Back-pressure: a server that stalls slows down the senders. Nothing is lost or bounced, the order is kept, memory stays bounded."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.interop.conversation import collect, talk
from tests.lab.certificates import Authority
from tests.lab.client import Client, body
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import Lab, Process
from tests.lab.nameserver import nameserver
from tests.lab.peer import Stream, authenticated
from tests.lab.receiver import Receiver
from tests.lab.scenario import Stage, check, expect, expect_in_order, step
from tests.lab.servers.server import Server
from tests.lab.world import INSIDE, World, world

#: The limit of the gateway's lanes, and of its growth meanwhile (with the data in transit on 40 TLS streams).
MEMORY = 8 * 1024 * 1024
GROWTH = MEMORY + 64 * 1024 * 1024
#: Messages to a stalled server, bytes of each, and seconds of the stall.
STALLED, BYTES, STALL = 4000, 4096, 4.0
#: Peers of the crowd, and messages of each.
CROWD, EACH = 20, 2000
_QUEUE = {"queue": {"memory": MEMORY}}
servers = Stage("servers that stall", lambda lab: world(lab, "prosody", "prosody", _QUEUE))


class Watch:
    """The maximum memory of a process while the context was open, beyond its memory before."""

    def __init__(self, process: Process | None) -> None:
        assert process is not None
        self._process = process
        self._over = threading.Event()
        self._before = self._most = process.resident_bytes()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._most = max(self._most, self._process.resident_bytes())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def bounded(self, carried: int) -> None:
        grown = self._most - self._before
        step(f"{carried / 1e6:.0f} MB carried, the gateway grew by {grown / 1e6:.0f} MB from {self._before / 1e6:.0f} MB")
        check(grown <= GROWTH, f"the gateway grew by {grown / 1e6:.0f} MB, expected at most {GROWTH / 1e6:.0f}")


def _pause(server: Server, number: signal.Signals) -> None:
    for process in server.processes:
        process.signal(number)


async def _stalls(made: World, server: Server, sender: Client, receiver: Client) -> None:
    """Stop `server`, the receiver's, during a flood for it, and then continue it."""
    await talk(sender, receiver, "make sure that the streams are up")
    label = f"flood to {receiver.jid} "
    texts = [f"{label}{number} ".ljust(BYTES, "x") for number in range(STALLED)]
    with Watch(made.gateway.process) as watch:
        _pause(server, signal.SIGSTOP)
        try:
            for text in texts:
                await sender.message(receiver.jid, text)
            await asyncio.sleep(STALL)
        finally:
            _pause(server, signal.SIGCONT)
        seen = [body(one) for one in await collect(receiver, STALLED, label)]
    expect_in_order([(one or "").rstrip("x") for one in seen], [text.rstrip("x") for text in texts], "in order")
    await talk(sender, receiver, "after the flood")
    expect([one for one in receiver.inbox if (body(one) or "").startswith(label)], [], "messages that arrived twice")
    expect([one for one in sender.inbox if one.get("type") == "error"], [], "bounces")
    watch.bounded(STALLED * BYTES)


@servers.scenario("a backend that stalls: nothing lost, bounced or twice, in order, memory bounded", 120.0)
async def _backend(made: World) -> None:
    await _stalls(made, made.behind, made.ends.right, made.ends.left)


@servers.scenario("a peer that stalls: nothing lost, bounced or twice, in order, memory bounded", 120.0)
async def _peer(made: World) -> None:
    await _stalls(made, made.outside, made.ends.left, made.ends.right)


@dataclass
class Crowd:
    """A gateway with a raw backend that opens slowly and reads when the test says so, and the peers that connect to it."""

    gateway: Gateway
    authority: Authority
    backend: Receiver
    reads: threading.Event
    names: list[str]
    ends: dict[str, str] = field(default_factory=dict)  # the error that a peer received instead of a normal end


@asynccontextmanager
async def _crowd(lab: Lab) -> AsyncIterator[Crowd]:
    made = await asyncio.to_thread(_build, lab)
    try:
        yield made
    finally:
        made.reads.set()
        made.gateway.stop()
        made.backend.close()


def _build(lab: Lab) -> Crowd:
    dns, authority, door = nameserver(lab), Authority(lab.directory("authority")), gateway(lab, INSIDE)
    names = [f"crowd{number}.example" for number in range(CROWD)]
    for name in names:
        dns.serve(name, 1)
    dns.start()
    port, reads = lab.port(), threading.Event()
    changes = {**_QUEUE, "backend": {"acks": "auto"}}
    certificate = authority.for_domain(INSIDE)
    door.configure(
        backend=f"127.0.0.1:{port}", dns=dns, anchors=authority.file, certificates=[certificate], changes=changes,
    )
    door.command("setup", "prosody")
    anchors = str(door.folder / "state" / "backend-ca.pem")
    backend = Receiver(
        lab, INSIDE, certificate, anchors, port=port, opens=lambda: time.sleep(0.3), reads=lambda: reads.wait(120.0),
    )
    door.start()
    return Crowd(door, authority, backend, reads, names)


def _send(at: Crowd, stream: Stream, name: str) -> None:
    tail = f"</body><x xmlns='urn:example:x'>{'x' * BYTES}</x></message>"
    stream.raw.settimeout(120.0)
    for number in range(EACH):
        stream.send(f"<message from='a@{name}' to='b@{INSIDE}' id='{number}'><body>{number}{tail}")
    stream.send("</stream:stream>")
    condition, text = stream.end(120.0)
    if condition or not stream.closed:
        at.ends[name] = f"{condition or 'no closing tag'} {text}"


def _all_at_once(at: Crowd) -> None:
    streams = [(name, authenticated(at.gateway.port, INSIDE, name, at.authority.for_domain(name))) for name in at.names]
    senders = [threading.Thread(target=_send, args=(at, stream, name), daemon=True) for name, stream in streams]
    with Watch(at.gateway.process) as watch:
        for sender in senders:
            sender.start()
        time.sleep(STALL)
        at.reads.set()
        at.backend.wait(CROWD * EACH, 120.0)
        for sender in senders:
            sender.join(10.0)
    expect(at.ends, {}, "errors of the peers")
    check("Traceback" not in at.gateway.logged(), "a traceback in the gateway's log")
    came: dict[str, list[int]] = defaultdict(list)
    for stanza in at.backend.stanzas:
        came[stanza.get("from", "").partition("@")[2]].append(_number(stanza))
    expect(sorted(came), sorted(at.names), "peers")
    for name, numbers in came.items():
        expect_in_order(numbers, range(EACH), f"messages of {name} in order")
    step(f"{CROWD} peers, {EACH} messages of {BYTES} bytes each: all arrived, in order, once; connections to the backend: "
         f"{at.backend.connections} times")
    watch.bounded(CROWD * EACH * BYTES)


def _number(stanza: ET.Element) -> int:
    return int(stanza.get("id", "-1"))


crowd = Stage(f"{CROWD} peers at once at a backend that opens slowly and stalls", _crowd)


@crowd.scenario(f"{CROWD} peers at once: nothing lost, bounced or twice, in order, memory bounded", 240.0)
async def _at_once(at: Crowd) -> None:
    await asyncio.to_thread(_all_at_once, at)
