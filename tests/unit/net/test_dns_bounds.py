"""Tests of the bounds of DNS answers."""

from __future__ import annotations

from struct import pack

import dns.message
import dns.rrset
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_bounds import LABELS, OTHERS, RECORDS, WITH_NAMES, AnswerTooLarge, check_answer

_QUERY = dns.message.make_query("_xmpp-server._tcp.a.test", "SRV")
_QUESTION = dns.message.make_response(_QUERY).to_wire()[12:]
#: The position of the question's name, as a compressed name.
_OWNER = b"\xc0\x0c"


def _answer(*records: bytes, number: int | None = None) -> bytes:
    count = len(records) if number is None else number
    return pack("!HHHHHH", 1, 0x8180, 1, count, 0, 0) + _QUESTION + b"".join(records)


def _record(kind: int, data: bytes, of_class: int = 1, owner: bytes = _OWNER) -> bytes:
    return owner + pack("!HHIH", kind, of_class, 60, len(data)) + data


def _name(labels: int) -> bytes:
    """Return a name with this many labels, with the empty last one."""
    return b"\1a" * (labels - 1) + b"\0"


def _srv(name: bytes) -> bytes:
    return _record(33, pack("!HHH", 1, 0, 5269) + name)


class BoundsTests(SynchronousTestCase):
    """Tests of answers at the bounds and beyond them."""

    def accept(self, wire: bytes) -> None:
        check_answer(wire)
        dns.message.from_wire(wire)

    def refuse(self, wire: bytes, why: str) -> None:
        with self.assertRaisesRegex(AnswerTooLarge, why):
            check_answer(wire)

    def test_usual(self) -> None:
        """A usual answer passes: an alias, targets with their addresses, a TLSA record, the server's own records."""
        response = dns.message.make_response(_QUERY)
        for section, *record in (
            (response.answer, "_xmpp-server._tcp.a.test.", "CNAME", "other.test."),
            (response.answer, "other.test.", "SRV", "1 2 5269 host.test.", "2 2 5269 host2.test."),
            (response.authority, "test.", "SOA", "ns.test. hostmaster.test. 1 2 3 4 5"),
            (response.additional, "host.test.", "A", "192.0.2.1"),
            (response.additional, "_5269._tcp.host.test.", "TLSA", "3 1 1 " + "00" * 32),
        ):
            name, kind, *texts = record
            section.append(dns.rrset.from_text(name, 60, "IN", kind, *texts))
        response.use_edns(0)
        self.accept(response.to_wire())

    def test_records(self) -> None:
        """The number of records is bounded, and that of those with names in their data: each takes long to parse."""
        address, srv = _record(1, b"\1\2\3\4"), _srv(_OWNER)
        self.accept(_answer(*[address] * (RECORDS - 1)))
        self.refuse(_answer(*[address] * RECORDS), "records")
        self.accept(_answer(*[srv] * WITH_NAMES))
        self.refuse(_answer(*[srv] * (WITH_NAMES + 1)), "records with names")

    def test_labels(self) -> None:
        """The labels of each name are bounded: of the owner, in the data, and behind a pointer."""
        self.accept(_answer(_srv(_name(LABELS))))
        self.refuse(_answer(_srv(_name(LABELS + 1))), "labels")
        self.refuse(_answer(_record(1, b"\1\2\3\4", owner=_name(LABELS + 1))), "labels")
        first = _srv(_name(LABELS))
        behind = pack("!H", 0xC000 | (len(_answer(first)) - len(_name(LABELS))))
        self.refuse(_answer(first, _srv(b"\1b" + behind)), "labels")
        for kind, before in ((5, 0), (2, 0), (12, 0), (39, 0), (15, 2), (46, 18), (47, 0)):
            self.refuse(_answer(_record(kind, bytes(before) + _name(LABELS + 1))), "labels")
        self.refuse(_answer(_record(6, _name(2) + _name(LABELS + 1) + bytes(20))), "labels")

    def test_size(self) -> None:
        """The size is bounded."""
        text = _record(16, (b"\xff" + b"x" * 255) * 10)
        self.accept(_answer(*[text] * 6))
        self.refuse(_answer(*[text] * 7), "bytes")

    def test_unusual(self) -> None:
        """Few records of other types pass, which may have names that are not read here. Those of other classes do not."""
        odd = _record(65280, b"x")
        self.accept(_answer(*[odd] * OTHERS))
        self.refuse(_answer(*[odd] * (OTHERS + 1)), "unusual")
        self.refuse(_answer(_record(33, b"x", of_class=3)), "Internet")

    def test_malformed(self) -> None:
        """dnspython refuses what is malformed: it is not parsed beyond the fault."""
        for wire in (b"", b"x" * 11, _answer(number=3), _answer(_record(33, b"x")), _answer(_record(1, b"x"))[:-3]):
            check_answer(wire)
