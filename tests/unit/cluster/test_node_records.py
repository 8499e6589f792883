"""The records of nodes, pulses and homes: what is written is read again, and nothing else is understood."""

from __future__ import annotations

import json
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.node_records import HomeRecord, NodeRecord, NodeSession, Pulse, UnreadableRecord, node_key

RECORD = NodeRecord("a", "x1", "192.0.2.1:5271", birth=4, beat=7, draining=True, settings="abc")


class NodeRecordTests(SynchronousTestCase):
    """Encoding and decoding."""

    def test_round_trip(self) -> None:
        """Each record comes back as it was."""
        inner = (("a.example", "192.0.2.1:15270"), ("c.example", "192.0.2.1:15271"))
        for record in (RECORD, replace(RECORD, alive=False), replace(RECORD, inner=inner)):
            self.assertEqual(NodeRecord.decode(record.encode()), record)
        self.assertNotIn(b"inner", RECORD.encode())  # as earlier releases write it
        pulse = Pulse("a", "x1", 9, {"y1": 3})
        self.assertEqual(Pulse.decode(pulse.encode()), pulse)
        for home in (HomeRecord(None), HomeRecord(NodeSession("a", "x1", 4))):
            self.assertEqual(HomeRecord.decode(home.encode()), home)

    def test_birth(self) -> None:
        """The first record of a session does not know its own sequence; the later ones carry it."""
        self.assertEqual(NodeRecord("a", "x1", "").session(12), NodeSession("a", "x1", 12))
        self.assertEqual(RECORD.session(12), NodeSession("a", "x1", 4))

    def test_unreadable(self) -> None:
        """Data that is no record, lacks a word, has a wrong one, or is of a newer version is refused."""
        words = json.loads(RECORD.encode())
        others: tuple[object, ...] = (None, [], {"a.example": 1})
        wrong: list[object] = [{**words, "inner": each} for each in others]
        wrong += [{**words, name: None} for name in words] + [{**words, "beat": -1}, {**words, "birth": True}, {**words, "version": 2}, [], 3]
        for data in [b"", b"\xff", b"{", b"[" * 100_000, *(json.dumps(each).encode() for each in wrong)]:
            self.assertRaises(UnreadableRecord, NodeRecord.decode, data)
        for data in (b"{}", b'{"version":1,"node":"a","identity":"x","number":1,"heard":[]}', b'{"version":1,"node":"a","identity":"x","number":1,"heard":{"y":"1"}}'):
            self.assertRaises(UnreadableRecord, Pulse.decode, data)
        for data in (b"{}", b'{"version":1,"node":"a"}', b'{"version":2}'):
            self.assertRaises(UnreadableRecord, HomeRecord.decode, data)

    def test_key(self) -> None:
        """Records of nodes are below one word."""
        self.assertEqual(node_key("a"), "node.a")
