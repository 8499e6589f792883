"""Records of a lane's log: what is written is read again, and what was altered says so."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import records
from s2sgw.cluster.records import (
    LaneTotals,
    LoggedStanza,
    RecordDamaged,
    RecordNewer,
    decode,
    encode_positions,
    encode_run,
    joined,
    ranges,
    read_totals,
    runs,
)
from s2sgw.xmpp.stanza import Stanza

NUMBERS = st.integers(0, 1 << 53)
TOTALS = st.builds(LaneTotals, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(), st.integers())
WORDS = st.none() | st.text(max_size=20)
STANZAS = st.builds(
    Stanza, st.sampled_from(["message", "presence", "iq"]), st.binary(max_size=80), st.text(max_size=20), st.text(max_size=20), WORDS, WORDS,
    st.lists(st.text(max_size=8), max_size=3).map(tuple),
)  # fmt: skip
LOGGED = st.builds(LoggedStanza, NUMBERS, STANZAS, st.integers(-(1 << 60), 1 << 60), NUMBERS, st.booleans(), st.just(""))


def told(each: LoggedStanza) -> tuple[object, ...]:
    stanza = each.stanza
    words = stanza.kind, stanza.data, stanza.to, stanza.from_, stanza.type, stanza.id, stanza.payloads
    return each.position, words, each.accepted, each.deadline, each.written, each.damage


def stanza(position: int, size: int = 10) -> LoggedStanza:
    return LoggedStanza(position, Stanza("message", b"." * size, "b.example", "a.example"), 1, 2)


class FormatTests(SynchronousTestCase):
    """Written records are read again."""

    @given(TOTALS, st.lists(LOGGED, min_size=1, max_size=6))
    def test_run(self, totals: LaneTotals, stanzas: list[LoggedStanza]) -> None:
        """A run, with every attribute of every stanza. Its headers alone have the totals, in one line of ASCII."""
        headers, data = encode_run(totals, stanzas)
        found = decode(headers, data)
        self.assertEqual((found.kind, found.totals, read_totals(headers)), ("A", totals, totals))
        self.assertEqual(list(map(told, found.stanzas)), list(map(told, stanzas)))
        for value in headers.values():
            self.assertTrue(value.isascii() and value.isprintable() and value == value.strip())

    @given(TOTALS, st.sampled_from(["W", "R"]), st.lists(st.tuples(NUMBERS, NUMBERS)))
    def test_positions(self, totals: LaneTotals, kind: str, positions: list[tuple[int, int]]) -> None:
        """Positions of either kind."""
        found = decode(*encode_positions(kind, totals, positions))  # type: ignore[arg-type]
        self.assertEqual((found.kind, found.totals, found.ranges), (kind, totals, positions))

    @given(st.lists(st.integers(0, 40), max_size=30))
    def test_runs(self, sizes: list[int]) -> None:
        """Runs have all stanzas in order, and are as long as the bounds allow; only a single stanza is beyond."""
        self.patch(records, "RUN_BYTES", 30)
        self.patch(records, "RUN_STANZAS", 4)
        stanzas = [stanza(position, size) for position, size in enumerate(sizes)]
        found = list(runs(stanzas))
        self.assertEqual([each for run in found for each in run], stanzas)
        lengths = [sum(len(each.stanza.data) for each in run) for run in found]
        for run, length in zip(found, lengths, strict=True):
            self.assertTrue(len(run) == 1 or (len(run) <= 4 and length <= 30))
        for (run, length), (after, _) in pairwise(zip(found, lengths, strict=True)):
            self.assertTrue(len(run) == 4 or length + len(after[0].stanza.data) > 30)

    @given(st.sets(st.integers(0, 60)))
    def test_ranges(self, positions: set[int]) -> None:
        """Ranges name the same positions, and there is a gap between each two."""
        found = ranges(sorted(positions))
        self.assertEqual({position for first, last in found for position in range(first, last + 1)}, positions)
        self.assertTrue(all(one[1] + 1 < other[0] for one, other in pairwise(found)))
        self.assertEqual(joined([(position, position) for position in positions]), found)


class DamageTests(SynchronousTestCase):
    """An altered record is noticed."""

    totals = LaneTotals(5, 2, 20, 1, 2, 2, 1, 2)

    @given(st.data())
    def test_any_byte(self, data: st.DataObject) -> None:
        """A changed byte or a record that was cut is noticed: by the whole record, or by the stanza whose content it is."""
        headers, content = encode_run(self.totals, [stanza(1), stanza(2)])
        place = data.draw(st.integers(0, len(content) - 1))
        flipped = content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
        for altered in (flipped, content[:place]):
            try:
                found = decode(headers, altered)
            except RecordDamaged:
                continue
            self.assertIn("content", [each.damage for each in found.stanzas])
            self.assertEqual([each.position for each in found.stanzas], [1, 2])

    def test_one_stanza(self) -> None:
        """A stanza whose bytes were altered says so, and the other one is whole."""
        headers, content = encode_run(self.totals, [stanza(1), stanza(2)])
        self.assertEqual([each.damage for each in decode(headers, content[:-1] + b"!").stanzas], ["", "content"])

    def test_headers(self) -> None:
        """Headers that were altered, belong to another record, or are missing are not believed."""
        headers, content = encode_positions("R", self.totals, [(1, 2)])
        others, _ = encode_positions("R", LaneTotals(6), [(1, 2)])
        names = list(headers)
        for wrong in (
            {}, {**headers, names[1]: "5 2 20 1 2 2 1 3"}, {**headers, names[0]: "1 A"}, {**headers, names[0]: "1 W"}, {**headers, names[2]: "0 0"},
            {**headers, names[2]: others[names[2]]}, {**headers, names[1]: "a b"}, {**headers, names[1]: "1 2 3 4 5 6 7 8 9"},
        ):  # fmt: skip
            self.assertRaises(RecordDamaged, read_totals, wrong)
            self.assertRaises(RecordDamaged, decode, wrong, content)
        self.assertRaises(RecordDamaged, decode, others, b"[[1,3]]")
        self.assertRaises(RecordDamaged, decode, others, encode_run(self.totals, [stanza(1)]).data)

    def test_no_positions(self) -> None:
        """A record whose checksum is right and whose content is not is damaged too."""
        for wrong in ([1, 2], [(1, 2, 3)]):
            self.assertRaises(RecordDamaged, decode, *encode_positions("R", self.totals, wrong))  # type: ignore[arg-type]

    def test_newer(self) -> None:
        """A record of a newer version is refused in words, whatever else its headers say. An unknown kind is damage."""
        self.patch(records, "VERSION", 2)
        newer = encode_positions("R", self.totals, [])
        self.patch(records, "VERSION", 1)
        for headers in (newer.headers, {**newer.headers, "S2sgw-Totals": "?"}):
            error = self.assertRaises(RecordNewer, read_totals, headers)
            self.assertIn("format 2", str(error))
        self.assertRaises(RecordNewer, decode, *newer)
        self.assertRaises(RecordDamaged, decode, *encode_positions("X", self.totals, []))  # type: ignore[arg-type]
