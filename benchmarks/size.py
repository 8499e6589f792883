"""`python -m benchmarks.size`: a million stanzas of 400 bytes in the spool, for 10,000 peers.

There are three measurements: the speed of the spool, the memory of a gateway that holds the stanzas while all peers are away,
and its memory and speed once the peers are back. One sink is all peers: TLS with a certificate for `*.peers.example`, EXTERNAL,
XEP-0198. `--peers 10` measures the same with few streams; the handshakes of 10,000 peers cost more than the stanzas. Memory is
the maximum of the gateway so far, at each measurement. Status 0: all targets were met.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.stanzas import message
from s2sgw.spool.interface import Spooled
from s2sgw.spool.sqlite_spool import SQLiteSpool
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.durability.xml_stream import SM, Offer, XMLStream, XMLStreamError
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import Lab, LabError, cpu_seconds
from tests.lab.nameserver import nameserver
from tests.lab.peer import server_context

HERE, ZONE = "bench.example", "peers.example"
#: Targets: MB of memory, seconds to the first delivery, stanzas a second.
MEGABYTES, FIRST, RATE = 250.0, 5.0, 15_000.0
_BATCH = 100
#: Seconds for a delivery, and for a gateway to show its queue.
_SECONDS = 180.0
_HELD_SECONDS = 10.0


def fill(path: Path, stanzas: int, peers: int) -> float:
    """Spool the stanzas as lanes do, batch by batch. Return stanzas a second, with each batch durable."""
    answered = threading.Semaphore(0)
    spool = SQLiteSpool(path, 1 << 40, lambda call: call(), durability="crash")
    began, batches = time.monotonic(), 0
    for batch in _batches(stanzas, peers):
        spool.append(batch, lambda error: answered.release())
        batches += 1
        if batches % 100 == 0:  # as much as a gateway would have in memory
            for _ in range(100):
                answered.acquire()
    spool.close(answered.release)
    for _ in range(batches % 100 + 1):
        answered.acquire()
    return stanzas / (time.monotonic() - began)


def _batches(stanzas: int, peers: int) -> Iterator[list[Spooled]]:
    """Yield a part of each lane in each round, so that the lanes are mixed in the file."""
    local, now = Domain.parse(HERE), time.time()
    pairs = [Pair(local, Domain.parse(f"p{number}.{ZONE}")) for number in range(peers)]
    texts = [message(HERE, str(pair.recipient)) for pair in pairs]
    each = stanzas // peers
    part = min(_BATCH, each)
    for first in range(1, each + 1, part):
        for pair, data in zip(pairs, texts, strict=True):
            now += 0.001
            stanza = Stanza("message", data, f"romeo@{pair.recipient}/orchard", f"juliet@{HERE}/balcony", "chat", "ab7f-00012")
            last = min(first + part, each + 1)
            yield [Spooled(pair, position, stanza, now, now + 86400.0) for position in range(first, last)]


class Sink:
    """All peers, in a separate process. It sends (seconds since its start, stanzas so far) through `pipe` from time to time."""

    def __init__(self, port: int, certificate: Certificate, pipe: Connection) -> None:
        self._port = port
        self._context = server_context(certificate)
        self._pipe = pipe
        self.count = 0
        self.first = 0.0

    async def run(self) -> None:
        await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=4096, limit=1 << 20)
        self._pipe.send("ready")
        while True:
            await asyncio.sleep(0.1)
            self._pipe.send((time.time(), self.first, self.count))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = XMLStream(reader, writer)
        try:
            await stream.receive(self._context, Offer(management=True))
            await self._count(stream)
        except (OSError, XMLStreamError, TimeoutError):
            pass
        finally:
            stream.close()

    async def _count(self, stream: XMLStream) -> None:
        """Count stanzas by their ends without parsing, because the gateway is measured."""
        mine, tail = 0, b""
        while data := await stream.read_bytes():
            if b"<enable " in data:
                stream.send(f"<enabled xmlns='{SM}'/>")
            if not self.first and b"<message" in data:
                self.first = time.time()
            found = (tail + data).count(b"</message>") - tail.count(b"</message>")
            tail = (tail + data)[-9:]
            mine += found
            self.count += found
            if b"<r " in data[-60:]:
                stream.send(f"<a xmlns='{SM}' h='{mine}'/>")


def _sink(port: int, certificate: Certificate, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(Sink(port, certificate, pipe).run())


def memory(pid: int, what: str = "VmRSS") -> float:
    """Return the MB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1]) / 1e3


def _gateway(lab: Lab, authority: Authority, port: int) -> Gateway:
    door, dns = gateway(lab, HERE), nameserver(lab)
    dns.start()
    door.configure(
        backend=f"127.0.0.1:{lab.port()}", dns=dns, anchors=authority.file, certificates=[authority.for_domain(HERE)],
        changes={
            "queue": {"hold": "1d"},
            "peers": {f"*.{ZONE}": {"route": f"127.0.0.1:{port}"}},
        },
    )
    (door.folder / "state").mkdir(mode=0o700)
    return door


def _told(what: str, value: float, unit: str, bound: float, good: bool) -> bool:
    """Print one line of the account: the figure, its target, and whether it is met. Return whether it is."""
    asked = "at most" if unit != "/s" else "at least"
    digits = 1 if unit == " s" else 0
    print(f"  {what:44} {value:>9,.{digits}f}{unit:4} {asked} {bound:,.0f}: {'met' if good else 'MISSED'}", flush=True)
    return good


def _held(door: Gateway) -> bool:
    """Measure the memory of a gateway that holds all stanzas, because its peers are away. Return whether it is little enough."""
    door.start()
    assert door.process is not None
    time.sleep(_HELD_SECONDS)
    most = memory(door.process.pid, "VmHWM")
    door.stop()
    return _told("held, no peer reachable: memory at its peak", most, " MB", MEGABYTES, most <= MEGABYTES)


def measure(lab: Lab, stanzas: int, peers: int) -> bool:
    """Print the figures; return whether they meet the targets."""
    authority, port = Authority(lab.directory("authority")), lab.port()
    door = _gateway(lab, authority, port)
    rate = fill(door.folder / "state" / "spool.db", stanzas, peers)
    size = len(message(HERE, f"p0.{ZONE}"))
    print(f"{stanzas:,} stanzas of {size} bytes for {peers:,} peers: spooled at {rate:,.0f}/s", flush=True)
    little = _held(door)
    ours, theirs = multiprocessing.Pipe()
    sink = multiprocessing.Process(target=_sink, args=(port, authority.for_domain(f"*.{ZONE}"), theirs), daemon=True)
    sink.start()
    try:
        assert ours.recv() == "ready"
        return _delivered(door, ours, stanzas) and little
    finally:
        sink.kill()
        door.stop()


def _delivered(door: Gateway, pipe: Connection, stanzas: int) -> bool:
    began, at = time.time(), time.time()
    door.start()
    assert door.process is not None
    first, count = 0.0, 0
    while count < stanzas and at < began + _SECONDS:
        if not pipe.poll(10.0):
            raise LabError("the sink is gone")
        at, first, count = pipe.recv()
    to_first, rate = (first or at) - began, count / max(at - first, 0.001)
    most, cpu = memory(door.process.pid, "VmHWM"), cpu_seconds(door.process.pid)
    met = [
        _told("delivered: the first after", to_first, " s", FIRST, to_first <= FIRST),
        _told("delivered: the rate from then on, to the last", rate, "/s", RATE, rate >= RATE),
        _told("delivered: memory at its peak", most, " MB", MEGABYTES, most <= MEGABYTES),
    ]
    print(f"  {count:,} of {stanzas:,} arrived; {cpu / max(count, 1) * 1e6:.0f} µs of the gateway's CPU each", flush=True)
    return count >= stanzas and all(met)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.size", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stanzas", type=int, default=1_000_000)
    parser.add_argument("--peers", type=int, default=0, help="only this many; the default is 10, then 10,000")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    good = True
    for peers in [arguments.peers] if arguments.peers else [10, 10_000]:
        with Lab(arguments.keep) as lab:
            try:
                good &= measure(lab, arguments.stanzas, peers)
            except (LabError, OSError, ValueError) as problem:
                print(f"failed: {problem}", flush=True)
                good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
