"""The records of a lane's log: their format, and the lane's totals that each of them has (docs/cluster.md).

There are three kinds. `A` has a run of stanzas, `W` the positions of stanzas that may have been on the wire (R33), and `R` the
positions of stanzas that were removed. `W` and `R` name, of each run that they concern, all such positions: so of two records of
one kind that concern the same run, the later one alone counts.

Every record has the totals of its lane after itself in its headers, so the last record alone is the summary of the lane. It also
has a serial number that is higher than those of all earlier records of its peer: a record that comes twice counts once.

Headers have a checksum of their own, since a summary is read without the data. The stanzas' attributes have a checksum, and each
stanza's bytes. This is pure code. Times are microseconds since the epoch.
"""

from __future__ import annotations

import json
from binascii import crc32
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, NamedTuple

from s2sgw.spool.interface import Damage
from s2sgw.xmpp.stanza import Stanza

#: The version that is written. Older ones are read.
VERSION = 1
#: The most bytes of stanzas, and stanzas, of one run. A single stanza may be larger.
RUN_BYTES = 64 * 1024
RUN_STANZAS = 128
#: The most ranges of positions in one record: at most 60 kB.
RANGES = 2000

_RECORD, _TOTALS, _SUMS = "S2sgw-Record", "S2sgw-Totals", "S2sgw-Sums"
#: Bytes in front of the attributes, which say how long these are.
_LENGTH = 4

RecordKind = Literal["A", "W", "R"]
#: Positions from the first number to the second, that one included.
PositionRange = tuple[int, int]


class RecordError(Exception):
    """A record cannot be used. The text says why."""


class RecordDamaged(RecordError):
    """The record is not what was written."""


class RecordNewer(RecordError):
    """The record was written by a newer version, whose records this one cannot read."""


@dataclass(frozen=True, slots=True)
class LaneTotals:
    """The content of a lane.

    No stanza expires before `deadline`. `oldest`: when the first of them was accepted. `highest`: the highest position that was
    used since the lane was empty.
    """

    serial: int
    count: int = 0
    bytes: int = 0
    first: int = 0
    last: int = 0
    highest: int = 0
    oldest: int = 0
    deadline: int = 0


class LoggedStanza(NamedTuple):
    """A stanza of a run. `written` and `damage` are those of `Spooled`."""

    position: int
    stanza: Stanza
    accepted: int
    deadline: int
    written: bool = False
    damage: Damage = ""


class EncodedRecord(NamedTuple):
    """A record as it is stored."""

    headers: Mapping[str, str]
    data: bytes


class DecodedRecord(NamedTuple):
    """A record of the kind `A` has `stanzas`, one of another kind has `ranges`."""

    kind: RecordKind
    totals: LaneTotals
    stanzas: Sequence[LoggedStanza] = ()
    ranges: Sequence[PositionRange] = ()


def runs(stanzas: Iterable[LoggedStanza]) -> Iterator[list[LoggedStanza]]:
    """Split stanzas into runs, each for one record."""
    run: list[LoggedStanza] = []
    size = 0
    for each in stanzas:
        if run and (len(run) == RUN_STANZAS or size + len(each.stanza.data) > RUN_BYTES):
            yield run
            run, size = [], 0
        run.append(each)
        size += len(each.stanza.data)
    if run:
        yield run


def ranges(positions: Iterable[int]) -> list[PositionRange]:
    """Return ascending positions as ranges."""
    found: list[PositionRange] = []
    for position in positions:
        if found and found[-1][1] + 1 == position:
            found[-1] = found[-1][0], position
        else:
            found.append((position, position))
    return found


def joined(found: Iterable[PositionRange]) -> list[PositionRange]:
    """Return ranges that do not overlap in order. Those without a gap between them become one."""
    whole: list[PositionRange] = []
    for first, last in sorted(found):
        if whole and whole[-1][1] + 1 == first:
            whole[-1] = whole[-1][0], last
        else:
            whole.append((first, last))
    return whole


def encode_run(totals: LaneTotals, stanzas: Sequence[LoggedStanza]) -> EncodedRecord:
    """Return the record of a run. `totals` are the lane's after it."""
    attributes = json.dumps([_attributes(each) for each in stanzas], separators=(",", ":")).encode()
    data = b"".join([len(attributes).to_bytes(_LENGTH, "big"), attributes, *(each.stanza.data for each in stanzas)])
    return EncodedRecord(_headers("A", totals, attributes), data)


def encode_positions(kind: Literal["W", "R"], totals: LaneTotals, positions: Sequence[PositionRange]) -> EncodedRecord:
    """Return the record of positions that were written, or removed. `totals` are the lane's after it."""
    data = json.dumps(positions, separators=(",", ":")).encode()
    return EncodedRecord(_headers(kind, totals, data), data)


def read_totals(headers: Mapping[str, str]) -> LaneTotals:
    """Return the totals in the headers of a record. Raises `RecordError`."""
    return _read_headers(headers)[1]


def decode(headers: Mapping[str, str], data: bytes) -> DecodedRecord:
    """Return the content of a record. A stanza whose bytes were altered has its `damage`. Raises `RecordError`."""
    kind, totals, summed, first_sum = _read_headers(headers)
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "big") if kind == "A" else len(data)
    text = data[_LENGTH:end] if kind == "A" else data
    if crc32(text, first_sum) != summed:
        raise RecordDamaged(f"record {totals.serial} was altered")
    try:
        rows: list[Any] = json.loads(text)
        if kind == "A":
            return DecodedRecord(kind, totals, list(_stanzas(rows, data, end)))
        return DecodedRecord(kind, totals, ranges=[(first, last) for first, last in rows])
    except (ValueError, TypeError) as error:
        raise RecordDamaged(f"record {totals.serial} cannot be read: {error}") from None


def _attributes(each: LoggedStanza) -> tuple[object, ...]:
    stanza = each.stanza
    data = stanza.data
    words = stanza.kind, stanza.to, stanza.from_, stanza.type, stanza.id, stanza.payloads
    return each.position, len(data), crc32(data), *words, each.accepted, each.deadline, each.written


def _stanzas(rows: list[Any], data: bytes, start: int) -> Iterator[LoggedStanza]:
    for position, size, checksum, kind, to, from_, type_, ident, payloads, accepted, deadline, written in rows:
        content = data[start : start + size]
        start += size
        damage: Damage = "" if crc32(content) == checksum else "content"
        stanza = Stanza(kind, content, to, from_, type_, ident, tuple(payloads))
        yield LoggedStanza(position, stanza, accepted, deadline, written, damage)


def _headers(kind: RecordKind, totals: LaneTotals, text: bytes) -> dict[str, str]:
    record, numbers = f"{VERSION} {kind}", " ".join(map(str, astuple(totals)))
    first_sum = crc32(f"{record} {numbers}".encode())
    return {_RECORD: record, _TOTALS: numbers, _SUMS: f"{first_sum:08x} {crc32(text, first_sum):08x}"}


def _read_headers(headers: Mapping[str, str]) -> tuple[RecordKind, LaneTotals, int, int]:
    """Return the kind, the totals, the checksum of the attributes, and that of the headers, with which it begins."""
    record, numbers, sums = (headers.get(name, "") for name in (_RECORD, _TOTALS, _SUMS))
    version, _, kind = record.partition(" ")
    if version.isdecimal() and int(version) > VERSION:
        raise RecordNewer(f"a record has format {version}, and this version of s2sgw reads formats up to {VERSION}")
    try:
        first_sum, summed = (int(word, 16) for word in sums.split(" "))
        totals = LaneTotals(*map(int, numbers.split(" ")))
    except (ValueError, TypeError):
        raise RecordDamaged(f"the headers of a record cannot be read: {record!r} {numbers!r} {sums!r}") from None
    if crc32(f"{record} {numbers}".encode()) != first_sum:
        raise RecordDamaged(f"the headers of a record were altered: {record!r} {numbers!r}")
    match kind:
        case "A" | "W" | "R":
            return kind, totals, summed, first_sum
        case _:
            raise RecordDamaged(f"a record has the unknown kind {kind!r}")
