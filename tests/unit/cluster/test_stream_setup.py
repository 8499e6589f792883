"""Tests of the required properties of streams, and of the words of a refusal."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineUnfit
from s2sgw.cluster.stream_setup import check_server, check_stream, needs_update, room_words, wanted_streams
from s2sgw.cluster.subjects import BOOK_STREAM, NODES_STREAM, PEN_STREAM, SPOOL_STREAMS


class StreamTests(SynchronousTestCase):
    """Streams."""

    def setUp(self) -> None:
        self.wanted = wanted_streams(3, 1000)[0]

    def refusal(self, **found: Any) -> str:
        return str(self.assertRaises(EngineUnfit, check_stream, self.wanted, {**self.wanted, **found}, True))

    def test_wanted(self) -> None:
        """Every stream is on file, replicated, and refuses what it has no room for, save the pen. Their subjects do not overlap."""
        streams = {stream["name"]: stream for stream in wanted_streams(3, 1000)}
        self.assertEqual(list(streams), [*SPOOL_STREAMS, NODES_STREAM, BOOK_STREAM, PEN_STREAM])
        for name, stream in streams.items():
            discard = "old" if name == PEN_STREAM else "new"
            self.assertEqual((stream["storage"], stream["discard"], stream["num_replicas"], stream["max_age"]), ("file", discard, 3, 0))
            check_stream(stream, stream, True)
        subjects = [subject for stream in streams.values() for subject in stream["subjects"]]
        self.assertEqual(len(subjects), len(set(subjects)))
        self.assertEqual([streams[name]["max_msgs_per_subject"] for name in (SPOOL_STREAMS[0], NODES_STREAM)], [-1, 1])

    def test_refusals(self) -> None:
        """A stream that loses records, or is on one server of several, is refused by name."""
        self.assertIn("S2SGW_SPOOL_0 is in memory", self.refusal(storage="memory"))
        self.assertIn("1 replica(s), and must have 3", self.refusal(num_replicas=1))
        self.assertIn("discard policy: old", self.refusal(discard="old"))
        for key, value in (("max_age", 5), ("max_msgs", 10), ("retention", "interest"), ("allow_direct", False), ("subjects", ["x"])):
            self.assertIn("S2SGW_SPOOL_0", self.refusal(**{key: value}))
        missing = {key: value for key, value in self.wanted.items() if key != "allow_atomic"}
        self.assertRaises(EngineUnfit, check_stream, self.wanted, missing, True)

    def test_one_server(self) -> None:
        """One server that runs alone has one replica. One of a cluster has three."""
        alone = {**self.wanted, "num_replicas": 1}
        check_stream(alone, alone, clustered=False)
        self.assertRaises(EngineUnfit, check_stream, alone, alone, clustered=True)
        check_stream(alone, self.wanted, clustered=True)

    def test_update(self) -> None:
        """A stream that is smaller than it should be grows; one that is larger stays."""
        self.assertEqual([needs_update(self.wanted, {**self.wanted, "max_bytes": size}) for size in (999, 1000, 1001)], [True, False, False])
        self.assertTrue(needs_update(self.wanted, {**self.wanted, "duplicate_window": 1}))

    def test_room(self) -> None:
        """The words tell the room of one stream, and of all of them."""
        streams = wanted_streams(3, 1 << 30)
        words = room_words(streams[0], streams)
        self.assertIn(f"it reserves {1 << 30} bytes on the disk of each server", words)
        self.assertIn(f"all streams {(8 << 30) + (100 << 20)} bytes", words)


class ServerTests(SynchronousTestCase):
    """Servers."""

    def test_versions(self) -> None:
        """A server before 2.15, or of no known version, is refused in words."""
        for version, words in (((2, 14), "2.14"), ((1, 99), "1.99"), ((0, 0), "unknown")):
            self.assertIn(words, str(self.assertRaises(EngineUnfit, check_server, version, 1 << 20, 1)))
        for version in ((2, 15), (2, 16), (3, 0)):
            check_server(version, 1 << 20, 1 << 20)

    def test_payload(self) -> None:
        """A server that does not take the largest stanza is refused in words."""
        error = self.assertRaises(EngineUnfit, check_server, (2, 15), 1000, 1001)
        self.assertIn("max_payload is 1000 bytes, and must be 1001", str(error))
