"""A real Prosody behind the nodes of `make cluster`, for a second local domain, with one client.

Its resolver is a name server of the test, which leads every domain to the listeners of all nodes: the DNS view of one node would be
away with that node. Everything else is as `s2sgw setup prosody` prints it. As a sender Prosody counts as one without XEP-0198, and its
order is not judged (`prosody_testbed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import dns.message
import dns.rdatatype
import dns.rrset

from tests.durability.account import PairAccount
from tests.durability.prosody_testbed import USER, ClientTraffic
from tests.durability.simulated_nameserver import SERVICE, TTL, SimulatedNameserver
from tests.interop.conversation import login
from tests.lab.certificates import Certificate
from tests.lab.client import Client
from tests.lab.gateway import Gateway
from tests.lab.lab import Lab
from tests.lab.servers import prosody
from tests.lab.servers.server import Site

REAL = "real.inside.example"
#: Stanzas a second that the client sends to each peer.
RATE = 10.0


class NodesNameserver(SimulatedNameserver):
    """A name server that leads every domain to `nodes`, which are ports of localhost."""

    nodes: Sequence[int] = ()

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        if question.rdtype != dns.rdatatype.SRV or not question.name.to_text().startswith(SERVICE):
            return super()._answer(query)
        answer = dns.message.make_response(query)
        records = [f"0 1 {port} localhost." for port in self.nodes]
        answer.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "SRV", *records))
        return answer


class ProsodyBehind:
    """The server of `REAL`: its ports, and its client's traffic with peers."""

    def __init__(self, lab: Lab, nodes: int) -> None:
        self.lab = lab
        #: its listener for streams of the nodes, and the listeners of the nodes for its own streams
        self.port, self.inner = lab.port(), [lab.port() for _ in range(nodes)]
        self.accounts: list[PairAccount] = []
        self._dns, self._dns_port = NodesNameserver(), lab.port()
        self._traffic: ClientTraffic
        self._task: asyncio.Task[None] | None = None

    def backend(self, number: int, gateway: Gateway, forward: str) -> dict[str, object]:
        """Return the backend of this server in the configuration of a node."""
        return {
            "kind": "s2s", "domains": [REAL], "address": f"127.0.0.1:{self.port}", "tls": "required",
            "listen": f"tcp:{self.inner[number]}:interface=127.0.0.1", "dns_view": f"127.0.0.1:{gateway.view}", "forward": [forward],
        }

    async def start(self, gateway: Gateway, anchors: Path, certificate: Certificate) -> None:
        """Start the server, and log its client in. The configuration of a node is written."""
        self._dns.nodes = self.inner
        await self._dns.listen(self._dns_port)
        lines = gateway.command("setup", "prosody", "--local", REAL)
        view, own = f"127.0.0.1@{gateway.view}", f"127.0.0.1@{self._dns_port}"
        assert view in lines
        site = Site(
            self.lab, REAL, self._dns_port, anchors, certificate, s2s_port=self.port, verbose=False, lines=lines.replace(view, own),
        )
        server = await asyncio.to_thread(prosody.start, site)
        self._client: Client = await login(server, USER)

    def run(self, receives: Sequence[PairAccount]) -> list[PairAccount]:
        """Send to the domains from which these accounts come, and receive; return the accounts of what is sent."""
        sends = {account.sender: PairAccount(REAL, account.sender, managed=False, orderly=False, inbound=False) for account in receives}
        self._traffic = ClientTraffic(self._client, sends, {account.sender: account for account in receives}, RATE)
        self._task = asyncio.create_task(self._traffic.run())
        self.accounts = list(sends.values())
        return self.accounts

    def send(self, sends: bool) -> None:
        """Send from now on, or not."""
        self._traffic.outbound = sends

    def stop(self) -> None:
        """End the client's traffic. The server ends with the lab."""
        if self._task is not None:
            self._task.cancel()
        self._dns.close()


def is_installed() -> bool:
    """Return whether there is a Prosody on this machine."""
    return Path(prosody.PROSODY).exists()
