"""An SQLite file read page by page, without SQLite, so that one unreadable page does not make others unreadable.

The format is that of https://www.sqlite.org/fileformat2.html. Section numbers below are of that document. The write-ahead log
beside the file is applied, as SQLite would.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

#: A value of a row: NULL, an integer, a real, a text or a blob. Bytes of a text that is not UTF-8 are surrogates (PEP 383).
Value = int | float | str | bytes | None

#: The page size used if the first page cannot be read: SQLite's default, which our files have.
PAGE_SIZE = 4096
_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_WAL_HEADER, _FRAME_HEADER = struct.Struct(">8I"), struct.Struct(">6I")
_LEAF_TABLE, _INTERIOR_TABLE, _LEAF_INDEX, _INTERIOR_INDEX = 0x0D, 0x05, 0x0A, 0x02
#: Pages of one overflow chain: a gigabyte.
_CHAIN = 1 << 18


class PageUnreadable(Exception):
    """The page cannot be read from the disk, or has invalid content."""


class TableRow(NamedTuple):
    """A row of a table: its rowid and its values. An INTEGER PRIMARY KEY has NULL in `values`: the rowid is its value."""

    rowid: int
    values: list[Value]


# --- the write-ahead log (§4) ---


@dataclass(frozen=True, slots=True)
class WriteAheadLog:
    """The content of a write-ahead log. Pages are given with the offset of their newest content in the log."""

    page_size: int
    #: the pages of the commits that SQLite would recover
    committed: dict[int, int] = field(default_factory=dict)
    #: the number of pages of the database after the last of these commits; 0: there is none
    pages: int = 0
    #: the pages of the commit with a damaged frame and of later ones. SQLite would silently drop these commits
    behind: dict[int, int] = field(default_factory=dict)
    #: the number of these commits
    commits_behind: int = 0


def read_log(path: Path) -> WriteAheadLog | None:
    """Read the log at `path`. Return None if there is none. Raises `OSError`.

    SQLite ignores a log whose first bytes are damaged. All of its commits are then `behind`.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        header = _pread(file.fileno(), _WAL_HEADER.size, 0)
        if header is None:
            return None
        magic, _, page_size, _, salt1, salt2, sum1, sum2 = _WAL_HEADER.unpack(header)
        order = _WAL_MAGIC.get(magic)
        if order is not None and _checksum(order, (0, 0), header[:24]) == (sum1, sum2):
            return _Frames(page_size, order, (salt1, salt2), (sum1, sum2)).read(file.fileno())
        first = _pread(file.fileno(), _FRAME_HEADER.size, _WAL_HEADER.size)
        if first is None:
            return None
        _, _, salt1, salt2, _, _ = _FRAME_HEADER.unpack(first)
        return _Frames(PAGE_SIZE, "<" if sys.byteorder == "little" else ">", (salt1, salt2), None).read(file.fileno())


class _Frames:
    """Reads the frames of a log."""

    def __init__(self, page_size: int, order: str, salts: tuple[int, int], sums: tuple[int, int] | None) -> None:
        """Begin. `sums`: the checksum before the first frame; None: the header of the log is damaged."""
        self._page_size = page_size
        self._order = order
        self._salts = salts
        self._sums = sums

    def read(self, descriptor: int) -> WriteAheadLog:
        """Read up to the first damaged frame, then beyond it. Each frame is checked by the checksum of the one before."""
        log = WriteAheadLog(self._page_size)
        offset, pages, commits, sound = _WAL_HEADER.size, 0, 0, self._sums is not None
        target: dict[int, int] = {}
        current: dict[int, int] = {}
        while (frame := _pread(descriptor, _FRAME_HEADER.size + self._page_size, offset)) is not None:
            number, size_after, salt1, salt2, sum1, sum2 = _FRAME_HEADER.unpack_from(frame)
            if (salt1, salt2) != self._salts:
                break
            good = number > 0 and self._sums is not None and self._next_sums(self._sums, frame) == (sum1, sum2)
            self._sums = sum1, sum2
            if good:
                current[number] = offset + _FRAME_HEADER.size
            else:
                sound = False
            if good and size_after:
                target = log.committed if sound else log.behind
                target.update(current)
                current = {}
                pages, commits = (size_after, commits) if sound else (pages, commits + 1)
            offset += _FRAME_HEADER.size + self._page_size
        return WriteAheadLog(self._page_size, log.committed, pages, log.behind, commits)

    def _next_sums(self, sums: tuple[int, int], frame: bytes) -> tuple[int, int]:
        return _checksum(self._order, _checksum(self._order, sums, frame[:8]), frame[_FRAME_HEADER.size :])


def _checksum(order: str, sums: tuple[int, int], data: bytes) -> tuple[int, int]:
    """Return the checksum of the log over `data` (§4.2)."""
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def _pread(descriptor: int, size: int, offset: int) -> bytes | None:
    """Read exactly `size` bytes. Return None at the end of the file, and zeros for bytes that the disk cannot read."""
    try:
        data = os.pread(descriptor, size, offset)
    except OSError:
        data = bytes(size)
    return data if len(data) == size else None


# --- pages and cells (§1.6) ---


class DatabasePages:
    """The pages of the database at `path`, with its log applied. Raises `OSError` if the file cannot be opened.

    With `behind`, the commits of the log that SQLite would drop are applied too.
    """

    def __init__(self, path: Path, behind: bool = False) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        log_path = path.with_name(path.name + "-wal")
        self.log = read_log(log_path)
        self._log_file = os.open(log_path, os.O_RDONLY | os.O_CLOEXEC) if self.log is not None else -1
        self._in_log = dict(self.log.committed) if self.log is not None else {}
        if behind and self.log is not None:
            self._in_log |= self.log.behind
        #: pages that could not be read
        self.unreadable: set[int] = set()
        self._page_size = self.log.page_size if self.log is not None else PAGE_SIZE
        self._usable = self._page_size
        self._pages = 0
        self._measure()

    def _measure(self) -> None:
        """Find the size of pages from the first one, if it can be read, and their number from the size of the file."""
        try:
            head = self.page(1)
            if head.startswith(_MAGIC):
                size = int.from_bytes(head[16:18], "big")
                self._page_size = 65536 if size == 1 else size
                self._usable = self._page_size - head[20]
        except PageUnreadable:
            pass
        size = os.fstat(self._file).st_size
        self._pages = max(size // self._page_size, *self._in_log, 0) if self._in_log else size // self._page_size

    def __len__(self) -> int:
        return self._pages

    def close(self) -> None:
        """Close the files."""
        os.close(self._file)
        if self._log_file >= 0:
            os.close(self._log_file)

    def page(self, number: int) -> bytes:
        """Return the newest content of a page. Raises `PageUnreadable`."""
        offset = self._in_log.get(number)
        where = (self._file, (number - 1) * self._page_size) if offset is None else (self._log_file, offset)
        try:
            data = os.pread(where[0], self._page_size, where[1])
        except OSError as error:
            self.unreadable.add(number)
            raise PageUnreadable(f"page {number}: {error}") from None
        if len(data) < self._page_size:
            raise PageUnreadable(f"page {number} is behind the end of the file")
        return data

    def unreadable_pages(self) -> set[int]:
        """Try to read every page. Return those that cannot be read."""
        for number in range(1, len(self) + 1):
            try:
                self.page(number)
            except PageUnreadable:
                continue
        return self.unreadable

    # --- trees ---

    def roots(self) -> dict[str, int]:
        """Return the first page of each table and index by its name; none if page 1, or a page below it, is damaged."""
        roots = {}
        for row in self._rows_of(self.leaves(1)[0]):
            if len(row.values) >= 4 and isinstance(row.values[1], str) and isinstance(row.values[3], int):
                roots[row.values[1]] = row.values[3]
        return roots

    def tree(self, root: int) -> dict[int, list[int]]:
        """Return the readable pages of the tree at page `root`, each with the pages below it; a leaf has none."""
        leaves, inner, _ = self._walk(root)
        return {number: list[int]() for number in leaves} | {number: self._children(number) or [] for number in inner}

    def leaves(self, root: int) -> tuple[list[int], bool]:
        """Return the leaves of the tree at page `root`, in order, and whether all of its pages are sound."""
        found, _, whole = self._walk(root)
        return found, whole

    def entries(self, root: int) -> tuple[list[list[Value]], bool]:
        """Return the readable entries of the index at page `root`, and whether all of its pages are sound."""
        leaves, inner, whole = self._walk(root)
        return [row.values for row in self._rows_of([*leaves, *inner])], whole

    def _rows_of(self, numbers: list[int]) -> Iterator[TableRow]:
        """Return the readable rows of these pages."""
        for number in numbers:
            try:
                yield from (row for row in self.rows(number) if row is not None)
            except PageUnreadable:
                continue

    def _walk(self, root: int) -> tuple[list[int], list[int], bool]:
        """Return the leaves of a tree in order, its other pages, and whether all of its pages are sound."""
        found: list[int] = []
        inner: list[int] = []
        seen: set[int] = set()
        whole = True
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number in seen or not 0 < number <= len(self):
                whole = False
                continue
            seen.add(number)
            try:
                children = self._children(number)
            except PageUnreadable:
                whole = False
                continue
            if children is None:
                found.append(number)
            else:
                inner.append(number)
                waiting += reversed(children)
        return found, inner, whole

    def _children(self, number: int) -> list[int] | None:
        """Return the pages below an interior page; None: it is a leaf. Raises `PageUnreadable`."""
        page = self.page(number)
        at = 100 if number == 1 else 0
        kind = page[at]
        if kind in (_LEAF_TABLE, _LEAF_INDEX):
            return None
        if kind not in (_INTERIOR_TABLE, _INTERIOR_INDEX):
            raise PageUnreadable(f"page {number} is no page of a tree")
        cells = int.from_bytes(page[at + 3 : at + 5], "big")
        pointers = [int.from_bytes(page[at + 12 + 2 * cell : at + 14 + 2 * cell], "big") for cell in range(cells)]
        if any(pointer + 4 > self._page_size for pointer in pointers):
            raise PageUnreadable(f"page {number} is damaged")
        children = [int.from_bytes(page[pointer : pointer + 4], "big") for pointer in pointers]
        return [*children, int.from_bytes(page[at + 8 : at + 12], "big")]

    def free_pages(self) -> tuple[set[int], bool]:
        """Return the unused pages (§1.5), and whether the list of them is complete."""
        free: set[int] = set()
        try:
            head = self.page(1)
            if not head.startswith(_MAGIC):
                return free, False
            trunk = int.from_bytes(head[32:36], "big")
            while trunk and trunk not in free:
                page = self.page(trunk)
                number = int.from_bytes(page[4:8], "big")
                if number > self._usable // 4 - 2:
                    return free, False
                free.add(trunk)
                free.update(struct.unpack(f">{number}I", page[8 : 8 + 4 * number]))
                trunk = int.from_bytes(page[:4], "big")
        except PageUnreadable:
            return free, False
        return free, not trunk

    def is_table_leaf(self, number: int) -> bool:
        """Return whether a page is a readable leaf of a table."""
        try:
            return self.page(number)[100 if number == 1 else 0] == _LEAF_TABLE
        except PageUnreadable:
            return False

    # --- rows ---

    def rows(self, number: int) -> Iterator[TableRow | None]:
        """Return the rows of a page; None: it is damaged. Raises `PageUnreadable`.

        The row of an index has rowid 0. It may also be on an interior page.
        """
        page = self.page(number)
        at = 100 if number == 1 else 0
        kind = page[at]
        if kind not in (_LEAF_TABLE, _LEAF_INDEX, _INTERIOR_INDEX):
            raise PageUnreadable(f"page {number} holds no rows")
        cells = int.from_bytes(page[at + 3 : at + 5], "big")
        before = (12, 4) if kind == _INTERIOR_INDEX else (8, 0)
        for cell in range(min(cells, self._page_size // 4)):
            place = at + before[0] + 2 * cell
            pointer = int.from_bytes(page[place : place + 2], "big")
            try:
                yield self._row(page, pointer + before[1], kind == _LEAF_TABLE)
            except (PageUnreadable, IndexError, ValueError, struct.error, OverflowError):
                yield None

    def _row(self, page: bytes, at: int, table: bool) -> TableRow:
        size, at = _varint(page, at)
        rowid = 0
        if table:
            rowid, at = _varint(page, at)
            rowid -= (1 << 64) if rowid >> 63 else 0
        longest = self._usable - 35 if table else (self._usable - 12) * 64 // 255 - 23
        if size > len(self) * self._page_size:
            raise ValueError("a row that is larger than the file")
        if size <= longest:
            payload = page[at : at + size]
        else:
            least = (self._usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (self._usable - 4)
            local = local if local <= longest else least
            chain = int.from_bytes(page[at + local : at + local + 4], "big")
            payload = page[at : at + local] + self._overflow(chain, size - local)
        if len(payload) != size:
            raise ValueError("a row that is cut off")
        return TableRow(rowid, record(payload))

    def _overflow(self, number: int, left: int) -> bytes:
        """Return the part of a row in its chain of overflow pages (§1.6)."""
        parts = []
        for _ in range(_CHAIN):
            if left <= 0 or not number:
                break
            page = self.page(number)
            number = int.from_bytes(page[:4], "big")
            parts.append(page[4 : min(self._usable, 4 + left)])
            left -= len(parts[-1])
        return b"".join(parts)


# --- records (§2.1) ---

_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)


def record(payload: bytes) -> list[Value]:
    """Return the values of a record. Raises `ValueError` or `IndexError` for an invalid one."""
    header, at = _varint(payload, 0)
    types = []
    while at < header:
        type_, at = _varint(payload, at)
        types.append(type_)
    values: list[Value] = []
    at = header
    for type_ in types:
        value, size = _value(payload, at, type_)
        values.append(value)
        at += size
    if at != len(payload):
        raise ValueError("a record of another size")
    return values


def _value(payload: bytes, at: int, type_: int) -> tuple[Value, int]:
    if type_ == 0:
        return None, 0
    if type_ <= 6:
        size = _INTEGER_BYTES[type_]
        return int.from_bytes(payload[at : at + size], "big", signed=True), size
    if type_ == 7:
        return struct.unpack(">d", payload[at : at + 8])[0], 8
    if type_ in (8, 9):
        return type_ - 8, 0
    if type_ < 12:
        raise ValueError("a type that SQLite does not store")
    size = (type_ - 12) // 2
    data = payload[at : at + size]
    if len(data) < size:
        raise ValueError("a value that is cut off")
    return (data if type_ % 2 == 0 else data.decode("utf-8", "surrogateescape")), size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at`, and its end. Raises `IndexError`."""
    value = 0
    for length in range(8):
        byte = data[at + length]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + length + 1
    return value << 8 | data[at + 8], at + 9
