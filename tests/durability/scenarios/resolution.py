"""Many lanes look the same thing up at the same moment."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.durability.custody_testbed import INSIDE
from tests.durability.scenario import ScenarioContext, scenario


class SlowNameserver(asyncio.DatagramProtocol):
    """Answers every SRV question with `port` of localhost, all of them at once after `seconds`; other questions with nothing."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._seconds = seconds
        self.questions = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer a question."""
        self.questions += 1
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        question = query.question[0]
        name = question.name.to_text()
        if question.rdtype == dns.rdatatype.SRV and name.startswith("_xmpp-server."):
            answer.answer.append(dns.rrset.from_text(question.name, 5, "IN", "SRV", f"0 0 {self._port} localhost."))
        elif question.rdtype == dns.rdatatype.SRV:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        wire = answer.to_wire()
        loop = asyncio.get_running_loop()
        loop.call_later(self._seconds, lambda: self._transport.sendto(wire, address))  # type: ignore[attr-defined]


@scenario(
    "{0} local domains write to {1} at once, which all have to be looked up; the name server {2}",
    (500, "one peer", "refuses"), (500, "one peer", "is silent"), (200, "a peer each", "answers"), seconds=70,
)
async def many_pairs_resolve(context: ScenarioContext, number: int, recipients: str, kind: str) -> None:
    """The answers of many look-ups that end together are handled one after the other."""
    bed = context.testbed(queue={"hold": "10s"})
    port = bed.lab.port()
    bed.use_nameserver(port)
    if kind != "refuses":
        server = SlowNameserver(1, 1.0 if kind == "answers" else 3600.0)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", port))
    inside = bed.local()
    if recipients == "one peer":
        names = bed.subdomains[INSIDE] = [f"room{each}.{INSIDE}" for each in range(number)]
        traffics = [bed.traffic(inside, "far.example", domain=name, size=100) for name in (INSIDE, *names)]
    else:
        traffics = [bed.traffic(inside, f"far{each}.example", size=100) for each in range(number)]
    stream = bed.stream(inside, *traffics)
    await bed.start()
    await bed.until(lambda: stream.stream is not None, 40, "the stream is not ready")
    for traffic in traffics:
        traffic.due = 1
    await bed.until(lambda: not stream.owes(), 30, "not everything is acknowledged")
    await bed.until(lambda: not any(account.missing() for account in bed.accounts), 30, "not everything is bounced")
