"""The response of a name server, read as far as a look-up needs it.

Names are compared as bytes, and dnspython reads the records that were asked for, and no others. Its own reader makes objects of
every name and record of a response, which takes ten times the work (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

#: Bits of the second word of the header: a response, the opcode, truncated, secure by DNSSEC (RFC 1035 §4.1.1, RFC 6840 §5.8).
_RESPONSE, _OPCODE, _TRUNCATED, _AUTHENTIC = 0x8000, 0x7800, 0x0200, 0x0020
_NXDOMAIN = int(dns.rcode.NXDOMAIN)
#: Errors of a server that may leave out the question.
_WITHOUT_QUESTION = (dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED)
#: Bytes of a name, and pointers in one (RFC 1035 §3.1, §4.1.4: a server needs one, or two).
_NAME_BYTES, _POINTERS = 255, 16
#: Names of one answer that lead to each other (CNAME).
CHAIN = 16
#: RFC 2181 §8: a TTL with the highest bit counts as 0.
_MAX_TTL = 0x7FFFFFFF
#: Seconds for which the absence of records is kept if there is no SOA record, as in dnspython.
_TTL_WITHOUT_SOA = 300
#: The least bytes of a SOA record: two names, five numbers, of which the last is the TTL of absence (RFC 2308 §4).
_SOA_BYTES = 22

_IN, _OPT = int(RdataClass.IN), int(RdataType.OPT)
_CNAME, _SOA = int(RdataType.CNAME), int(RdataType.SOA)
_header = Struct("!HHHHHH")
_question_rest = Struct("!HH")
_record_rest = Struct("!HHIH")


class _Row(NamedTuple):
    """A record of class IN: its owner's name, type and TTL, and where its data begins and ends."""

    owner: bytes
    rdtype: int
    ttl: int
    begin: int
    end: int


class Chain(NamedTuple):
    """The outcome for one question: the records, for how many seconds they, or their absence, may be kept, and the last name."""

    records: tuple[dns.rdata.Rdata, ...]
    ttl: int
    canonical: dns.name.Name


@dataclass(frozen=True, slots=True)
class Reply:
    """A response to the question for `name` (in wire format, in lower case) and `rdtype`.

    `rcode` has the bits of EDNS. `truncated`: the rest was not read. `authentic`: the server says that DNSSEC secures it.
    """

    wire: bytes
    name: bytes
    rdtype: int
    rcode: int
    truncated: bool
    authentic: bool
    answers: tuple[_Row, ...] = ()
    authorities: tuple[_Row, ...] = ()

    def chain(self, asked: dns.name.Name, at_most: int) -> Chain:
        """Return the first `at_most` records of the name `asked`, behind aliases too.

        Raise `ValueError` if the response contradicts itself.
        """
        name, canonical, ttl = self.name, asked, _MAX_TTL
        for _ in range(CHAIN):
            found = [row for row in self.answers if row.rdtype == self.rdtype and row.owner == name]
            if found:
                if self.rcode == _NXDOMAIN:
                    raise ValueError("the name does not exist, and has records")
                return Chain(self._records(found, at_most), min(ttl, _least_ttl(found)), canonical)
            aliases = [row for row in self.answers if row.rdtype == _CNAME and row.owner == name]
            if not aliases:
                return Chain((), min(ttl, self._negative_ttl(name)), canonical)
            ttl = min(ttl, _least_ttl(aliases))
            name, canonical = self._target(aliases[-1])
        raise ValueError("the chain of aliases is too long")

    def _records(self, rows: Iterable[_Row], at_most: int) -> tuple[dns.rdata.Rdata, ...]:
        """Return the first `at_most` records of these rows, each once."""
        different: dict[bytes, _Row] = {}
        for row in rows:
            different.setdefault(self.wire[row.begin : row.end], row)
        try:
            return tuple([
                dns.rdata.from_wire(RdataClass.IN, RdataType(row.rdtype), self.wire, row.begin, row.end - row.begin)
                for row in islice(different.values(), at_most)
            ])
        except dns.exception.DNSException as error:
            raise ValueError(f"a record cannot be read: {error}") from None

    def _target(self, alias: _Row) -> tuple[bytes, dns.name.Name]:
        name, end = _read_name(self.wire, alias.begin)
        if end != alias.end:
            raise ValueError("an alias has more than a name")
        try:
            return name, dns.name.from_wire(self.wire, alias.begin)[0]
        except dns.exception.DNSException as error:
            raise ValueError(f"an alias cannot be read: {error}") from None

    def _negative_ttl(self, name: bytes) -> int:
        """Return the TTL of absence, by the SOA record of the closest zone around `name` (RFC 2308 §5)."""
        zones = {row.owner: row for row in self.authorities if row.rdtype == _SOA}
        while zones:
            soa = zones.get(name)
            if soa is not None:
                if soa.end - soa.begin < _SOA_BYTES:
                    raise ValueError("a SOA record is too short")
                return min(soa.ttl, int.from_bytes(self.wire[soa.end - 4 : soa.end], "big"))
            if name == b"\0":
                break
            name = name[name[0] + 1 :]
        return _TTL_WITHOUT_SOA


def read_reply(wire: bytes, id: int, name: bytes, rdtype: int) -> Reply | None:
    """Return a response to the query with this id and question (see `Reply`). None: it is no response, or one to another query.

    Raises `ValueError` if it is malformed, as far as it is read.
    """
    try:
        return _read(wire, id, name, rdtype)
    except (IndexError, StructError):
        raise ValueError("the response ends too early") from None


def _read(wire: bytes, id: int, asked: bytes, rdtype: int) -> Reply | None:
    its_id, flags, questions, *numbers = _header.unpack_from(wire)
    if its_id != id or not flags & _RESPONSE or flags & _OPCODE:
        return None
    rcode, at = flags & 15, _header.size
    if questions == 1:
        name, at = _read_name(wire, at)
        if (name, *_question_rest.unpack_from(wire, at)) != (asked, rdtype, _IN):
            return None
        at += _question_rest.size
    elif questions or rcode not in _WITHOUT_QUESTION:
        return None
    authentic = bool(flags & _AUTHENTIC)
    if flags & _TRUNCATED:
        return Reply(wire, asked, rdtype, rcode, True, authentic)
    sections: list[list[_Row]] = []
    has_options = False
    for number in numbers:
        rows: list[_Row] = []
        for _ in range(number):
            owner, at = _read_name(wire, at)
            kind, rdclass, ttl, length = _record_rest.unpack_from(wire, at)
            begin = at + _record_rest.size
            at = begin + length
            if kind == _OPT:
                if len(sections) < 2 or owner != b"\0" or has_options:
                    raise ValueError("an OPT record is not in its place")
                rcode, has_options = rcode | ttl >> 24 << 4, True
            elif rdclass == _IN:
                rows.append(_Row(owner, kind, ttl if ttl <= _MAX_TTL else 0, begin, at))
        sections.append(rows)
    if at != len(wire):
        raise ValueError("the response does not end where its last record does")
    return Reply(wire, asked, rdtype, rcode, False, authentic, tuple(sections[0]), tuple(sections[1]))


def _read_name(wire: bytes, at: int) -> tuple[bytes, int]:
    """Return the name at this place, in lower case and without pointers, and where it ends. A pointer leads back."""
    labels: list[bytes] = []
    size = pointers = end = 0
    least = at
    while True:
        length = wire[at]
        if length < 64:
            label = wire[at : at + length + 1]
            size += length + 1
            if len(label) <= length or size > _NAME_BYTES:
                raise ValueError("a name is too long")
            labels.append(label)
            at += length + 1
            if not length:
                return b"".join(labels).lower(), end or at
        else:
            target = (length & 63) << 8 | wire[at + 1]
            pointers += 1
            if length < 192 or target >= least or pointers > _POINTERS:
                raise ValueError("a name cannot be read")
            end = end or at + 2
            at = least = target


def _least_ttl(rows: Iterable[_Row]) -> int:
    return min(row.ttl for row in rows)
