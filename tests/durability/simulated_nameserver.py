"""A name server for the peers of a test: it answers SRV questions, and can be silent, slow or broken."""

from __future__ import annotations

import asyncio
from typing import Literal

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

#: Seconds for which an answer may be kept, and the start of a name that is asked for.
TTL = 2
SERVICE = "_xmpp-server._tcp."


class SimulatedNameserver(asyncio.DatagramProtocol):
    """A name server that returns the `ports` of the servers of domains on localhost. All other names do not exist."""

    def __init__(self, ports: dict[str, int] | None = None) -> None:
        self.ports = dict(ports or {})
        #: the port of a domain that is not in `ports`; 0: none
        self.default_port = 0
        #: "fails" is the answer SERVFAIL
        self.mode: Literal["answers", "is silent", "fails"] = "answers"
        #: seconds until an answer
        self.seconds = 0.0
        self.questions = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def listen(self, port: int) -> None:
        """Answer at this port of 127.0.0.1."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer a question, or ignore it."""
        self.questions += 1
        if self.mode == "is silent":
            return
        answer = self._answer(dns.message.from_wire(data)).to_wire()
        asyncio.get_running_loop().call_later(self.seconds, self._send, answer, address)

    def _send(self, answer: bytes, address: tuple[str, int]) -> None:
        if self._transport is not None:
            self._transport.sendto(answer, address)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if self.mode == "fails":
            answer.set_rcode(dns.rcode.SERVFAIL)
            return answer
        question = query.question[0]
        name = question.name.to_text().rstrip(".")
        port = self.ports.get(name.removeprefix(SERVICE), self.default_port)
        if question.rdtype == dns.rdatatype.SRV and name.startswith(SERVICE) and port:
            answer.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "SRV", f"0 0 {port} localhost."))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def close(self) -> None:
        """Stop answering."""
        if self._transport is not None:
            self._transport.close()
