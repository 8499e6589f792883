"""Tests of the bounds of DNS answers."""

from __future__ import annotations

from math import isqrt
from struct import pack

import dns.edns
import dns.exception
import dns.message
import dns.reversename
import dns.rrset
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_bounds import (
    LABEL_SQUARES,
    OTHER_BYTES,
    OTHERS,
    POINTERS,
    RECORDS,
    STRINGS,
    WITH_NAMES,
    AnswerTooLarge,
    check_answer,
)

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
        """The squares of the labels of all names are bounded: of owners, in the data, and behind a pointer."""
        long = isqrt(LABEL_SQUARES // 4) + 1
        for kind, before in ((33, 6), (5, 0), (2, 0), (12, 0), (39, 0), (15, 2), (46, 18), (47, 0)):
            record = _record(kind, bytes(before) + _name(long))
            check_answer(_answer(*[record] * 3))
            self.refuse(_answer(*[record] * 4), "long names")
        soa = _record(6, _name(long) + _name(long) + bytes(20))
        check_answer(_answer(soa))
        self.refuse(_answer(soa, soa), "long names")
        address = _record(1, b"\1\2\3\4", owner=_name(long))
        self.accept(_answer(*[address] * 3))
        self.refuse(_answer(*[address] * 4), "long names")
        first = _srv(_name(long))
        pointer = pack("!H", 0xC000 | (len(_answer(first)) - len(_name(long))))
        self.refuse(_answer(first, *[_srv(pointer)] * 3), "long names")
        self.accept(_answer(_srv(_name(128))))

    def test_name_of_an_address(self) -> None:
        """The reverse name of an IPv6 address has 34 labels. It may be asked for."""
        query = dns.message.make_query(dns.reversename.from_address("2001:db8::1"), "PTR")
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "PTR", "host.test."))
        self.accept(query.to_wire())
        self.accept(response.to_wire())

    def test_denial(self) -> None:
        """A name that does not exist, below two aliases, is denied with several NSEC3 records. They have no names in their data."""
        denial = _record(50, bytes.fromhex("0101000a04aabbccdd14") + bytes(20) + bytes.fromhex("0006400000000002"))
        self.accept(_answer(*[denial] * (OTHERS + 3)))

    def test_size(self) -> None:
        """The size is bounded."""
        text = _record(16, (b"\xff" + b"x" * 255) * 10)
        self.accept(_answer(*[text] * 6))
        self.refuse(_answer(*[text] * 7), "bytes")

    def test_strings(self) -> None:
        """The number of character-strings is bounded, in one record and in many. An empty one counts."""
        self.accept(_answer(_record(16, bytes(STRINGS))))
        self.refuse(_answer(_record(16, bytes(STRINGS + 1))), "strings")
        text = _record(16, b"\1x" * (STRINGS // 8))
        self.accept(_answer(*[text] * 8))
        self.refuse(_answer(*[text] * 8, _record(16, b"\0")), "strings")

    def test_malformed_strings(self) -> None:
        """A string that is longer than its record is left to dnspython, which refuses it."""
        wire = _answer(_record(16, b"\xff"))
        check_answer(wire)
        with self.assertRaises(dns.exception.DNSException):
            dns.message.from_wire(wire)

    def test_options(self) -> None:
        """The options of EDNS are bounded, and so is a record of an unusual type. Both may have thousands of parts."""
        response = dns.message.make_response(_QUERY)
        option = dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"x" * 60)
        response.use_edns(0, options=[option] * (OTHER_BYTES // 64))
        self.accept(response.to_wire())
        response.use_edns(0, options=[option] * (OTHER_BYTES // 64 + 1))
        self.refuse(response.to_wire(), "unusual type")
        addresses = pack("!HBB", 1, 0, 0)
        self.accept(_answer(_record(42, addresses * (OTHER_BYTES // 4))))
        self.refuse(_answer(_record(42, addresses * (OTHER_BYTES // 4 + 1))), "unusual type")

    def test_unusual(self) -> None:
        """Few records of other types pass, which may have names that are not read here. Those of other classes do not."""
        odd = _record(65280, b"x")
        self.accept(_answer(*[odd] * OTHERS))
        self.refuse(_answer(*[odd] * (OTHERS + 1)), "unusual")
        self.refuse(_answer(_record(33, b"x", of_class=3)), "Internet")

    def test_usual_sets(self) -> None:
        """Ten host keys, or ten certificate authorities, are usual."""
        for kind, text in (("SSHFP", "1 1 " + "00" * 19 + "{:02}"), ("CAA", '0 issue "ca{}.test"')):
            response = dns.message.make_response(_QUERY)
            texts = [text.format(number) for number in range(10)]
            response.answer.append(dns.rrset.from_text("a.test.", 60, "IN", kind, *texts))
            self.accept(response.to_wire())

    def test_pointers(self) -> None:
        """The compression pointers of all names are bounded: all names can end in one long chain."""
        before = len(_answer(_record(48, b"\1\0\3\5")))
        chain = b"".join(pack("!H", 0xC000 | (before + 2 * at - 2 if at else 12)) for at in range(12))
        key = _record(48, b"\1\0\3\5" + chain)
        address = _record(1, b"\1\2\3\4", owner=pack("!H", 0xC000 | (before + 2 * 11)))
        check_answer(_answer(key, *[address] * 100))
        self.refuse(_answer(key, *[address] * (POINTERS // 12)), "pointers")

    def test_list_of_names(self) -> None:
        """A record with any number of names is refused: one of 16 kB takes 0.2 s."""
        self.refuse(_answer(_record(55, b"\1\1\0\1hk" + _name(100))), "list of names")

    def test_malformed(self) -> None:
        """dnspython refuses what is malformed: it is not parsed beyond the fault."""
        for wire in (b"", b"x" * 11, _answer(number=3), _answer(_record(33, b"x")), _answer(_record(1, b"x"))[:-3]):
            check_answer(wire)
