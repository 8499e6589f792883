"""The test bed of `make crash` with real servers: one Prosody behind the gateway, one outside, and a client at each.

Prosody uses XEP-0198 with the gateway on both legs, but stanzas that it sends on a new stream before it enables XEP-0198 are not covered, so
as a sender it counts as one without XEP-0198. It bounces at once stanzas that it cannot send, and sends others again after newer
stanzas, so its order is not judged. The time at which it wrote a queued stanza cannot be seen from outside: the
loss of one is excused by any later kill. Therefore a run of normal stops alone follows, in which no stanza may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

from tests.durability.account import PairAccount
from tests.durability.crash_testbed import LOCAL, PEERS, CrashTestbed
from tests.durability.simulated_server import TICK_SECONDS
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
RESOLVE_SECONDS = 30.0


class ClientTraffic:
    """The traffic of a client of a real server: what it sends on each of its pairs, and what it receives. Both are by the other domain."""

    def __init__(
        self, client: Client, sends: dict[str, PairAccount], receives: dict[str, PairAccount], rate: float = RATE,
    ) -> None:
        self._rate = rate
        self.sends = sends
        self.receives = receives
        self.inbound = self.outbound = True
        self._client = client

    async def run(self) -> None:
        """Send and receive until cancelled."""
        due, last = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            due, last = due + (now - last) * self._rate, now
            number, due = int(due), due % 1
            for them, account in self.sends.items():
                for _ in range(number if (self.inbound if account.inbound else self.outbound) else 0):
                    await self._send(them, account)
            self._receive()

    async def _send(self, them: str, account: PairAccount) -> None:
        number = len(account.sent)
        account.sent.append(time.time())
        body = "<body>nothing is lost</body>"
        await self._client.send(f"<message type='chat' to='{USER}@{them}/lab' id='n{number}'>{body}</message>")

    def _receive(self) -> None:
        inbox, self._client.inbox[:] = list(self._client.inbox), []
        for element in inbox:
            domain = element.get("from", "").partition("@")[2].partition("/")[0]
            with contextlib.suppress(ValueError, KeyError):
                number = int(element.get("id", "")[1:])
                if element.tag == f"{CLIENT}message" and element.get("type") == "error":
                    self.sends[domain].bounced.add(number)
                elif element.tag == f"{CLIENT}message":
                    self.receives[domain].arrived.append(number)


class ProsodyTestbed(CrashTestbed):
    """A test bed in which every pair has a real server on at least one side.

    The Prosody inside uses the gateway's DNS view as its resolver, which is away as often as the gateway. It waits longer and
    longer before it asks again, with stanzas in its own queue. The end of the run waits for that.
    """

    settle_seconds = 300.0
    load_seconds = (0.5, 4.0)
    local, peers = {INSIDE: False, **LOCAL}, {OUTSIDE: False, **PEERS}

    def _backend(self, name: str, inner: int, port: int, dns: Nameserver) -> dict[str, object]:
        backend = super()._backend(name, inner, port, dns)
        if name != INSIDE:
            return backend
        return {**backend, "dns_view": f"127.0.0.1:{self.gateway.view}", "forward": [dns.address], "tls": "required"}

    async def _populate(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], inner: dict[str, int],
        ports: dict[str, int],
    ) -> None:
        for name in (*LOCAL, *PEERS):
            self._add_server(name, ports[name], certificates[name], inner.get(name, self.gateway.port))
        for name in LOCAL:
            self._add_pair(name, OUTSIDE, self._rate, address=f"{USER}@{OUTSIDE}/lab")
        for name in PEERS:
            self._add_pair(name, INSIDE, self._rate, address=f"{USER}@{INSIDE}/lab")
        await self._start_prosodies(authority, dns, certificates, ports)

    async def _start_prosodies(
        self, authority: Authority, dns: Nameserver, certificates: dict[str, Certificate], ports: dict[str, int],
    ) -> None:
        """Start both while the gateway runs: its DNS view is the resolver of the one inside."""
        self.begin()
        await self.runner.ready()
        inside = Site(
            self.lab, INSIDE, self.gateway.view, authority.file, certificates[INSIDE], s2s_port=ports[INSIDE], verbose=False,
            lines=self.gateway.command("setup", "prosody", "--local", INSIDE),
        )
        outside = Site(
            self.lab, OUTSIDE, dns.port, authority.file, certificates[OUTSIDE], s2s_port=ports[OUTSIDE], verbose=False,
        )
        clients = {site.domain: await login(prosody.start(site), USER) for site in (inside, outside)}
        await self.runner.kill()
        near = self._client_traffic(clients[INSIDE], INSIDE, PEERS, OUTSIDE)
        far = self._client_traffic(clients[OUTSIDE], OUTSIDE, LOCAL, INSIDE)
        near.receives[OUTSIDE], far.receives[INSIDE] = far.sends[INSIDE], near.sends[OUTSIDE]
        self._clients = [near, far]
        self._tasks += [asyncio.create_task(client.run()) for client in self._clients]

    def _client_traffic(self, client: Client, me: str, simulated: Iterable[str], real: str) -> ClientTraffic:
        sends = {
            them: PairAccount(me, them, managed=False, orderly=False, inbound=me == OUTSIDE) for them in (*simulated, real)
        }
        for server in self._servers:
            if server.domain in sends:
                server.incoming[me] = sends[server.domain]
        receives = {account.sender: account for account in self._accounts if account.recipient == me}
        self._accounts += sends.values()
        return ClientTraffic(client, sends, receives)

    # --- behaviour ---

    def send(self, *, inbound: bool, outbound: bool) -> None:
        super().send(inbound=inbound, outbound=outbound)
        for client in self._clients:
            client.inbound, client.outbound = inbound, outbound

    def _quiet_seconds(self, quiet: float) -> float:
        """Return a longer time: a Prosody may still have a missing stanza."""
        missing = any(account.missing() for client in self._clients for account in client.sends.values())
        return max(super()._quiet_seconds(quiet), RESOLVE_SECONDS if missing else 0.0)
