"""The test bed of `make custody`: one gateway, any number of simulated servers, faults on demand, and the account."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2sgw.admin.client import RequestFailed, ask, socket_path
from tests.durability.account import PairAccount
from tests.durability.gateway_runner import GatewayRunner
from tests.durability.simulated_nameserver import SimulatedNameserver
from tests.durability.simulated_server import OutgoingStream, SimulatedServer, Traffic
from tests.lab.certificates import Authority, Names
from tests.lab.gateway import gateway
from tests.lab.lab import Lab

INSIDE = "inside.example"
#: Seconds between two checks of a condition, and between two `queue flush` while all stanzas are let through.
LOOK_SECONDS, FLUSH_SECONDS = 0.1, 3.0
#: Texts that no log of a gateway may have.
FORBIDDEN_IN_LOG = "Traceback (most recent call last)", "Unhandled", "RecursionError"
#: Rows of one `queue show`.
_ROWS = 100_000


@dataclass
class Totals:
    """The account of several pairs together."""

    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    bounced: int = 0
    held: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    requests_twice: int = 0
    #: the lost stanzas of each pair, the first few of them
    lost_of: dict[str, list[int]] = field(default_factory=dict)

    def text(self) -> str:
        words = (
            f"{self.sent:,} sent, {self.acknowledged:,} acknowledged; {self.delivered:,} delivered, {self.bounced:,} bounced, "
            f"{self.held:,} held, {self.lost:,} lost"
        )
        more = [
            f"{number:,} {what}" for number, what in (
                (self.twice, "twice"), (self.out_of_order, "out of order"), (self.requests_twice, "requests twice"),
            ) if number
        ]
        return f"{words} ({', '.join(more)})" if more else words


class CustodyTestbed:
    """A gateway between the servers of `local` domains and any number of peers.

    `queue`, `backend` and `peers` change these sections of the configuration; `sections` adds others.
    `static` are further peers, with the port that the DNS gives for them on this machine.
    """

    def __init__(
        self, lab: Lab, local: Sequence[str] = (INSIDE,), *, queue: Mapping[str, Any] | None = None,
        backend: Mapping[str, Any] | None = None, peers: Mapping[str, Any] | None = None,
        sections: Mapping[str, Any] | None = None, static: Mapping[str, int] | None = None,
    ) -> None:
        self.lab = lab
        self.gateway = gateway(lab, *local)
        self.runner = GatewayRunner(self.gateway)
        self.servers: dict[str, SimulatedServer] = {}
        #: servers of a domain that another server serves, or has served
        self.others: list[SimulatedServer] = []
        self.outgoing: list[OutgoingStream] = []
        self.accounts: list[PairAccount] = []
        self.problems: list[str] = []
        #: results beside the account, for the report
        self.notes: list[str] = []
        #: how many lost stanzas the scenario expects
        self.expected_losses = 0
        #: exit statuses that are expected of a gateway that was not killed
        self.allowed_statuses = {0}
        self._local = tuple(local)
        self._inner = {domain: lab.port() for domain in local}
        self.authority = Authority(lab.directory("authority"))
        #: the first local domain's certificate is valid for all domains below it
        self._certificates = {domain: self.authority.issue(Names(dns=(domain, f"*.{domain}"))) for domain in local}
        self._static = dict(static or {})
        self._nameserver: SimulatedNameserver | None = None
        self._sections = {"queue": dict(queue or {}), "peers": dict(peers or {}), **(sections or {})}
        self._backend = dict(backend or {})
        #: further domains of a local server, below its own
        self.subdomains: dict[str, list[str]] = {}
        self._control = lab.folder / "faults.sock"

    # --- building ---

    def local(self, domain: str = INSIDE, *, managed: bool = True) -> SimulatedServer:
        """Make the server of a local domain, behind the gateway."""
        return self._server(domain, self._inner[domain], managed, bidi=False)

    def peer(self, domain: str, *, managed: bool = True, bidi: bool = False) -> SimulatedServer:
        """Make the server of a peer. It listens from `start` on, or from `come_back` on if it is made `away`."""
        server = self._server(domain, self.gateway.port, managed, bidi)
        if self._nameserver is None:
            self._static[domain] = server.port
        else:
            self._nameserver.ports[domain] = server.port
        return server

    def another(self, server: SimulatedServer) -> tuple[SimulatedServer, int]:
        """Make a second server of the same domain, and return it with a port for its listener of the gateway.

        Both servers have the same accounts, and separate streams.
        """
        second = SimulatedServer(
            server.domain, self.lab.port(), self._certificates[server.domain], 0, managed=server.managed,
        )
        second.incoming, second.outgoing = server.incoming, server.outgoing
        self.others.append(second)
        return second, self.lab.port()

    def inner_port(self, domain: str) -> int:
        """Return the port of the gateway's listener for the server of a local domain."""
        return self._inner[domain]

    def serve(self, domain: str, server: SimulatedServer, port: int) -> None:
        """Let the configuration name this server for a local domain, with the gateway's listener at `port`, from now on."""
        self.servers[domain], self._inner[domain] = server, port

    def give_up(self, domain: str) -> None:
        """Have the configuration name this local domain and its server no more, from now on. Its certificate stays."""
        self._local = tuple(each for each in self._local if each != domain)

    def take_back(self, domain: str) -> None:
        """Have the configuration name it again."""
        self._local = (*self._local, domain)

    def _server(self, domain: str, gateway_port: int, managed: bool, bidi: bool) -> SimulatedServer:
        certificate = self._certificates.get(domain) or self.authority.for_domain(domain)
        server = SimulatedServer(domain, self.lab.port(), certificate, gateway_port, managed=managed, bidi=bidi)
        self.servers[domain] = server
        return server

    def traffic(
        self, sender: SimulatedServer, recipient: SimulatedServer | str, *, domain: str = "", size: int = 500, rate: float = 0.0,
    ) -> Traffic:
        """Make an account and its traffic, with messages of `size` bytes of text. `domain`: another domain of the sender."""
        to = recipient if isinstance(recipient, str) else recipient.domain
        account = PairAccount(domain or sender.domain, to, sender.managed, inbound=to in self._local)
        self.accounts.append(account)
        if isinstance(recipient, SimulatedServer):
            recipient.incoming[sender.domain] = account
        return Traffic(account, f"u@{to}/r", rate, size=size)

    def stream(self, sender: SimulatedServer, *traffics: Traffic, running: bool = False, resumes: bool = False) -> OutgoingStream:
        """Let `sender` open one stream to the gateway for these."""
        stream = sender.sends_to(traffics, running=running, resumes=resumes)
        stream.window = 1 << 30  # as real servers, they write as fast as the gateway reads
        self.outgoing.append(stream)
        return stream

    def pair(
        self, sender: SimulatedServer, recipient: SimulatedServer, *, size: int = 500, rate: float = 0.0, resumes: bool = False,
    ) -> OutgoingStream:
        """Let one server have a stream to another."""
        return self.stream(sender, self.traffic(sender, recipient, size=size, rate=rate), resumes=resumes)

    def pairs(self, one: SimulatedServer, other: SimulatedServer, *, size: int = 500) -> tuple[OutgoingStream, OutgoingStream]:
        """Let two servers have a stream in each direction."""
        return self.pair(one, other, size=size), self.pair(other, one, size=size)

    def use_nameserver(self, port: int, server: SimulatedNameserver | None = None) -> None:
        """Let the gateway use a name server at `port`: for all peers if it is `server`, else for those without a server here."""
        self._nameserver = server
        self._sections["dns"] = {"servers": [f"127.0.0.1:{port}"], "private_addresses": "allow"}

    # --- the gateway ---

    async def start(self, *, away: Iterable[SimulatedServer] = (), faults: Mapping[str, Any] | None = None) -> None:
        """Start the servers, those of `away` without listening, and the gateway."""
        self.configure()
        for server in self.servers.values():
            await server.start()
        for server in away:
            server.go_away()
        await self.start_gateway(faults)

    def configure(self) -> None:
        """Write the gateway's configuration."""
        backends = [
            {
                "kind": "s2s", "domains": [domain, *self.subdomains.get(domain, ())], "listen": f"tcp:{self._inner[domain]}:interface=127.0.0.1",
                "address": f"127.0.0.1:{self.servers[domain].port if domain in self.servers else 1}", **self._backend,
            } for domain in self._local
        ]
        domains = [name for domain in self._local for name in (domain, *self.subdomains.get(domain, ()))]
        static = {domain: f"127.0.0.1:{port}" for domain, port in self._static.items()}
        self.gateway.configure(
            backend="127.0.0.1:1", dns=None, anchors=self.authority.file,
            certificates=list(self._certificates.values()),
            changes={
                **self._sections, "gateway": {"domains": domains}, "backend": backends,
                "dns": {"static": static, **self._sections.get("dns", {})},
            },
        )

    def begin_gateway(self, faults: Mapping[str, Any] | None = None) -> None:
        """Start the gateway's process with these faults, and do not wait."""
        self._control.unlink(missing_ok=True)
        program = sys.executable, "-m", "tests.durability.faulty_gateway", str(self._control), json.dumps(dict(faults or {}))
        self.runner.begin(program)

    async def start_gateway(self, faults: Mapping[str, Any] | None = None) -> None:
        """Start the gateway with these faults, and wait until it accepts connections."""
        self.begin_gateway(faults)
        await self.runner.ready()

    async def kill(self) -> None:
        """End the gateway with SIGKILL."""
        await self.runner.kill()

    async def stop(self) -> None:
        """Stop the gateway normally."""
        status = await self.runner.stop()
        self.check(status in self.allowed_statuses, f"the normal stop ended with status {status}")

    async def faults(self, **faults: Any) -> int:
        """Change the faults (`tests.durability.faulty_gateway`); return the number of calls that met the previous faults."""
        return int((await self._control_gateway(faults))["hits"])

    async def measure(self) -> dict[str, int]:
        """Return the numbers of timers, threads and objects in the gateway's process."""
        return await self._control_gateway({"measure": True})

    async def _control_gateway(self, request: Mapping[str, Any]) -> dict[str, int]:
        reader, writer = await asyncio.open_unix_connection(str(self._control))
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            answer: dict[str, int] = json.loads(await asyncio.wait_for(reader.readline(), 40))
            return answer
        finally:
            writer.close()

    async def ask(self, verb: str, **arguments: Any) -> Any:
        """Return the answer of the gateway's admin socket (docs/admin.md)."""
        return await asyncio.to_thread(ask, socket_path(self.gateway.config), verb, arguments)

    def log(self) -> str:
        """Return the log of the gateway, of all its runs."""
        path = self.gateway.folder / "s2sgw.out"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def state(self) -> Path:
        """Return the gateway's state directory."""
        return self.runner.state

    # --- waiting ---

    async def until(self, condition: Any, seconds: float, what: str = "") -> bool:
        """Wait until `condition()` holds; return whether it did. `what`: the problem if not."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                if what:
                    self.check(False, f"after {seconds:g} s: {what}")
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    async def acknowledged(self, *streams: OutgoingStream, seconds: float = 20.0) -> bool:
        """Wait until all stanzas of these streams are sent and acknowledged."""
        return await self.until(lambda: not any(stream.owes() for stream in streams), seconds)

    async def settle(self, seconds: float = 40.0, quiet_seconds: float = 8.0) -> None:
        """Let all servers behave well, and wait until all stanzas are delivered or bounced, or until there is no more progress."""
        for server in self.servers.values():
            server.refuses = server.frozen = server.discards = False
            server.answers_pings = server.acknowledges = True
            await server.come_back()
        for stream in self.outgoing:
            stream.sending = stream.connects = True
            for traffic in stream.traffics:
                traffic.rate = 0.0
        deadline, moved, flushed, progress = time.monotonic() + seconds, time.monotonic(), 0.0, -1
        while not self._complete() and time.monotonic() < min(deadline, moved + quiet_seconds):
            if time.monotonic() > flushed + FLUSH_SECONDS:
                flushed = time.monotonic()
                await self._flush()
            await asyncio.sleep(LOOK_SECONDS)
            now = sum(len(account.arrived) + len(account.bounced) + len(account.acknowledged) for account in self.accounts)
            if now != progress:
                progress, moved = now, time.monotonic()

    def _complete(self) -> bool:
        """Return whether no stanza waits for an acknowledgement, and all acknowledged ones have arrived or were bounced."""
        for stream in self.outgoing:
            stream.count_written()
        return not any(stream.owes() for stream in self.outgoing) and not any(account.lost() for account in self.accounts)

    async def _flush(self) -> None:
        """Let the gateway try again at once."""
        for account in self.accounts:
            if account.missing():
                for target in ([account.sender, account.recipient], [account.recipient, account.sender]):
                    try:
                        await self.ask("queue flush", target=target)
                    except RequestFailed:
                        return

    # --- the verdict ---

    def check(self, holds: object, problem: str) -> None:
        """Record `problem` once, unless `holds`."""
        if not holds and problem not in self.problems:
            self.problems.append(problem)

    def note(self, text: str) -> None:
        """Record a result for the report."""
        self.notes.append(text)

    async def totals(self, accounts: Sequence[PairAccount] | None = None) -> Totals:
        """Return the account of these pairs, by default of all."""
        for stream in self.outgoing:
            stream.count_written()
        totals = Totals()
        for account in self.accounts if accounts is None else accounts:
            held = await self._held(account) if account.lost() else set()
            missing = account.lost()
            lost = [number for number in missing if number not in held]
            arrived = set(account.arrived)
            totals.sent += len(account.sent) - account.first
            totals.acknowledged += len(account.acknowledged)
            totals.delivered += len(arrived)
            totals.bounced += len(account.bounced - arrived)
            totals.held += len(missing) - len(lost)
            totals.lost += len(lost)
            totals.twice += account.duplicates()
            totals.out_of_order += account.out_of_order()
            totals.requests_twice += account.requests_twice()
            if lost:
                totals.lost_of[account.name] = lost
        return totals

    async def _held(self, account: PairAccount) -> set[int]:
        """Return the stanzas of a pair that the gateway shows in its queue, and those whose errors it shows there."""
        held: set[int] = set()
        for target, errors in ([account.sender, account.recipient], False), ([account.recipient, account.sender], True):
            try:
                rows = await self.ask("queue show", target=target, limit=_ROWS)
            except RequestFailed as error:
                self.check(False, f"the held stanzas cannot be listed: {error}")
                return held
            identifiers = [row["id"] or "" for row in rows if (row["type"] == "error") == errors]
            held.update(int(each[1:]) for each in identifiers if each.startswith("n") and each[1:].isdecimal())
        return held

    async def finish(self) -> Totals:
        """Stop everything, check the conditions of every scenario, and return the account."""
        totals = await self.totals()
        if self.runner.process.alive:
            self.runner.process.signal(signal.SIGTERM)
            status = await self.runner.ended()
            self.check(status in self.allowed_statuses, f"the last stop ended with status {status}")
        for server in [*self.servers.values(), *self.others]:
            server.stop()
        if totals.lost != self.expected_losses:
            pairs = [f"{name}: {len(lost)}, such as number {lost[0]}" for name, lost in totals.lost_of.items()]
            more = f" and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
            self.check(False, f"{totals.lost:,} LOST, expected {self.expected_losses} ({'; '.join(pairs[:3])}{more})")
        self.check(not totals.requests_twice, f"{totals.requests_twice} requests arrived twice (R33)")
        self.check(not totals.out_of_order, f"{totals.out_of_order} out of order (R35)")
        self.check(not self.runner.slow_stops, "a normal stop took too long")
        found = Counter(word for line in self.log().splitlines() for word in FORBIDDEN_IN_LOG if word in line)
        self.check(not found, f"the log has {', '.join(f'{number} × {word}' for word, number in found.items())}")
        return totals
