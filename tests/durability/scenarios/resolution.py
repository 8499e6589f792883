"""Many lanes look the same thing up at the same moment."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

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


@scenario("{1} pairs resolve at once; the name server {0}", ("answers", 800), ("refuses", 800), seconds=90)
async def many_pairs_resolve(context: ScenarioContext, kind: str, number: int) -> None:
    """The answers of many look-ups that end together are handled one after the other."""
    bed = context.testbed(queue={"hold": "20s"}, sections={"dns": {"servers": ["127.0.0.1:1"]}})
    port = bed.lab.port()
    if kind == "answers":
        bed._sections["dns"] = {"servers": [f"127.0.0.1:{port}"], "private_addresses": "allow"}
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: SlowNameserver(1, 1.0), local_addr=("127.0.0.1", port))
    inside = bed.local()
    names = [f"many{each}.example" for each in range(number)]
    traffics = [bed.traffic(inside, name, size=100) for name in names]
    stream = bed.stream(inside, *traffics)
    await bed.start()
    for traffic in traffics:
        traffic.due = 1
    await bed.until(lambda: stream.stream is not None, 40, "the stream is not ready")
    await bed.until(lambda: not stream.owes(), 30, "not everything is acknowledged")
    await asyncio.sleep(4)
    rows = await bed.ask("queue list", limit=1)
    bed.check(isinstance(rows, list), "the gateway does not answer")
