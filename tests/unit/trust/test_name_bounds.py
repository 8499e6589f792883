"""Tests of the number of names that are read (R17, R19)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust.name_bounds import (
    MAX_NAME_BYTES,
    MAX_NAMES,
    TooManyNames,
    alternative_names,
    count_names,
    count_subtrees,
    subtrees,
)
from tests.support.certificates import der

NAME = der(0x82, b"a.example")
SUBTREE = der(0x30, NAME)


class NameTests(SynchronousTestCase):
    def test_bound(self):
        """R17: up to the limit names are read. One more, of any kind, is too many."""
        self.assertEqual(MAX_NAMES, count_names(der(0x30, b"\x88\x00" * MAX_NAMES)))
        self.assertRaises(TooManyNames, count_names, der(0x30, b"\x88\x00" * (MAX_NAMES + 1)))
        self.assertEqual(0, count_names(None))

    def test_bytes(self):
        """R17: names with too many bytes are refused before the first is read."""
        self.assertRaises(TooManyNames, next, alternative_names(der(0x30, der(0x82, b"x" * MAX_NAME_BYTES))))

    def test_malformed(self):
        """A malformed name ends the count. It is reported elsewhere."""
        self.assertEqual(1, count_names(der(0x30, NAME + b"\x82\x20short")))
        self.assertEqual(0, count_names(b"junk"))
        self.assertRaises(ValueError, list, alternative_names(NAME))


class SubtreeTests(SynchronousTestCase):
    def test_kinds(self):
        """Permitted subtrees are told apart from excluded ones."""
        value = der(0x30, der(0xA0, SUBTREE) + der(0xA1, SUBTREE * 2))
        self.assertEqual([False, True, True], [excluded for excluded, _ in subtrees(value)])
        self.assertEqual(3, count_subtrees(value))

    def test_bound(self):
        """R19: the total of both kinds is limited."""
        half = SUBTREE * (MAX_NAMES // 2)
        self.assertEqual(MAX_NAMES, count_subtrees(der(0x30, der(0xA0, half) + der(0xA1, half))))
        self.assertRaises(TooManyNames, count_subtrees, der(0x30, der(0xA0, half) + der(0xA1, half + SUBTREE)))
