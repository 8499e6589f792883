"""The test bed of `make crash`: a gateway, two local domains behind it, three peers outside, and all pairs between them."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.durability.account import PairAccount
from tests.durability.crash_account import GatewayRuns, judge
from tests.durability.gateway_runner import GatewayRunner
from tests.durability.simulated_server import REQUEST_SHARE, OutgoingStream, SimulatedServer, Traffic
from tests.durability.socket_progress import SocketMonitor
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import gateway
from tests.lab.lab import Lab, Process
from tests.lab.nameserver import Nameserver, nameserver

#: Domain -> whether its server uses XEP-0198.
LOCAL = {"managed.inside.example": True, "plain.inside.example": False}
PEERS = {"managed.example": True, "plain.example": False}
#: A peer without XEP-0198 that only receives. In part of the cycles it does not answer pings either (R41).
ONE_WAY = "oneway.example"
#: The hold time of requests, and of the errors that answer them. An error that waits for longer is dropped by rule (docs/custody.md), and
#: on a slow machine the cycles may take longer than the default.
IQ_HOLD = "10m"
#: Seconds between two checks at the end, and without any arrival until all stanzas have arrived.
LOOK_SECONDS, QUIET_SECONDS = 0.25, 3.0


class CrashTestbed:
    """A test bed that starts the servers once, and the gateway as often as needed."""

    #: seconds in which all stanzas must get through at the end
    settle_seconds = 90.0
    #: seconds of load in one run, from and to
    load_seconds = (0.1, 1.2)
    local, peers = LOCAL, {**PEERS, ONE_WAY: False}

    def __init__(self, lab: Lab, rate: float, changes: Mapping[str, Any] | None = None) -> None:
        """`rate`: stanzas a second of each pair. `changes`: sections of the gateway's configuration."""
        self.lab = lab
        self._changes = changes or {}
        self.monitor = SocketMonitor()
        self.runs = GatewayRuns(waited=self.monitor.waited)
        self.gateway = gateway(lab, *self.local)
        self.runner = GatewayRunner(self.gateway)
        self._accounts: list[PairAccount] = []
        self._rate = rate
        self._outgoing: list[OutgoingStream] = []
        self._servers: list[SimulatedServer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._crash_times = self.gateway.folder / "crash-times"

    @property
    def accounts(self) -> list[PairAccount]:
        """Return the accounts of the pairs on which a stanza was sent."""
        return [account for account in self._accounts if account.sent]

    # --- the servers ---

    async def start(self) -> None:
        """Start the servers and configure the gateway."""
        authority, dns = Authority(self.lab.directory("authority")), nameserver(self.lab)
        certificates = {name: authority.for_domain(name) for name in [*self.local, *self.peers]}
        ports = {name: self.lab.port() for name in certificates}
        inner = {name: self.lab.port() for name in self.local}
        for name in certificates:
            dns.serve(name, ports[name] if name in self.peers else self.gateway.port)
        dns.start()
        backends = [self._backend(name, inner[name], ports[name], dns) for name in self.local]
        self.gateway.configure(
            backend="127.0.0.1:1", dns=dns, anchors=authority.file, certificates=[certificates[name] for name in self.local],
            changes={"backend": backends, **self._changes, "queue": {"iq_hold": IQ_HOLD, **self._changes.get("queue", {})}},
        )
        await self._populate(authority, dns, certificates, inner, ports)
        for server in self._servers:
            await server.start()

    def _backend(self, name: str, inner: int, port: int, dns: Nameserver) -> dict[str, object]:
        return {
            "kind": "s2s", "domains": [name], "address": f"127.0.0.1:{port}", "listen": f"tcp:{inner}:interface=127.0.0.1",
        }

    async def _populate(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], inner: dict[str, int],
        ports: dict[str, int],
    ) -> None:
        """Make a simulated server for every domain, and every pair between them."""
        for name in certificates:
            self._add_server(name, ports[name], certificates[name], inner.get(name, self.gateway.port))
        for local in self.local:
            for peer in self.peers:
                self._add_pair(peer, local, 0.0 if peer == ONE_WAY else self._rate)
                self._add_pair(local, peer, self._rate / (4 if peer == ONE_WAY else 1))

    def _add_server(self, name: str, port: int, certificate: Certificate, gateway_port: int) -> None:
        managed = {**self.local, **self.peers}[name]
        self._servers.append(SimulatedServer(name, port, certificate, gateway_port, managed=managed, monitor=self.monitor))

    def _server(self, name: str) -> SimulatedServer | None:
        """Return the simulated server of a domain, or None if a real one serves it."""
        return next((server for server in self._servers if server.domain == name), None)

    def _add_pair(self, sender: str, recipient: str, rate: float, *, address: str = "") -> None:
        from_, to = self._server(sender), self._server(recipient)
        assert from_ is not None
        account = PairAccount(
            sender, recipient, from_.managed, acknowledging=recipient != ONE_WAY, inbound=recipient in self.local,
        )
        traffic = Traffic(account, address or f"u@{recipient}/r", rate, request_share=0.0 if address else REQUEST_SHARE)
        self._accounts.append(account)
        self._outgoing.append(from_.sends_to([traffic]))
        if to is not None:
            to.incoming[sender] = account

    # --- behaviour ---

    def refuse_some(self, chance: random.Random, share: float) -> None:
        """Let about this share of the servers refuse connections."""
        for server in self._servers:
            if chance.random() < share:
                server.refuse()

    def refuse_peers(self) -> None:
        """Let all peers refuse connections."""
        for server in self._servers:
            if server.domain in self.peers:
                server.refuse()

    def accept_all(self) -> None:
        """Let all servers accept connections again."""
        for server in self._servers:
            server.refuses = False

    def answer_pings(self, answers: bool) -> None:
        """Set whether the one-way peer answers pings."""
        for server in self._servers:
            server.answers_pings = answers or server.domain != ONE_WAY

    def send(self, *, inbound: bool, outbound: bool) -> None:
        """Set the directions of the traffic."""
        for outgoing in self._outgoing:
            outgoing.sending = inbound if outgoing.account.inbound else outbound

    def under_way(self) -> tuple[bool, bool]:
        """Return whether stanzas are under way inbound and outbound, apart from lost ones."""
        moving = [each for each in self.accounts if len(each.sent) > (max(each.arrived) + 1 if each.arrived else 0)]
        return any(each.inbound for each in moving), any(not each.inbound for each in moving)

    # --- the gateway ---

    def begin(self, crash_point: str = "") -> Process:
        """Start the gateway, which kills itself at `crash_point` if there is one, and do not wait."""
        program = [sys.executable, "-m", "tests.durability.crash_points", crash_point, str(self._crash_times)]
        process = self.runner.begin(program if crash_point else ())
        self.monitor.follow(process.pid)
        return process

    def crash_time(self) -> float:
        """Return when the gateway last killed itself."""
        return float(self._crash_times.read_text().split()[-1])

    async def settle(self) -> None:
        """Start the gateway, send nothing new, and let all held stanzas through."""
        self.begin()
        await self.runner.ready()
        await self.quiet()

    async def quiet(self) -> None:
        """Send nothing new, and let all held stanzas through."""
        self.send(inbound=False, outbound=False)
        self.answer_pings(True)
        deadline, quiet, arrived = time.monotonic() + self.settle_seconds, 0.0, -1
        while time.monotonic() < deadline and quiet < self._quiet_seconds(quiet):
            await asyncio.sleep(LOOK_SECONDS)
            now = sum(len(account.arrived) for account in self.accounts)
            quiet, arrived = quiet + LOOK_SECONDS if now == arrived else 0.0, now
        print(f"settled: {await self.runner.ask('queue', 'list')}")

    def _quiet_seconds(self, quiet: float) -> float:
        """Return the seconds without arrivals that end the wait: more if a stanza is missing that must not be lost."""
        if quiet < QUIET_SECONDS:
            return QUIET_SECONDS
        if any(judge(account, self.runs).faults() for account in self.accounts) or any(each.owes() for each in self._outgoing):
            return self.settle_seconds
        return QUIET_SECONDS

    async def stop(self) -> None:
        """Stop the gateway and the servers."""
        for task in self._tasks:
            task.cancel()
        await self.runner.stop()
        for server in self._servers:
            server.stop()
        self.monitor.close()

    # --- results ---

    def summary(self) -> str:
        """Return one line about the progress of the run."""
        sent = sum(len(account.sent) for account in self.accounts)
        arrived = sum(len(set(account.arrived)) for account in self.accounts)
        spool = self.runner.state / "spool.db"
        size = spool.stat().st_size / 1e6 if Path(spool).exists() else 0.0
        return f"{sent} sent, {arrived} arrived, spool.db has {size:.1f} MB"

    def faults(self) -> list[str]:
        """Return the faults that do not concern stanzas."""
        statuses = [status for status in self.runner.statuses if status not in (0, -9, -15)]  # -15: stopped before it had begun
        slow = self.runner.slow_stops
        return [
            *([f"{slow} stops took too long"] if slow else []), *([f"exit statuses {statuses}"] if statuses else []),
            *(f"{path.name} was set aside" for path in self.runner.set_aside()),
        ]
