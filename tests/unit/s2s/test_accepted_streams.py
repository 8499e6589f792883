"""Tests of the index of accepted streams."""

from __future__ import annotations

from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.accepted_stream import AcceptedStream
from s2sgw.s2s.accepted_streams import Index

FIRST, SECOND, THIRD = (cast(AcceptedStream, object()) for _ in range(3))


class IndexTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.index: Index[str] = Index()

    def test_several(self) -> None:
        """A key has its streams in the order in which they were added first, each once."""
        for stream in (FIRST, FIRST, SECOND, THIRD, SECOND):
            self.index.add("a", stream)
        self.index.add("b", SECOND)
        self.assertEqual([list(self.index.get(key)) for key in "abc"], [[FIRST, SECOND, THIRD], [SECOND], []])

    def test_discarded(self) -> None:
        """A discarded stream is left out. One that is not there changes nothing, and so does no key at all."""
        self.index.add("a", FIRST)
        self.index.add(None, FIRST)
        self.index.discard("a", SECOND)
        self.index.discard("b", FIRST)
        self.index.discard(None, FIRST)
        self.assertEqual(list(self.index.get("a")), [FIRST])
        self.index.add("a", SECOND)
        for gone, left in ((THIRD, [FIRST, SECOND]), (FIRST, [SECOND]), (SECOND, [])):
            self.index.discard("a", gone)
            self.assertEqual(list(self.index.get("a")), left)
        self.index.add("a", THIRD)
        self.index.discard("a", THIRD)
        self.assertEqual(list(self.index.get("a")), [])

    def test_small(self) -> None:
        """A key with one stream has no table: a peer may have proven thousands of pairs, each on one stream."""
        self.index.add("a", FIRST)
        self.assertIsInstance(self.index.get("a"), tuple)
