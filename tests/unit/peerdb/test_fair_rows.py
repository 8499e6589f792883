"""Tests of the rows that are kept in a table that strangers can fill."""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.peerdb.fair_rows import STRANGERS, trim, trim_name


class FairRowsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.database = sqlite3.connect(":memory:")
        self.addCleanup(self.database.close)
        self.database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, known INTEGER, site TEXT, last REAL, size INTEGER)")
        self.database.execute("CREATE TABLE texts (id INTEGER PRIMARY KEY, bytes INTEGER)")
        self.last = 0

    def add(self, name: str, *, known: bool = False, site: str = "", kind: str = "a", size: int = 1) -> None:
        """Add a row that is newer than all others."""
        self.last += 1
        row = (name, kind, known, site or name, self.last, size)
        self.database.execute("INSERT INTO rows (name, kind, known, site, last, size) VALUES (?, ?, ?, ?, ?, ?)", row)

    def trim(self, rows: int, size: int = 1000, **how: str) -> None:
        self.database.execute(*trim("rows", rows, size, **how))

    def left(self, what: str = "name") -> list[str]:
        return [each for each, in self.database.execute(f"SELECT {what} FROM rows ORDER BY last")]

    def test_nothing_to_delete(self) -> None:
        """Rows within both limits stay."""
        for number in range(8):
            self.add(f"f{number}", known=True)
        self.trim(10)
        self.assertEqual(8, len(self.left()))

    def test_strangers(self) -> None:
        """Names that were never proven get a fifth of the rows. They remove no row of a proven name."""
        for number in range(8):
            self.add(f"friend{number}", known=True)
        for number in range(50):
            self.add(f"stranger{number}")
        self.trim(10)
        self.assertEqual([*(f"friend{number}" for number in range(8)), "stranger48", "stranger49"], self.left())
        self.assertEqual(0.2, STRANGERS)

    def test_domains_take_turns(self) -> None:
        """The newest row of every registered domain is kept before a second row of any domain."""
        for name in ("a.old.example", "b.old.example"):
            self.add(name, known=True, site="old.example")
        for number in range(20):
            self.add(f"{number}.busy.example", known=True, site="busy.example")
        self.trim(5)
        self.assertEqual(["a.old.example", "b.old.example", "18.busy.example", "19.busy.example"], self.left())

    def test_bytes(self) -> None:
        """The bytes are limited too, in the same order, with a fifth for strangers."""
        for name in ("a", "b", "c"):
            self.add(name, known=True, size=30)
        for name in ("x", "y", "z"):
            self.add(name, size=10)
        self.trim(100, 100)
        self.assertEqual(["b", "c", "y", "z"], self.left())

    def test_bytes_of_another_table(self) -> None:
        """The bytes of a row may be in a joined table, and the order within a domain may be another one."""
        for number, size in enumerate((70, 30, 30), 1):
            self.add(f"n{number}", known=True, site="one.example")
            self.database.execute("INSERT INTO texts VALUES (?, ?)", (number, size))
        self.trim(100, 100, sizes="texts.bytes", source="JOIN texts ON texts.id = rows.id", order="last")
        self.assertEqual(["n1"], self.left())

    def test_one_name(self) -> None:
        """The rows of one name take turns by kind. Many events of one kind remove no row of another, and no row of another name."""
        self.add("peer", kind="rare")
        for _ in range(20):
            self.add("peer", kind="frequent")
        self.add("other", kind="frequent")
        self.database.execute(*trim_name("rows", "name", "peer", 3, "kind", "last DESC"))
        self.assertEqual(["rare", "frequent", "frequent", "frequent"], self.left("kind"))
        self.assertEqual(["peer", "peer", "peer", "other"], self.left())
