"""The bounds of a DNS answer, which are checked before dnspython parses it.

The name servers of a stranger's domain choose the answer. dnspython takes 0.1 ms for a record, and 3 ms for one with a name of a
hundred labels, so an answer over TCP could take ten seconds. The names are read here as dnspython reads them.
"""

from __future__ import annotations

from struct import unpack

from dns.exception import FormError
from dns.name import from_wire_parser
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from dns.wire import Parser

#: Bytes of an answer, its records and questions, and those with names in their data.
BYTES = 16384
RECORDS = 256
WITH_NAMES = 100
#: The squares of the numbers of labels of all names, added: dnspython compares the labels of a name with each other. So the
#: names of an answer take at most 40 ms, and the name of an IPv6 address, with 34 labels, may be asked for.
LABEL_SQUARES = 30_000
#: Compression pointers of all names. dnspython follows a chain of any length before 2.9.
POINTERS = 2048
#: Character-strings of all TXT records: dnspython takes 5 µs for each, an empty one too.
STRINGS = 1024
#: Records of types that are not expected in an answer and may have names, and the bytes of each of them, and of the options of
#: EDNS. (A record of service parameters, or a list of addresses, has thousands of parts in 16 kB.)
OTHERS, OTHER_BYTES = 4, 1024

_HEADER_BYTES = 12
#: Types of records whose data has no name; of those that have names: where the first one begins, and how many there are.
_WITHOUT_NAMES = frozenset((
    RdataType.A, RdataType.AAAA, RdataType.TLSA, RdataType.TXT, RdataType.DS, RdataType.DNSKEY, RdataType.NSEC3, RdataType.CAA,
    RdataType.CDNSKEY, RdataType.CDS, RdataType.SSHFP,
))
_NAMES = {
    RdataType.CNAME: (0, 1), RdataType.DNAME: (0, 1), RdataType.NS: (0, 1), RdataType.PTR: (0, 1), RdataType.MX: (2, 1),
    RdataType.NSEC: (0, 1), RdataType.RRSIG: (18, 1), RdataType.SOA: (0, 2), RdataType.SRV: (6, 1),
}
#: The one type whose data has any number of names. No look-up asks for it.
_LIST_OF_NAMES = RdataType.HIP


class AnswerTooLarge(Exception):
    """An answer takes too long to parse."""


def check_answer(wire: bytes) -> None:
    """Raise `AnswerTooLarge` if the answer is beyond the bounds. dnspython refuses one that is malformed."""
    if len(wire) > BYTES:
        raise AnswerTooLarge(f"the answer has more than {BYTES} bytes")
    if len(wire) < _HEADER_BYTES:
        return
    questions, *others = unpack("!4H", wire[4:_HEADER_BYTES])
    if questions + sum(others) > RECORDS:
        raise AnswerTooLarge(f"the answer has more than {RECORDS} records")
    try:
        _Names(wire).check(questions, sum(others))
    except FormError:
        return


class _CountingParser(Parser):
    """Bounds the pointers that are followed."""

    pointers = 0

    def seek(self, where: int) -> None:
        self.pointers += 1
        if self.pointers > POINTERS:
            raise AnswerTooLarge(f"the answer has more than {POINTERS} compression pointers")
        super().seek(where)


class _Names:
    """The names of one answer."""

    def __init__(self, wire: bytes) -> None:
        self._parser = _CountingParser(wire, _HEADER_BYTES)
        self._with_names = self._others = self._strings = self._squares = 0

    def check(self, questions: int, records: int) -> None:
        for _ in range(questions):
            self._name()
            self._parser.get_bytes(4)
        for _ in range(records):
            self._name()
            self._record()

    def _record(self) -> None:
        kind, of_class, _, length = self._parser.get_struct("!HHIH")
        end = self._parser.current + length
        if kind == RdataType.OPT:
            self._bound_other(length)
        elif of_class != RdataClass.IN:
            raise AnswerTooLarge("the answer has records that are not of the Internet")
        else:
            self._data(kind, length)
        self._parser.seek(end)

    def _data(self, kind: int, length: int) -> None:
        if kind == _LIST_OF_NAMES:
            raise AnswerTooLarge("the answer has a list of names")
        begin, number = _NAMES.get(kind, (0, 0))  # type: ignore[call-overload]
        if number:
            self._with_names += 1
            if self._with_names > WITH_NAMES:
                raise AnswerTooLarge(f"the answer has more than {WITH_NAMES} records with names")
            self._parser.get_bytes(begin)
            for _ in range(number):
                self._name()
        elif kind == RdataType.TXT:
            self._text(self._parser.current + length)
        elif kind not in _WITHOUT_NAMES:
            self._others += 1
            self._bound_other(length)
            if self._others > OTHERS:
                raise AnswerTooLarge("the answer has too many records of unusual types")

    def _bound_other(self, length: int) -> None:
        if length > OTHER_BYTES:
            raise AnswerTooLarge(f"the answer has a record of an unusual type with more than {OTHER_BYTES} bytes")

    def _text(self, end: int) -> None:
        while self._parser.current < end:
            self._parser.get_bytes(self._parser.get_uint8())
            self._strings += 1
            if self._strings > STRINGS:
                raise AnswerTooLarge(f"the answer has more than {STRINGS} strings")

    def _name(self) -> None:
        self._squares += len(from_wire_parser(self._parser).labels) ** 2
        if self._squares > LABEL_SQUARES:
            raise AnswerTooLarge("the answer has too many long names")
