"""The same with a real Prosody behind the gateway: a client of its own sends and receives in place of a bare server.

Prosody speaks XEP-0198 to us, but what it sends on a new stream before it enables that is not covered (BACKENDS.md), so as a
sender it counts as one without. It bounces what it cannot send at once, and what it sends again comes behind newer stanzas:
its own order is not held against the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from crash.account import Pair
from crash.arena import PEERS, Arena
from crash.party import TICK, Receiver
from interop import prosody
from interop.certificates import Authority
from interop.client import CLIENT, Client
from interop.conversation import login
from interop.gateway import gateway
from interop.nameserver import nameserver
from interop.peer import server_context
from interop.server import Site

INSIDE = "real.inside.example"
#: Stanzas a second that the client sends to each peer.
RATE = 50.0


class RealArena(Arena):
    """One local domain, on Prosody; the same peers.

    Prosody's resolver is the gateway's view, which is gone as often as the gateway; it then waits longer and longer before
    it asks again, with the stanzas in its own queue. So the end waits for it.
    """

    settling = 300.0

    async def start(self) -> None:
        authority, dns = Authority(self.lab.directory("authority")), nameserver(self.lab)
        self.door = gateway(self.lab, INSIDE)
        certificates = {name: authority.for_domain(name) for name in PEERS}
        ports = {name: self.lab.port() for name in PEERS}
        for name in PEERS:
            dns.serve(name, ports[name])
            self._receivers.append(Receiver(name, ports[name], server_context(certificates[name]), PEERS[name]))
        dns.serve(INSIDE, self.door.port)
        dns.start()
        near = self.lab.port()
        ours = authority.for_domain(INSIDE)
        self.door.configure(backend=f"127.0.0.1:{near}", dns=dns, anchors=authority.file, certificates=[ours])
        lines = self.door.command("setup", "prosody")
        site = Site(self.lab, INSIDE, self.door.view, authority.file, ours, lines=lines, s2s_port=near, verbose=False)
        self.begin()
        await self.ready()
        server = prosody.start(site)
        self._client = await login(server, "juliet")
        process = self._process
        assert process is not None
        process.kill()
        await self.ended(process)
        for receiver in self._receivers:
            await receiver.start()
        for name in PEERS:
            self._join(name, INSIDE, self.door.port, certificates[name], PEERS[name], address="juliet@{domain}/lab")
        self._inbound = {pair.name.split()[0]: pair for pair in self.pairs}
        self._outbound = {name: Pair(f"{INSIDE} -> {name}", managed=False, orderly=False) for name in PEERS}
        for receiver in self._receivers:
            receiver.pairs[INSIDE] = self._outbound[receiver.me]
        self.pairs += self._outbound.values()
        self._sending = True
        self._tasks = [asyncio.create_task(sender.run()) for sender in self._senders]
        self._tasks.append(asyncio.create_task(self._talk(self._client)))

    async def _talk(self, client: Client) -> None:
        due, last = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            due, last = due + (now - last) * RATE, now
            while due >= 1 and self._sending:
                due -= 1
                for name, pair in self._outbound.items():
                    number = len(pair.sent)
                    pair.sent.append(time.time())
                    body = "<body>nothing is lost</body>"
                    await client.send(f"<message type='chat' to='u@{name}/r' id='n{number}'>{body}</message>")
            self._hear(client)

    def _hear(self, client: Client) -> None:
        inbox, client.inbox[:] = list(client.inbox), []
        for element in inbox:
            domain = element.get("from", "").partition("@")[2].partition("/")[0]
            with contextlib.suppress(ValueError, KeyError):
                number = int(element.get("id", "")[1:])
                if element.tag == f"{CLIENT}message" and element.get("type") == "error":
                    self._outbound[domain].bounced.add(number)
                elif element.tag == f"{CLIENT}message":
                    self._inbound[domain].arrived.append(number)

    def owing(self) -> bool:
        """Prosody has neither delivered nor bounced everything yet."""
        pairs = self._outbound.values()
        return super().owing() or any(set(range(len(pair.sent))) - pair.bounced - set(pair.arrived) for pair in pairs)

    def cease(self) -> None:
        super().cease()
        self._sending = False
