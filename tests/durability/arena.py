"""The place of a run: a gateway, two local domains behind it, three peers outside, and the pairs between them."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.durability.account import Pair, Times
from tests.durability.party import Receiver, Sender
from tests.durability.unread import Reading
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import gateway
from tests.lab.nameserver import Nameserver, nameserver
from tests.lab.peer import client_context, server_context
from tests.lab.place import Lab, LabError, Process

#: Domain -> whether its server speaks XEP-0198.
LOCAL = {"managed.inside.example": True, "plain.inside.example": False}
PEERS = {"managed.example": True, "plain.example": False}
#: A peer without it that is sent to, sends nothing of its own, and in part of the cycles answers no ping either (R41).
MUTE = "mute.example"
#: Seconds to start, and to end in order.
START, STOP = 20.0, 30.0
#: Seconds between two looks at the end, and without any arrival until all has arrived.
LOOK, QUIET = 0.25, 3.0


class Arena:
    """Starts the servers once, and the gateway as often as asked."""

    #: seconds to let everything through at the end
    settling = 90.0
    #: seconds of work in a life, from and to
    work = (0.1, 1.2)
    local, peers = LOCAL, {**PEERS, MUTE: False}

    def __init__(self, lab: Lab, rate: float, changes: Mapping[str, Any] | None = None) -> None:
        """`rate`: stanzas a second of each pair. `changes`: sections of the gateway's configuration."""
        self.lab = lab
        self._changes = changes or {}
        self.reading = Reading()
        self.times = Times(waited=self.reading.waited)
        self.process: Process
        self._pairs: list[Pair] = []
        self._rate = rate
        self._senders: list[Sender] = []
        self._receivers: list[Receiver] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._slow_ends = 0
        self._statuses: list[int | None] = []
        self._traps: Path

    @property
    def pairs(self) -> list[Pair]:
        """Those on which something is sent."""
        return [pair for pair in self._pairs if pair.sent]

    # --- the servers ---

    async def start(self) -> None:
        authority, dns = Authority(self.lab.directory("authority")), nameserver(self.lab)
        self.door = gateway(self.lab, *self.local)
        self._traps = self.door.folder / "traps"
        certificates = {name: authority.for_domain(name) for name in [*self.local, *self.peers]}
        ports = {name: self.lab.port() for name in certificates}
        inner = {name: self.lab.port() for name in self.local}
        for name in certificates:
            dns.serve(name, ports[name] if name in self.peers else self.door.port)
        dns.start()
        self._configure(authority, dns, certificates, inner, ports)
        await self._populate(authority, dns, certificates, inner, ports)
        for receiver in self._receivers:
            await receiver.start()
        self._tasks += [asyncio.create_task(sender.run()) for sender in self._senders]

    def _configure(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], inner: dict[str, int],
        ports: dict[str, int],
    ) -> None:
        backends = [self._backend(name, inner[name], ports[name], dns) for name in self.local]
        self.door.configure(
            backend="127.0.0.1:1", dns=dns, anchors=authority.file, certificates=[certificates[name] for name in self.local],
            changes={"backend": backends, **self._changes},
        )

    def _backend(self, name: str, inner: int, port: int, dns: Nameserver) -> dict[str, object]:
        return {
            "kind": "s2s", "domains": [name], "address": f"127.0.0.1:{port}", "listen": f"tcp:{inner}:interface=127.0.0.1",
        }

    async def _populate(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], inner: dict[str, int],
        ports: dict[str, int],
    ) -> None:
        """Servers of our own at every place, and every pair between them."""
        for name in certificates:
            self._receive(name, ports[name], certificates[name])
        for local in self.local:
            for peer in self.peers:
                self._join(peer, local, self.door.port, certificates[peer], rate=0.0 if peer == MUTE else self._rate)
                self._join(local, peer, inner[local], certificates[local], rate=self._rate / (4 if peer == MUTE else 1))

    def _receive(self, name: str, port: int, certificate: Certificate) -> None:
        managed = {**self.local, **self.peers}[name]
        self._receivers.append(Receiver(name, port, server_context(certificate), managed))

    def _join(
        self, me: str, them: str, port: int, certificate: Certificate, *, rate: float, address: str = "u@{domain}/r",
    ) -> None:
        managed = {**self.local, **self.peers}[me]
        pair = Pair(f"{me} -> {them}", managed, acknowledgements=them != MUTE, inward=them in self.local)
        sender = Sender(pair, me, them, port, client_context(certificate), rate, address.format(domain=them), self.reading)
        self._pairs.append(pair)
        self._senders.append(sender)
        for receiver in self._receivers:
            if receiver.me == them:
                receiver.pairs[me] = pair
            if receiver.me == me:
                receiver.senders[them] = sender

    # --- what they do ---

    def shut(self, chance: random.Random, share: float) -> None:
        """About this share of the next servers take nothing for a while."""
        for receiver in self._receivers:
            if chance.random() < share:
                receiver.close_up()

    def shut_out(self) -> None:
        """No peer takes anything."""
        for receiver in self._receivers:
            if receiver.me in self.peers:
                receiver.close_up()

    def open(self) -> None:
        """All of them take everything again."""
        for receiver in self._receivers:
            receiver.shut = False

    def silence(self, silent: bool) -> None:
        """Whether the one-way peer answers no ping."""
        for receiver in self._receivers:
            receiver.silent = silent and receiver.me == MUTE

    def direct(self, inward: bool, outward: bool) -> None:
        """Who sends."""
        for sender in self._senders:
            sender.sending = inward if sender.pair.inward else outward

    def under_way(self) -> tuple[bool, bool]:
        """Whether stanzas are on their way in, and out, beside those that are lost."""
        moving = [pair for pair in self.pairs if len(pair.sent) > (max(pair.arrived) + 1 if pair.arrived else 0)]
        return any(pair.inward for pair in moving), any(not pair.inward for pair in moving)

    # --- the gateway ---

    def begin(self, trap: str = "") -> Process:
        """Start it, and do not wait."""
        program = [sys.executable, "-m", "tests.durability.trap", trap, str(self._traps)] if trap else []
        self.process = self.door.begin(*program)
        self.reading.follow(self.process.pid)
        return self.process

    def sprung(self) -> float:
        """When the last trap sprang."""
        return float(self._traps.read_text().split()[-1])

    async def ready(self) -> None:
        """Its listeners are open."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if not self.process.alive:
                if self.process.status == -9:  # its trap sprang before anybody was let in
                    return
                raise LabError(f"the gateway ended with status {self.process.status}:\n{self.process.output()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.door.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        raise LabError(f"the gateway does not listen:\n{self.process.output()}")

    async def ended(self, process: Process) -> None:
        """It is gone; at an order to stop, with status 0, within `STOP`."""
        deadline = time.monotonic() + STOP
        while process.alive:
            await asyncio.sleep(0.01)
            if time.monotonic() > deadline:
                self._slow_ends += 1
                process.kill()
        self._statuses.append(process.status)
        self.lab.processes.remove(process)

    def cease(self) -> None:
        """Nothing new is sent."""
        self.direct(inward=False, outward=False)

    async def settle(self) -> None:
        """Nothing new; what is held goes through."""
        self.begin()
        await self.ready()
        await self.quiet()

    async def quiet(self) -> None:
        """The same in this life."""
        self.cease()
        self.silence(False)
        deadline, quiet, arrived = time.monotonic() + self.settling, 0.0, -1
        while time.monotonic() < deadline and quiet < self._patience(quiet):
            await asyncio.sleep(LOOK)
            now = sum(len(pair.arrived) for pair in self.pairs)
            quiet, arrived = quiet + LOOK if now == arrived else 0.0, now
        print(f"settled: {self.door.asked('queue', 'list')}")

    def _patience(self, quiet: float) -> float:
        """Seconds without any arrival that are enough; what should not be lost may yet come as long as there is time."""
        if quiet < QUIET:
            return QUIET
        if any(pair.account(self.times).faults() for pair in self.pairs) or any(map(Sender.owing, self._senders)):
            return self.settling
        return QUIET

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.process.signal(15)
        await self.ended(self.process)
        self.reading.close()

    # --- what is known ---

    def summary(self) -> str:
        """One line of how far it is."""
        sent, arrived = sum(len(pair.sent) for pair in self.pairs), sum(len(set(pair.arrived)) for pair in self.pairs)
        spool = self.door.folder / "state" / "spool.db"
        size = spool.stat().st_size / 1e6 if spool.exists() else 0.0
        return f"{sent} sent, {arrived} arrived, the spool's file has {size:.1f} MB"

    def faults(self) -> list[str]:
        """What went wrong beside the stanzas."""
        strange = [status for status in self._statuses if status not in (0, -9, -15)]  # told to end before it had begun: -15
        aside = list((self.door.folder / "state").glob("*.damaged-*"))
        return [
            *([f"{self._slow_ends} stops took more than {STOP} s"] if self._slow_ends else []),
            *([f"exit statuses {strange}"] if strange else []), *(f"{each.name} was set aside" for each in aside),
        ]
