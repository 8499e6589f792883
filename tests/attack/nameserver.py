"""`python -m tests.attack.nameserver PORT FILE`: a name server that answers as an attack needs it, and counts questions.

FILE holds a table as JSON. `srv` maps a domain to the port of its XMPP server. `silent` lists zones without answers.
`services` maps a zone to the SRV records of every domain below it: the zone of their hosts, whose names are always new, a port, and their number.
`bombs` lists zones whose answers take seconds to parse: hundreds of records, each with a name of a hundred labels.
`addresses` maps a zone to the addresses of every name in it, one at a time, in turn. Every other name under `example.` has 127.0.0.1.
Answers about the zones in `secure` claim DNSSEC, and every host there has 64 TLSA records.
`ask_count(port, zone)` returns the number of questions about names in a zone.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import count, cycle
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

#: Questions below this name are answered with a number: the questions about names in the zone in front of it.
COUNT = "count.test."
TTL = 30
#: Records of an answer that takes long to parse.
BOMB_RECORDS = 350
_SRV = "_xmpp-server._tcp."
_ADDRESSES = (dns.rdatatype.A, dns.rdatatype.AAAA)


class Answers:
    """The answers, and the number of questions."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._srv: dict[str, int] = table.get("srv", {})
        self._silent: Iterable[str] = tuple(table.get("silent", ()))
        self._bombs: Iterable[str] = tuple(table.get("bombs", ()))
        self._services: dict[str, tuple[str, int, int]] = table.get("services", {})
        self._addresses = {zone: cycle(rows) for zone, rows in table.get("addresses", {}).items()}
        self._secure: Iterable[str] = tuple(table.get("secure", ()))
        self._hosts = count()
        self._asked: Counter[str] = Counter()

    def answer(self, query: dns.message.Message) -> dns.message.Message | bytes | None:
        """Return the answer to one question, or None."""
        question = query.question[0]
        name = question.name.to_text().lower()
        if name.endswith(COUNT):
            return self._count(query, name.removesuffix(COUNT))
        for zone in _zones(name):
            self._asked[zone] += 1
        if _is_in(name, self._silent):
            return None
        return _bomb(query) if _is_in(name, self._bombs) else self._found(query, question, name)

    def _found(self, query: dns.message.Message, question: dns.rrset.RRset, name: str) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        secure = _is_in(name, self._secure)
        if secure:
            response.flags |= dns.flags.AD
        domain = name.removeprefix(_SRV).removesuffix(".")
        service = next((row for zone, row in self._services.items() if domain.endswith(f".{zone}")), None)
        if service is not None and name.startswith(_SRV) and question.rdtype == dns.rdatatype.SRV:
            hosts, port, number = service
            records = [f"1 0 {port} h{next(self._hosts)}.{hosts}." for _ in range(number)]
            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "SRV", *records))
        elif (zone := _is_in(name, self._addresses)) and question.rdtype in _ADDRESSES and not name.startswith("_"):
            address = next(self._addresses[zone])
            kind = "AAAA" if ":" in address else "A"
            if dns.rdatatype.from_text(kind) == question.rdtype:
                response.answer.append(dns.rrset.from_text(question.name, 0, "IN", kind, address))
        elif secure and question.rdtype == dns.rdatatype.TLSA:
            records = [f"{number % 3} {number % 2} 1 {number:064x}" for number in range(64)]
            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "TLSA", *records))
        elif not name.endswith(".example."):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.SRV and name.startswith(_SRV) and domain in self._srv:
            record = f"0 0 {self._srv[domain]} host.example."
            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "SRV", record))
        elif question.rdtype == dns.rdatatype.A and not name.startswith("_"):
            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", "127.0.0.1"))
        return response

    def _count(self, query: dns.message.Message, zone: str) -> dns.message.Message:
        response = dns.message.make_response(query)
        number = str(self._asked[zone.rstrip(".")])
        response.answer.append(dns.rrset.from_text(query.question[0].name, 0, "IN", "TXT", number))
        return response


def _bomb(query: dns.message.Message) -> bytes:
    """Return an answer with as many SRV records of long names as a datagram has room for: the names are compressed."""
    response = dns.message.make_response(query).to_wire()
    begin = len(response)
    first = b"".join(b"\1" + bytes((97 + at % 26,)) for at in range(110)) + b"\0"
    records = [first + struct.pack("!HHIHHHHH", 33, 1, TTL, 8, 1, 0, 1, 0xC000 | begin)]
    for number in range(1, BOMB_RECORDS):
        to = 0xC000 | (begin + 2 * (number % 5))
        records.append(struct.pack("!HHHIHHHHH", 0xC000 | begin, 33, 1, TTL, 8, number, 0, 1, to))
    return response[:6] + struct.pack("!H", len(records)) + response[8:] + b"".join(records)


def _is_in(name: str, zones: Iterable[str]) -> str:
    """Return the zone that contains a name, or ""."""
    return next((zone for zone in zones if name == f"{zone}." or name.endswith(f".{zone}.")), "")


def _zones(name: str) -> list[str]:
    labels = name.rstrip(".").split(".")
    return [".".join(labels[at:]) for at in range(len(labels))]


def ask_count(port: int, zone: str) -> int:
    """Ask the name server at `port` for the number of questions about names in `zone`."""
    query = dns.message.make_query(f"{zone}.{COUNT}", "TXT")
    response = dns.query.udp(query, "127.0.0.1", port=port, timeout=5)
    return int(response.answer[0][0].strings[0])


def serve(port: int, table: Path) -> None:
    """Serve forever."""
    answers = Answers(json.loads(table.read_text()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        udp.bind(("127.0.0.1", port))
        while True:
            data, asker = udp.recvfrom(4096)
            try:
                response = answers.answer(dns.message.from_wire(data))
            except Exception as problem:  # bytes that are not a question are not answered
                print(f"not answered: {problem}", flush=True)
                continue
            if response is not None:
                udp.sendto(response if isinstance(response, bytes) else response.to_wire(max_size=65535), asker)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
