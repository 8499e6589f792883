"""The common part of all measurements: the lab's folder and CA, the peers, and the processes that send and receive."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from s2sgw.runtime.turn_watch import BUCKETS
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import PROJECT, Gateway, gateway
from tests.lab.lab import Lab, LabError
from tests.lab.nameserver import Nameserver, nameserver
from tests.lab.peer import PeerError
from tests.lab.servers.server import PASSWORD

DOMAIN = "bench.example"
COMPONENT = "sink.bench.example"
#: Peers with a certificate each.
MANY_STREAMS = 20
#: acks of the gateway's backend -> the kind of sink behind it
SINKS = {"tcp": "server", "auto": "answering", "sm": "managed"}
#: Errors that end one measurement and not the run.
ERRORS = LabError, PeerError, OSError, ValueError, subprocess.SubprocessError
#: Seconds for a worker.
WORKER_SECONDS = 120.0
#: Seconds for a command of the gateway, and for a scrape of its metrics.
_COMMAND_SECONDS, _SCRAPE_SECONDS = 150.0, 60.0
#: Seconds until a gateway that accepts connections must answer there.
_CONSOLE_SECONDS = 10.0
_TURNS = "s2sgw_reactor_turn_cpu_seconds"


class Worker:
    """A process of the measurement that communicates in lines: `ready`, then its report."""

    def __init__(self, module: str, job: Mapping[str, Any] | Path) -> None:
        """`job` is its work, or the file that has it as JSON."""
        self._name = module
        self._errors = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (closed by `end`)
        told = str(job) if isinstance(job, Path) else json.dumps(job)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, told], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True,
        )
        self._watch = threading.Timer(WORKER_SECONDS, self._process.kill)
        self._watch.daemon = True
        self._watch.start()

    def line(self) -> str:
        """Wait for the next line of its output."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline().strip()
        if not text:
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:] or [f"it took more than {WORKER_SECONDS:.0f} s"]
            raise LabError(f"{self._name} ended early: {last[0]}")
        return text

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End the process."""
        self._watch.cancel()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._errors.close()


@contextmanager
def workers() -> Iterator[Callable[[str, Mapping[str, Any] | Path], Worker]]:
    """Yield a function that starts a worker: module, job. All of them are ended at the end."""
    started: list[Worker] = []

    def start(module: str, job: Mapping[str, Any] | Path) -> Worker:
        started.append(Worker(module, job))
        return started[-1]
    try:
        yield start
    finally:
        for worker in started:
            worker.end()


@dataclass
class Testbed:
    """The lab, its CA, and peers with a certificate each."""

    lab: Lab
    authority: Authority
    peers: list[tuple[str, Certificate]]

    def load(self, port: int, to: str, streams: int, count: int) -> dict[str, Any]:
        """Return the job of `benchmarks.load`."""
        peers = [[domain, str(one.chain), str(one.key)] for domain, one in self.peers[:streams]]
        return {"port": port, "to": to, "count": count, "peers": peers}

    def sink(self, kind: str, port: int, domain: str, count: int, anchors: Path | None = None) -> dict[str, Any]:
        """Return the job of `benchmarks.sink`."""
        certificate = self.authority.for_domain(domain)
        return {
            "kind": kind, "port": port, "domain": domain, "count": count, "secret": PASSWORD,
            "chain": str(certificate.chain), "key": str(certificate.key), "anchors": str(anchors or self.authority.file),
        }


def testbed_in(lab: Lab) -> Testbed:
    """Return a testbed with its own CA and `MANY_STREAMS` peers."""
    authority = Authority(lab.directory("authority"))
    names = [f"peer{number}.example" for number in range(1, MANY_STREAMS + 1)]
    return Testbed(lab, authority, [(name, authority.for_domain(name)) for name in names])


#: A function that makes the jobs of a sink and of a load, for a number of streams and messages.
Jobs = Callable[[int, int], tuple[dict[str, Any], dict[str, Any]]]


@contextmanager
def started_gateway(
    testbed: Testbed, acks: str, program: Sequence[str] = (), changes: Mapping[str, Any] | None = None, *,
    dns: Nameserver | None = None, before: Callable[[Gateway], None] | None = None, seconds: float = 20.0,
) -> Iterator[tuple[Gateway, Jobs]]:
    """Start a gateway, by `program` instead of twistd; yield it and the function that makes the jobs of a sink and a load.

    `acks` "tcp": written stanzas count as delivered; "auto": a ping after each batch; "sm": XEP-0198 and custody on both legs.
    `changes` go into its configuration, `dns` has further names, `before` is called when it is configured. It may take `seconds`.
    """
    lab, port = testbed.lab, testbed.lab.port()
    door, names = gateway(lab, DOMAIN), dns or nameserver(lab)
    for domain, _ in testbed.peers:
        names.serve(domain, 1)
    names.start()
    certificates = [testbed.authority.for_domain(DOMAIN)]
    few = {"backend": {"acks": acks, **(changes or {}).get("backend", {})}}
    for configured in (few, {**(changes or {}), **few}):  # `setup` makes the private CA, and need not read many entries for that
        door.configure(
            backend=f"127.0.0.1:{port}", dns=names, anchors=testbed.authority.file, certificates=certificates, changes=configured,
        )
        if configured is few:
            door.command("setup", "prosody")
    if before is not None:
        before(door)
    anchors = door.folder / "state" / "backend-ca.pem"

    def jobs(streams: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        sink = {**testbed.sink(SINKS[acks], port, DOMAIN, count, anchors), "inner": door.inner}
        return sink, {**testbed.load(door.port, DOMAIN, streams, count), "managed": acks == "sm"}

    try:
        door.start(seconds, program)
        yield door, jobs
    finally:
        door.stop()
        if names.process is not None:
            lab.stop([names.process])


def metrics(port: int) -> dict[str, float]:
    """Return the samples of /metrics at `port`, by name and labels as they are written there.

    A gateway that has just started may open this port after the others, so this waits for it.
    """
    deadline = time.monotonic() + _CONSOLE_SECONDS
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_SCRAPE_SECONDS) as page:
                lines = page.read().decode().splitlines()
            break
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


class TurnReader:
    """A reader of the longest turn of a gateway's reactor between two samples of its metrics (CPU time)."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._before = metrics(port)

    def longest(self) -> float:
        """Return an upper bound of the longest turn in milliseconds of CPU: a bucket of the metric.

        A turn beyond the last bucket counts as twice that bound. The next call starts from here.
        """
        before, self._before = self._before, metrics(self._port)
        for bound in BUCKETS:
            bucket = f'{_TURNS}_bucket{{le="{bound}"}}'
            above = [values[f"{_TURNS}_count"] - values[bucket] for values in (before, self._before)]
            if above[0] == above[1]:
                return bound * 1000
        return BUCKETS[-1] * 2000


def timed_command(door: Gateway, *words: str) -> float:
    """Return the seconds that `s2sgw WORDS` takes from the shell to the answer. Raise `LabError` if it fails."""
    program = Path(sys.executable).parent / "s2sgw"
    began = time.perf_counter()
    done = subprocess.run(
        [str(program), *words, "--config", str(door.config)], cwd=PROJECT, capture_output=True, text=True,
        timeout=_COMMAND_SECONDS, check=False,
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise LabError(f"s2sgw {' '.join(words)}: status {done.returncode}\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return took
