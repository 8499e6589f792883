"""`python -m benchmarks`: one table, side by side, of what each relay moves and what a stanza costs it on this machine.

Every row is the same load: peers that federate by EXTERNAL over TLS and send messages of about 400 bytes as fast as they are
taken, and a sink that counts. Prosody and ejabberd do their nearest equal: s2s TLS in, an XEP-0114 component out. Each is
measured three times, and the best is shown: what else the machine did can only make it slower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.stanzas import message
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import PROJECT, Gateway, gateway
from tests.lab.lab import Lab, LabError, cpu_seconds
from tests.lab.nameserver import nameserver
from tests.lab.servers import ejabberd, packages, prosody
from tests.lab.servers.server import PASSWORD, Server, Site

DOMAIN = "bench.example"
COMPONENT = "sink.bench.example"
#: Messages of one measurement: enough for some seconds each.
COUNTS = {"prosody": 60_000, "ejabberd": 200_000, "gateway": 300_000, "bare": 500_000}
MANY_STREAMS = 20
#: Seconds that the last acknowledgements have before the ends of a measurement are closed.
LINGER = 0.8
_SECONDS = 120.0
#: Targets: at least this many times ejabberd's rate, at most so many microseconds of CPU a stanza.
TIMES_EJABBERD, CPU_MICROSECONDS = 2.0, 12.0
#: Target: this part of the relay's rate with XEP-0198 and custody on.
CUSTODY_PART = 0.7
RELAY, CUSTODY = "s2sgw, s2s TLS in, s2s TLS out", "s2sgw, XEP-0198 and custody on both legs"
DEFAULT = "s2sgw, the same, a ping behind each batch"
#: acks -> what the row is called, and the kind of the sink.
ACKS = {"tcp": (RELAY, "server"), "auto": (DEFAULT, "answering"), "sm": (CUSTODY, "managed")}
#: Measurements for one row.
REPEAT = 3


@dataclass(frozen=True)
class Row:
    """One measurement. `cpu` is microseconds of the relay's CPU per stanza."""

    what: str
    streams: int
    rate: float
    cpu: float
    megabytes: float

    def line(self) -> str:
        return f"{self.what:<44}{self.streams:>8}{self.rate:>12,.0f}{self.cpu:>14.1f}{self.megabytes:>10.1f}"


HEADING = f"{'relay':<44}{'streams':>8}{'stanzas/s':>12}{'CPU µs each':>14}{'MB/s in':>10}"


class Part:
    """A process of the measurement that speaks in lines: `ready`, then its report."""

    def __init__(self, module: str, job: Mapping[str, Any]) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(job)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )
        self._watch = threading.Timer(_SECONDS, self._process.kill)
        self._watch.daemon = True
        self._watch.start()

    def line(self) -> str:
        assert self._process.stdout is not None
        text = self._process.stdout.readline().strip()
        if not text:
            raise LabError(f"{self._name} ended early, or took more than {_SECONDS:.0f} s")
        return text

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._watch.cancel()
        self._process.terminate()
        self._process.wait(5)


@dataclass
class Ground:
    """What all measurements share."""

    lab: Lab
    authority: Authority
    peers: list[tuple[str, Certificate]]

    def load(self, port: int, to: str, streams: int, count: int) -> dict[str, Any]:
        peers = [[domain, str(one.chain), str(one.key)] for domain, one in self.peers[:streams]]
        return {"port": port, "to": to, "count": count, "peers": peers}

    def sink(self, kind: str, port: int, domain: str, count: int, anchors: Path | None = None) -> dict[str, Any]:
        certificate = self.authority.for_domain(domain)
        return {
            "kind": kind, "port": port, "domain": domain, "count": count, "secret": PASSWORD,
            "chain": str(certificate.chain), "key": str(certificate.key), "anchors": str(anchors or self.authority.file),
        }


@contextmanager
def parts() -> Iterator[Callable[[str, Mapping[str, Any]], Part]]:
    """Starts parts; all of them are ended at the end."""
    started: list[Part] = []

    def start(module: str, job: Mapping[str, Any]) -> Part:
        started.append(Part(module, job))
        return started[-1]
    try:
        yield start
    finally:
        for part in started:
            part.end()


def measure(ground: Ground, what: str, sink: dict[str, Any], load: dict[str, Any], cpu: Callable[[], float] | None) -> Row:
    """One row. `cpu` tells the relay's CPU seconds so far; None: the sink is what is measured."""
    with parts() as start:
        far = start("benchmarks.sink", {**sink, "warm": len(load["peers"])})
        far.line()
        near = start("benchmarks.load", load)
        near.line()
        far.line()
        before = cpu() if cpu else 0.0
        near.go()
        report = json.loads(far.line())
        used = cpu() - before if cpu else report["cpu"]
        time.sleep(LINGER)
    count = report["count"]
    size = len(message(load["peers"][0][0], load["to"]))
    rate = count / report["seconds"]
    return Row(what, len(load["peers"]), rate, used / count * 1e6, rate * size / 1e6)


def best(once: Callable[[], Row]) -> Row:
    """The fastest of `REPEAT` measurements."""
    rows = [once()]
    for _ in range(REPEAT - 1):
        time.sleep(1.0)
        rows.append(once())
    return max(rows, key=lambda row: row.rate)


def _server(ground: Ground, kind: str, start: Callable[..., Server]) -> Iterator[Row]:
    certificate = ground.authority.for_domain(DOMAIN)
    site = Site(ground.lab, DOMAIN, 1, ground.authority.file, certificate, verbose=False)
    server = start(site, component=COMPONENT)
    for streams in (1, MANY_STREAMS):
        count = COUNTS[kind]
        sink = ground.sink("component", server.component_port, COMPONENT, count)
        load = ground.load(server.s2s_port, COMPONENT, streams, count)
        yield best(partial(measure, ground, f"{kind}, s2s TLS in, component out", sink, load, server.cpu_seconds))
    server.stop(ground.lab)


def _bare(ground: Ground) -> Iterator[Row]:
    port = ground.lab.port()
    count = COUNTS["bare"]
    sink, load = ground.sink("bare", port, DOMAIN, count), ground.load(port, DOMAIN, 1, count)
    yield best(partial(measure, ground, "bare loop: TLS in, expat, nothing else", sink, load, None))


@contextmanager
def front(
    ground: Ground, acks: str, program: Sequence[str] = (),
) -> Iterator[tuple[Gateway, Callable[[int, int], tuple[dict[str, Any], dict[str, Any]]]]]:
    """A gateway, by `program` in place of twistd, and what makes the jobs of a sink and a load for so many streams and messages.

    "tcp": what is written counts as passed on; "auto": a ping behind each batch; "sm": XEP-0198 and custody on both legs.
    """
    lab, kind = ground.lab, ACKS[acks][1]
    door, dns, port = gateway(lab, DOMAIN), nameserver(lab), lab.port()
    for domain, _ in ground.peers:
        dns.serve(domain, 1)
    dns.start()
    door.configure(
        backend=f"127.0.0.1:{port}", dns=dns, anchors=ground.authority.file,
        certificates=[ground.authority.for_domain(DOMAIN)], changes={"backend": {"acks": acks}},
    )
    door.command("setup", "prosody")
    door.start(program=program)
    anchors = door.folder / "state" / "backend-ca.pem"

    def ends(streams: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        sink = {**ground.sink(kind, port, DOMAIN, count, anchors), "inner": door.inner}
        return sink, {**ground.load(door.port, DOMAIN, streams, count), "managed": acks == "sm"}

    yield door, ends
    door.stop()


def _gateway(ground: Ground, acks: str) -> Iterator[Row]:
    with front(ground, acks) as (door, ends):
        assert door.process is not None
        pid = door.process.pid
        for streams in (1, MANY_STREAMS):
            sink, load = ends(streams, COUNTS["gateway"])
            yield best(partial(measure, ground, ACKS[acks][0], sink, load, lambda: cpu_seconds(pid)))
            time.sleep(1.0)


PARTS: dict[str, Callable[[Ground], Iterator[Row]]] = {
    "bare": _bare,
    "gateway": partial(_gateway, acks="tcp"),
    "default": partial(_gateway, acks="auto"),
    "custody": partial(_gateway, acks="sm"),
    "ejabberd": lambda ground: _server(ground, "ejabberd", ejabberd.start),
    "prosody": lambda ground: _server(ground, "prosody", prosody.start),
}


def ground_in(lab: Lab) -> Ground:
    authority = Authority(lab.directory("authority"))
    names = [f"peer{number}.example" for number in range(1, MANY_STREAMS + 1)]
    return Ground(lab, authority, [(name, authority.for_domain(name)) for name in names])


def _verdict(rows: list[Row]) -> None:
    """How the gateway stands beside the targets."""
    ours = {row.streams: row for row in rows if row.what == RELAY}
    theirs = {row.streams: row for row in rows if row.what.startswith("ejabberd")}
    for streams in sorted(ours.keys() & theirs.keys()):
        times = ours[streams].rate / theirs[streams].rate
        print(f"{streams} stream(s): {times:.1f} × ejabberd's stanzas/s (target {TIMES_EJABBERD:.0f}), "
              f"{ours[streams].cpu:.1f} µs of CPU a stanza (target {CPU_MICROSECONDS:.0f} on one stream)")
    safe = {row.streams: row for row in rows if row.what == CUSTODY}
    for streams in sorted(ours.keys() & safe.keys()):
        part = safe[streams].rate / ours[streams].rate
        print(f"{streams} stream(s): with XEP-0198 and custody {part:.0%} of the relay's stanzas/s (target {CUSTODY_PART:.0%})")


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the folder and the processes end with the run
    packages.install()
    rows: list[Row] = []
    failed = 0
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"{ssl.OPENSSL_VERSION}")
    print(f"{_loaded()} before; each row is the best of {REPEAT}")
    print(HEADING, flush=True)
    with Lab(arguments.keep) as lab:
        ground = ground_in(lab)
        for name in arguments.parts or PARTS:
            failed += _measured(name, ground, rows)
    print(f"{_loaded()} after")
    _verdict(rows)
    return 1 if failed else 0


def _loaded() -> str:
    """How busy the machine was in the last minute: what is above its cores was not ours to use."""
    return f"load average {os.getloadavg()[0]:.1f}"


def _measured(name: str, ground: Ground, rows: list[Row]) -> int:
    """The rows of one part, each printed as it comes; 1 where it failed."""
    try:
        for row in PARTS[name](ground):
            rows.append(row)
            print(row.line(), flush=True)
    except (LabError, OSError, ValueError) as problem:
        print(f"{name}: failed: {problem}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
