"""The same with real servers: one Prosody behind the gateway, another outside, and a client at each in place of a bare server.

Prosody speaks XEP-0198 with us on both legs, but what it sends on a new stream before it enables that is not covered
(BACKENDS.md), so as a sender it counts as one without. It bounces what it cannot send at once, and what it sends again comes
behind newer stanzas: its own order is not held against the gateway. Nor can it be seen from outside when it wrote a stanza
that it had in its queue: one that is lost is excused by any kill behind it. So a run of stops in order alone follows, where
none may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

from tests.durability.account import Pair
from tests.durability.arena import LOCAL, PEERS, Arena
from tests.durability.party import TICK
from tests.interop.conversation import login
from tests.lab.certificates import Authority, Certificate
from tests.lab.client import CLIENT, Client
from tests.lab.nameserver import Nameserver
from tests.lab.servers import prosody
from tests.lab.servers.server import Site

INSIDE, OUTSIDE = "real.inside.example", "real.example"
USER = "juliet"
#: Stanzas a second that a client sends to each domain.
RATE = 50.0
#: Seconds for which a Prosody may wait before it asks its resolver again.
RESOLVING = 30.0


class Talker:
    """A client of a real server: writes on every pair from it, and notes what comes. Both go by the other domain."""

    def __init__(self, client: Client, sends: dict[str, Pair], hears: dict[str, Pair]) -> None:
        self.sends = sends
        self.hears = hears
        self.inward = self.outward = True
        self._client = client

    async def run(self) -> None:
        """For ever."""
        due, last = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            due, last = due + (now - last) * RATE, now
            number, due = int(due), due % 1
            for them, pair in self.sends.items():
                for _ in range(number if (self.inward if pair.inward else self.outward) else 0):
                    await self._say(them, pair)
            self._hear()

    async def _say(self, them: str, pair: Pair) -> None:
        number = len(pair.sent)
        pair.sent.append(time.time())
        body = "<body>nothing is lost</body>"
        await self._client.send(f"<message type='chat' to='{USER}@{them}/lab' id='n{number}'>{body}</message>")

    def _hear(self) -> None:
        inbox, self._client.inbox[:] = list(self._client.inbox), []
        for element in inbox:
            domain = element.get("from", "").partition("@")[2].partition("/")[0]
            with contextlib.suppress(ValueError, KeyError):
                number = int(element.get("id", "")[1:])
                if element.tag == f"{CLIENT}message" and element.get("type") == "error":
                    self.sends[domain].bounced.add(number)
                elif element.tag == f"{CLIENT}message":
                    self.hears[domain].arrived.append(number)


class RealArena(Arena):
    """Every pair with a real server on at least one side.

    The resolver of the one inside is the gateway's view, which is gone as often as the gateway; it then waits longer and
    longer before it asks again, with the stanzas in its own queue. So the end waits for it.
    """

    settling = 300.0
    work = (0.5, 4.0)
    local, peers = {INSIDE: False, **LOCAL}, {OUTSIDE: False, **PEERS}

    def _backend(self, name: str, inner: int, port: int, dns: Nameserver) -> dict[str, object]:
        backend = super()._backend(name, inner, port, dns)
        if name != INSIDE:
            return backend
        return {**backend, "dns_view": f"127.0.0.1:{self.door.view}", "forward": [dns.address], "tls": "required"}

    async def _populate(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], inner: dict[str, int],
        ports: dict[str, int],
    ) -> None:
        for name in (*LOCAL, *PEERS):
            self._receive(name, ports[name], certificates[name])
        for name in LOCAL:
            self._join(name, OUTSIDE, inner[name], certificates[name], rate=self._rate, address=f"{USER}@{{domain}}/lab")
        for name in PEERS:
            self._join(name, INSIDE, self.door.port, certificates[name], rate=self._rate, address=f"{USER}@{{domain}}/lab")
        await self._begin_servers(authority, dns, certificates, ports)

    async def _begin_servers(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], ports: dict[str, int],
    ) -> None:
        """While the gateway runs: its view is the resolver of the one inside."""
        self.begin()
        await self.ready()
        inside = Site(
            self.lab, INSIDE, self.door.view, authority.file, certificates[INSIDE], s2s_port=ports[INSIDE], verbose=False,
            lines=self.door.command("setup", "prosody", "--local", INSIDE),
        )
        outside = Site(
            self.lab, OUTSIDE, dns.port, authority.file, certificates[OUTSIDE], s2s_port=ports[OUTSIDE], verbose=False,
        )
        clients = {site.domain: await login(prosody.start(site), USER) for site in (inside, outside)}
        self.process.kill()
        await self.ended(self.process)
        near, far = self._talker(clients[INSIDE], INSIDE, PEERS, OUTSIDE), self._talker(clients[OUTSIDE], OUTSIDE, LOCAL, INSIDE)
        near.hears[OUTSIDE], far.hears[INSIDE] = far.sends[INSIDE], near.sends[OUTSIDE]
        self._talkers = [near, far]
        self._tasks += [asyncio.create_task(talker.run()) for talker in self._talkers]

    def _talker(self, client: Client, me: str, bare: Iterable[str], real: str) -> Talker:
        sends = {
            them: Pair(f"{me} -> {them}", managed=False, orderly=False, inward=me == OUTSIDE) for them in (*bare, real)
        }
        for receiver in self._receivers:
            if receiver.me in sends:
                receiver.pairs[me] = sends[receiver.me]
        hears = {pair.name.split()[0]: pair for pair in self._pairs if pair.name.split()[-1] == me}
        self._pairs += sends.values()
        return Talker(client, sends, hears)

    # --- what they do ---

    def direct(self, inward: bool, outward: bool) -> None:
        super().direct(inward, outward)
        for talker in self._talkers:
            talker.inward, talker.outward = inward, outward

    def _patience(self, quiet: float) -> float:
        """A Prosody may still have it."""
        lost = any(pair.lost() for talker in self._talkers for pair in talker.sends.values())
        return max(super()._patience(quiet), RESOLVING if lost else 0.0)
