"""The place of a run: a gateway, two local domains behind it, three peers outside, and every pair between them."""

from __future__ import annotations

import asyncio
import random
import time

from crash.account import Pair
from crash.party import Receiver, Sender
from interop.certificates import Authority, Certificate
from interop.gateway import gateway
from interop.nameserver import Nameserver, nameserver
from interop.peer import client_context, server_context
from interop.place import Lab, LabError, Process

#: Domain -> whether its server speaks XEP-0198.
LOCAL = {"managed.inside.example": True, "plain.inside.example": False}
PEERS = {"managed.example": True, "plain.example": False}
#: Seconds to start, and to end in order.
START, STOP = 20.0, 30.0


class Arena:
    """Starts the servers once, and the gateway as often as asked."""

    #: seconds to let everything through at the end
    settling = 90.0

    def __init__(self, lab: Lab, rate: float) -> None:
        self.lab = lab
        self.pairs: list[Pair] = []
        self._rate = rate
        self._senders: list[Sender] = []
        self._receivers: list[Receiver] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._slow_ends = 0
        self._statuses: list[int | None] = []
        self._process: Process | None = None

    # --- the servers ---

    async def start(self) -> None:
        authority, dns = Authority(self.lab.directory("authority")), nameserver(self.lab)
        self.door = gateway(self.lab, next(iter(LOCAL)))
        certificates = {name: authority.for_domain(name) for name in [*LOCAL, *PEERS]}
        inner = {name: self.lab.port() for name in LOCAL}
        ports = {name: self.lab.port() for name in [*LOCAL, *PEERS]}
        for name in PEERS:
            dns.serve(name, ports[name])
        for name in LOCAL:
            dns.serve(name, self.door.port)
        dns.start()
        self._configure(authority, dns, certificates, inner, ports)
        for name, managed in {**LOCAL, **PEERS}.items():
            self._receivers.append(Receiver(name, ports[name], server_context(certificates[name]), managed))
        for local in LOCAL:
            for peer in PEERS:
                self._join(peer, local, self.door.port, certificates[peer], PEERS[peer])
                self._join(local, peer, inner[local], certificates[local], LOCAL[local])
        for receiver in self._receivers:
            await receiver.start()
        self._tasks = [asyncio.create_task(sender.run()) for sender in self._senders]

    def _configure(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], inner: dict[str, int],
        ports: dict[str, int],
    ) -> None:
        backends = [
            {
                "kind": "s2s", "domains": [name], "address": f"127.0.0.1:{ports[name]}",
                "listen": f"tcp:{inner[name]}:interface=127.0.0.1",
            }
            for name in LOCAL
        ]
        self.door.configure(
            backend="127.0.0.1:1", dns=dns, anchors=authority.file, certificates=[certificates[name] for name in LOCAL],
            changes={"gateway": {"domains": list(LOCAL)}, "backend": backends},
        )

    def _join(
        self, me: str, them: str, port: int, certificate: Certificate, managed: bool, address: str = "u@{domain}/r",
    ) -> None:
        pair = Pair(f"{me} -> {them}", managed)
        sender = Sender(pair, me, them, port, client_context(certificate), self._rate, address.format(domain=them))
        self.pairs.append(pair)
        self._senders.append(sender)
        for receiver in self._receivers:
            if receiver.me == them:
                receiver.pairs[me] = pair
            if receiver.me == me:
                receiver.senders[them] = sender

    def shut(self, shut: bool, chance: random.Random) -> None:
        """Some of the next servers take nothing for a while."""
        for receiver in self._receivers:
            if shut and chance.random() < 0.6:
                receiver.close_up()

    def open(self) -> None:
        """All of them take everything again."""
        for receiver in self._receivers:
            receiver.shut = False

    # --- the gateway ---

    def begin(self) -> Process:
        """Start it, and do not wait."""
        self._process = self.door.begin()
        return self._process

    async def ready(self) -> None:
        """Its listeners are open."""
        assert self._process is not None
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if not self._process.alive:
                raise LabError(f"the gateway ended with status {self._process.status}:\n{self._process.output()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.door.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        raise LabError(f"the gateway does not listen:\n{self._process.output()}")

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
        for sender in self._senders:
            sender.sending = False

    def owing(self) -> bool:
        """Somebody still has something to send."""
        return any(number >= 0 for sender in self._senders for number in sender.unacknowledged)

    async def settle(self) -> None:
        """Nothing new; what is held goes through."""
        self.cease()
        self.begin()
        await self.ready()
        deadline, quiet = time.monotonic() + self.settling, 0
        arrived = -1
        while time.monotonic() < deadline and quiet < 12:
            await asyncio.sleep(0.25)
            now = sum(len(pair.arrived) for pair in self.pairs)
            still = now == arrived and not self.owing()
            quiet, arrived = quiet + 1 if still else 0, now
        print(f"settled: {self.door.asked('queue', 'list')}")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        assert self._process is not None
        self._process.signal(15)
        await self.ended(self._process)

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
