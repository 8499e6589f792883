"""A gateway under attack: honest traffic through it, new peers that connect meanwhile, and the required results.

On a machine with other work the gateway waits for a processor. The kernel counts that (/proc/PID/schedstat), and
limits of time are extended in proportion: a gateway that works for 3 s and waits for 6 s has three times as long.
Turns of the reactor are judged by their CPU time, which other work changes little.

All are on loopback, in different networks: the honest peer in 127.1.0.0/16, new peers in 127.2.0.0/16, attackers
in those of their scenario.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from s2sgw.runtime.turn_watch import BUCKETS
from tests.attack.honest import connect
from tests.attack.nameserver import ask_count
from tests.lab.certificates import Authority, Certificate, Names
from tests.lab.gateway import PROJECT, TWISTD, Gateway, gateway
from tests.lab.lab import Lab, LabError, Process
from tests.lab.peer import PeerError
from tests.lab.scenario import Failed, check, step

INSIDE, HONEST = "inside.example", "honest.example"
#: Domains with eight targets, each with 64 TLSA records, all of it secured by DNSSEC.
DANE = "dane.test"
HONEST_SOURCE = "127.1.0.1"
PER_SECOND = 25.0
#: Seconds for the gateway's start, also on a busy machine.
START_SECONDS = 60.0
#: Seconds of the measurement without attack, and for a message to return.
QUIET_SECONDS = 4.0
BACK_SECONDS = 20.0
#: Honest messages: their 99th percentile may be twice that without attack, or this many milliseconds more.
EXTRA_MS = 100.0
#: An honest message waits for a processor this many times: in the peer, in the gateway in both directions, and in the peer again. A
#: busy machine affects the slowest of a hundred messages this many times as much as the average one.
LATE_TIMES = 4
BURSTS = 2.0
#: Seconds for a new peer to be admitted, and between two of them.
FRESH_SECONDS, FRESH_EVERY = 2.0, 1.0
#: Seconds after which a new peer gives up. A temporarily refused one tries again, as servers do; on a machine with time for
#: the gateway none is refused.
FRESH_PATIENCE = 20.0
FRESH_AGAIN = 0.3
#: Seconds for a scrape, also on a busy machine.
SCRAPE_SECONDS = 60.0
#: Seconds for attackers to reach a limit, also on a busy machine.
FELT_SECONDS = 40.0
#: After an attack: bytes of memory and descriptors that may remain, and seconds to release the others.
LEFT_BYTES, LEFT_DESCRIPTORS, SETTLE_SECONDS = 40_000_000, 10, 15.0
#: The longest turn of the reactor, in seconds of CPU; on a machine that slows the gateway this many times, and whose caches
#: have other users; and in elapsed seconds, with the disk.
LONGEST_TURN = 0.05
BUSY, LONGEST_BUSY_TURN = 1.5, 0.1
LONGEST_PASSED = 1.0
#: A gateway that ran for less than the first part of the time, and was ready to run for more than the second, had too little of the
#: machine: times are not judged then.
WORKED, WANTED = 0.7, 0.8


@dataclass(frozen=True)
class Window:
    """The honest messages sent in a period of time."""

    came: int
    median_ms: float
    p99_ms: float
    #: 99th percentile of the delay of the honest peer's own timer, which shows the effect of the machine
    late_ms: float = 0.0


class Traffic:
    """The honest peer's process for a scenario: it only reads the process's output."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._read = 0
        self._rest = ""
        self.sent = 0
        self.came: list[tuple[int, float]] = []
        self.late: list[float] = []
        self.problems: list[str] = []

    def read(self) -> None:
        """Read the output since the last call."""
        with self._process.log.open() as file:
            file.seek(self._read)
            text = self._rest + file.read()
            self._read = file.tell()
        *lines, self._rest = text.split("\n")
        for line in lines:
            self._note(line)

    def _note(self, line: str) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            self.problems.append(line)
            return
        if "came" in row and row["type"] != "error":
            self.came.append((row["came"], row["ms"]))
        elif "sent" in row:
            self.sent = row["sent"]
            self.late.append(row["late"])
        else:
            self.problems.append(line)

    async def window(self, first: int, last: int) -> Window:
        """Wait until the messages from `first` to `last` have returned. Raise `Failed` if one is missing, doubled or out of order."""
        deadline = time.monotonic() + BACK_SECONDS
        while not any(number >= last for number, _ in self.came) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            self.read()
        rows = [(number, ms) for number, ms in self.came if first <= number <= last]
        numbers = [number for number, _ in rows]
        check(numbers == list(range(first, last + 1)), _disorder(numbers, first, last) + f" {self.problems[-3:]}")
        times = [ms for _, ms in rows]
        return Window(len(times), _percentile(times, 0.5), _percentile(times, 0.99), _percentile(self.late[first - 1 : last], 0.99))


def _percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def _disorder(numbers: list[int], first: int, last: int) -> str:
    missing = sorted(set(range(first, last + 1)) - set(numbers))
    return f"honest messages {first} to {last}: {len(numbers)} returned, {len(missing)} missing ({missing[:5]}), or not in their order"


@dataclass
class AttackWorld:
    """The stage of every attack."""

    lab: Lab
    gateway: Gateway
    dns_port: int
    authority: Authority
    traffic: Traffic
    fresh_certificate: Certificate
    quiet: Window | None = None
    #: seconds of CPU for a second of honest traffic
    quiet_cpu: float = 0.0
    #: how many times the machine slowed the gateway in the last attack
    slowdown: float = 1.0
    fresh: int = 0
    fresh_seconds: list[float] = field(default_factory=list)
    fresh_refused: list[str] = field(default_factory=list)
    #: certificates that several scenarios use
    kept: dict[str, Certificate] = field(default_factory=dict)
    _until: float = 0.0
    #: characters of the log that were examined
    _log_read: int = 0

    # --- the state ---

    @property
    def port(self) -> int:
        """Return the port for streams of peers."""
        return self.gateway.port

    @property
    def proxied_port(self) -> int:
        """Return the port for streams of peers through a load balancer, with the PROXY protocol."""
        return self.gateway.direct

    @property
    def direct_tls_port(self) -> int:
        """Return the port for direct TLS. The echo has no inner listener, which this port is for elsewhere."""
        return self.gateway.inner

    @property
    def noise(self) -> float:
        """Return the factor of time limits, from the load of the machine during the last attack."""
        return self.slowdown if self.slowdown <= BUSY else BURSTS * self.slowdown

    @property
    def process(self) -> Process:
        assert self.gateway.process is not None
        return self.gateway.process

    def certificate(self, *names: str) -> Certificate:
        """Return a certificate as a public CA issues it for these names."""
        return self.authority.issue(Names(dns=names))

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics, by name and labels as they are written there."""
        with urlopen(f"http://127.0.0.1:{self.gateway.console}/metrics", timeout=SCRAPE_SECONDS) as page:
            lines = page.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    def connections(self, state: str) -> float:
        """Return the number of open connections of peers, "unproven" or "proven"."""
        return self.metrics()[f's2sgw_connections{{state="{state}"}}']

    def limit_hits(self, limit: str) -> float:
        """Return how often a limit of `[limits]` was hit."""
        return self.metrics().get(f's2sgw_limit_hits_total{{limit="{limit}"}}', 0.0)

    def questions(self, zone: str) -> int:
        """Return the number of DNS questions about names in `zone`."""
        return ask_count(self.dns_port, zone)

    # --- attacks ---

    def start(self, attack: Callable[..., None], **arguments: Any) -> Process:
        """Start a function of a scenario's module in a separate process; `arguments` are passed as JSON."""
        target = f"{attack.__module__}:{attack.__name__}"
        argv = [sys.executable, "-m", "tests.attack.run", target, json.dumps({"port": self.port, **arguments})]
        return self.lab.start("attack", argv, self.lab.directory("attack"), {"PYTHONPATH": str(PROJECT)})

    async def felt(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait until the attack has an effect: on a busy machine attackers are slow. Raise `Failed` if there is none."""
        end = time.monotonic() + FELT_SECONDS
        while not condition():
            check(time.monotonic() < end, otherwise)
            await asyncio.sleep(0.5)

    @asynccontextmanager
    async def under(
        self, attack: Callable[..., None], seconds: float, *, left: int = LEFT_BYTES, left_open: int = LEFT_DESCRIPTORS,
        patient: bool = False, **arguments: Any,
    ) -> AsyncIterator[Process]:
        """Attack from another process for this long, or until the block ends, and check as `holding` does.

        Within the block a scenario may look at the gateway while the attack continues. With `patient` it continues for `FELT_SECONDS`
        more, if the block takes as long.
        """
        async with self.holding(seconds, left=left, left_open=left_open):
            process = self.start(attack, seconds=seconds + FELT_SECONDS * patient, **arguments)
            try:
                yield process
                await asyncio.sleep(max(0.0, self._until - time.monotonic()))
            finally:
                failed = process.status not in (None, 0)
                self.lab.stop([process])
            check(not failed, f"the attack itself failed:\n{process.output()}")

    @asynccontextmanager
    async def holding(self, seconds: float, *, left: int = LEFT_BYTES, left_open: int = LEFT_DESCRIPTORS) -> AsyncIterator[None]:
        """Check that the gateway works as before while the block runs, for at least this long, and afterwards.

        Honest messages return in order and in time, new peers are admitted, memory (except `left` bytes) and
        descriptors (except `left_open`) are released, no traceback is logged, and no turn of the reactor is long.
        """
        await self.measure_quiet()
        before, scheduled = self._resources(), _scheduled(self.process.pid)
        self.traffic.read()
        first, began = self.traffic.sent + 1, time.monotonic()
        self._until = began + seconds
        fresh = asyncio.create_task(self._fresh_peers())
        try:
            yield
            while time.monotonic() < self._until and not fresh.done():
                await asyncio.sleep(0.1)
        finally:
            failure = fresh.exception() if fresh.done() else None
            fresh.cancel()
            await asyncio.gather(fresh, return_exceptions=True)
        if failure is not None:
            raise Failed(str(failure))
        self.traffic.read()
        window = await self.traffic.window(first, self.traffic.sent)
        worked, waited = (now - then for now, then in zip(_scheduled(self.process.pid), scheduled, strict=True))
        lasted = time.monotonic() - began
        starved = worked < WORKED * lasted and worked + waited > WANTED * lasted
        self.slowdown = slowdown = 1 + waited / max(worked, 0.01)
        self._judge(window, slowdown, starved)
        await self._settled(before, slowdown, left, left_open)

    async def measure_quiet(self) -> None:
        """Measure honest traffic without an attack, once."""
        if self.quiet is None:
            self.traffic.read()
            first, used = self.traffic.sent + 1, self.process.cpu_seconds()
            await asyncio.sleep(QUIET_SECONDS)
            self.quiet_cpu = (self.process.cpu_seconds() - used) / QUIET_SECONDS
            self.traffic.read()
            self.quiet = await self.traffic.window(first, self.traffic.sent)

    # --- the checks ---

    def _judge(self, window: Window, slowdown: float, starved: bool) -> None:
        assert self.quiet is not None
        allowed = max(2 * self.quiet.p99_ms, self.quiet.p99_ms + EXTRA_MS) * self.noise + LATE_TIMES * window.late_ms
        slowest = max(self.fresh_seconds, default=0.0)
        step(
            f"{window.came} honest messages in order, median {window.median_ms:.1f} ms, p99 {window.p99_ms:.1f} ms "
            f"(quiet {self.quiet.median_ms:.1f}, {self.quiet.p99_ms:.1f}); "
            f"{len(self.fresh_seconds)} fresh peers admitted, the slowest in {slowest:.2f} s; "
            f"the machine made the gateway {slowdown:.1f} times as slow, and timers {window.late_ms:.0f} ms late",
        )
        refused = list(self.fresh_refused)
        self.fresh_seconds.clear()
        self.fresh_refused.clear()
        if starved:
            step("the machine gave the gateway too little time: its times are not judged")
        else:
            check(not refused or slowdown > BUSY, f"fresh peers were refused: {refused[:3]}")
            check(slowest <= FRESH_SECONDS * self.noise, f"a fresh peer was admitted after {slowest:.1f} s")
            check(window.p99_ms <= allowed, f"p99 of honest messages is {window.p99_ms:.0f} ms, at most {allowed:.0f} are allowed")
        log = self.gateway.logged()
        new, self._log_read = log[self._log_read :], len(log)  # a traceback is the failure of one scenario, not of all that follow
        check("    | " not in new, "a traceback in the log:\n" + "\n".join(line for line in new.splitlines() if "    | " in line)[:2000])

    async def _fresh_peers(self) -> None:
        while True:
            self.fresh_seconds.append(await self.admit())
            await asyncio.sleep(FRESH_EVERY)

    async def admit(self) -> float:
        """Let a new peer connect from a separate network; return the seconds until it is admitted."""
        self.fresh += 1
        domain, source = f"n{self.fresh}.fresh.example", f"127.2.{self.fresh // 250}.{self.fresh % 250 + 1}"
        began = time.monotonic()
        while True:
            try:
                stream = await asyncio.to_thread(
                    connect, self.port, source, INSIDE, domain, self.fresh_certificate, FRESH_PATIENCE,
                )
            except (PeerError, OSError) as problem:
                self.fresh_refused.append(str(problem))
                if time.monotonic() > began + FRESH_PATIENCE:
                    raise Failed(f"{domain} was not admitted after {time.monotonic() - began:.1f} s: {problem}") from None
                await asyncio.sleep(FRESH_AGAIN)
            else:
                break
        seconds = time.monotonic() - began
        stream.close()
        return seconds

    def _resources(self) -> tuple[int, float, dict[str, float]]:
        metrics = self.metrics()
        return self.process.resident_bytes(), metrics["s2sgw_descriptors"], metrics

    async def _settled(self, before: tuple[int, float, Mapping[str, float]], slowdown: float, left: int, left_open: int) -> None:
        """Check that memory and descriptors are released, and that no turn of the reactor was long."""
        deadline = time.monotonic() + SETTLE_SECONDS * min(slowdown, 2.0)
        while True:
            after = self._resources()
            grown, opened = after[0] - before[0], after[1] - before[1]
            if (grown <= left and opened <= left_open) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        step(
            f"memory {grown / 1e6:+.1f} MB, descriptors {opened:+.0f}; turns took up to {_longest(before[2], after[2], 'cpu_seconds')} s of "
            f"CPU, {_longest(before[2], after[2], 'seconds')} s in all",
        )
        check(grown <= left, f"{grown / 1e6:.1f} MB of memory were not released")
        check(opened <= left_open, f"{opened:.0f} descriptors were not released")
        bound = LONGEST_TURN if slowdown <= BUSY else LONGEST_BUSY_TURN
        long, passed = (
            _turns_above(seconds, after[2], kind) - _turns_above(seconds, before[2], kind)
            for seconds, kind in ((bound, "cpu_seconds"), (LONGEST_PASSED, "seconds"))
        )
        check(not long, f"{long:.0f} turns of the reactor took more than {bound} s of CPU{_long_turns(self.gateway.logged())}")
        check(not passed or slowdown > BUSY, f"{passed:.0f} turns took more than {LONGEST_PASSED} s{_long_turns(self.gateway.logged())}")


def _turns_above(seconds: float, metrics: Mapping[str, float], kind: str) -> float:
    """Return how many turns of the reactor were longer than a bucket of the metric."""
    name = f"s2sgw_reactor_turn_{kind}"
    return metrics[f"{name}_count"] - metrics[f'{name}_bucket{{le="{seconds}"}}']


def _longest(before: Mapping[str, float], after: Mapping[str, float], kind: str) -> float | str:
    """Return the bucket of the longest turn between two samples of the metrics."""
    return next((
        bound for bound in BUCKETS if _turns_above(bound, after, kind) == _turns_above(bound, before, kind)
    ), f"more than {BUCKETS[-1]}")


def _long_turns(log: str) -> str:
    """Return the last log lines about a long turn."""
    return "".join(f"\n         {line}" for line in [line for line in log.splitlines() if "long turn" in line][-3:])


def _scheduled(pid: int) -> tuple[float, float]:
    """Return the seconds that the main thread of a process has run, and those that it was ready and did not run."""
    ran, waited, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


@asynccontextmanager
async def attack_world(
    lab: Lab, changes: Mapping[str, Any] | None = None, *, silent: tuple[str, ...] = (),
    services: Mapping[str, tuple[str, int, int]] | None = None, addresses: Mapping[str, Sequence[str]] | None = None,
    descriptors: int = 0, also: Sequence[str] = (), bombs: tuple[str, ...] = (),
) -> AsyncIterator[AttackWorld]:
    """Build the stage. `changes` go into s2sgw.toml. `silent` zones get no DNS answer, `bombs` one that takes long to parse. `services` and `addresses` are those of the
    name server's table, where the port 0 is the gateway's own. `descriptors` limits open files. `also` are further domains that
    are served.
    """
    authority, door = Authority(lab.directory("authority")), gateway(lab, INSIDE, *also)
    honest_port, dns_port = lab.port(), lab.port()
    folder = lab.directory("attack")
    table = folder / "names.json"
    every = {DANE: ("dane.example", 5269, 8), **(services or {})}
    table.write_text(json.dumps({
        "srv": {HONEST: honest_port}, "silent": silent, "bombs": bombs, "addresses": addresses or {}, "secure": [DANE, "dane.example"],
        "services": {zone: (hosts, port or door.port, number) for zone, (hosts, port, number) in every.items()},
    }))
    lab.start("nameserver", [sys.executable, "-m", "tests.attack.nameserver", str(dns_port), str(table)], folder, _ENVIRONMENT)
    await _until_it_answers(dns_port)
    _configure(door, dns_port, authority, {**(changes or {}), "dns": _fixed((changes or {}).get("dns"), honest_port)})
    limit = ("prlimit", f"--nofile={descriptors}:{descriptors}", TWISTD) if descriptors else ()
    lab.wait_for_port(door.begin(*limit), door.port, START_SECONDS)
    certificate = authority.issue(Names(dns=(HONEST,)))
    plan = folder / "plan.json"
    plan.write_text(json.dumps({
        "domain": HONEST, "local": INSIDE, "gateway": door.port, "own": honest_port, "source": HONEST_SOURCE,
        "chain": str(certificate.chain), "key": str(certificate.key), "per_second": PER_SECOND,
    }))
    honest = lab.start("honest", [sys.executable, "-m", "tests.attack.honest", str(plan)], folder, _ENVIRONMENT)
    fresh = authority.issue(Names(dns=("*.fresh.example",)))
    world = AttackWorld(lab, door, dns_port, authority, Traffic(honest), fresh)
    await _until_it_flows(world.traffic)
    try:
        yield world
    finally:
        lab.stop([honest])
        door.stop()


_ENVIRONMENT = {"PYTHONPATH": str(PROJECT)}


def _configure(door: Gateway, dns_port: int, authority: Authority, changes: Mapping[str, Any]) -> None:
    listen = [
        {"endpoint": f"tcp:{door.port}:interface=127.0.0.1:backlog=4096"},
        {
            "endpoint": f"tcp:{door.direct}:interface=127.0.0.1:backlog=4096", "proxy_protocol": True,
            "trusted_proxies": ["127.0.0.1/32"],
        },
        {"endpoint": f"tcp:{door.inner}:interface=127.0.0.1:backlog=4096", "tls": "direct"},
    ]
    door.configure(
        backend="", dns=_Address(f"127.0.0.1:{dns_port}"), anchors=authority.file,  # type: ignore[arg-type]
        certificates=[authority.for_domain(name) for name in (door.domain, *door.also)],
        changes={
            "backend": [{"kind": "echo"}], "listen": listen, "console": {"listen": f"tcp:{door.console}:interface=127.0.0.1"},
            **changes,
        },
    )


def _fixed(dns: Mapping[str, Any] | None, honest_port: int) -> dict[str, Any]:
    """Return the section [dns]. If it refuses private addresses, the honest peer is exempt."""
    return {**dns, "static": {HONEST: f"127.0.0.1:{honest_port}"}} if dns else {}


@dataclass(frozen=True)
class _Address:
    """The address of a name server, which is all that the configuration needs."""

    address: str


async def _until_it_answers(port: int) -> None:
    for _ in range(50):
        try:
            ask_count(port, "example")
        except Exception:
            await asyncio.sleep(0.1)
        else:
            return
    raise LabError("the name server does not answer")


async def _until_it_flows(traffic: Traffic) -> None:
    deadline = time.monotonic() + 20
    while len(traffic.came) < 10:
        if time.monotonic() > deadline:
            raise LabError(f"honest messages do not return: {traffic.problems[-3:]}")
        await asyncio.sleep(0.1)
        traffic.read()
