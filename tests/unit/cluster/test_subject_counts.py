"""The answer that names subjects gives what `json.loads` gives, in steps."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.subject_counts import AT_ONCE, read_counts


def read(data: bytes) -> tuple[Any, int]:
    """Return the content, and in how many steps it was read."""
    work, steps = read_counts(data), 1
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value, steps
        steps += 1


def written(subjects: Any, **more: Any) -> bytes:
    """Return an answer as the server writes it: without spaces."""
    content = {"config": {"subjects": ["s.>"]}, "state": {"subjects": subjects, "last_seq": 9}, "total": 3, **more}
    return json.dumps(content, separators=(",", ":")).encode()


class CountTests(SynchronousTestCase):
    """`read_counts`."""

    def test_equal(self) -> None:
        """Any object is read as `json.loads` reads it: with subjects or without, with strange names, as an error, with spaces."""
        strange = {'a",b': 1, "}": 2, "\\": 3, '"subjects":{': 4, "": 5, "\u00e9\n": 6}
        for data in (
            written({}), written({"s.a": 1}), written({"s.a": 1, "s.b": 22}), written(strange), written(None), written([1]), written({"a": {"b": 1}}),
            b'{"error":{"code":404}}', json.dumps({"state": {"subjects": {"a": 1, "b": 2}}}).encode(), written({"a": 1}, note='"subjects":{'),
            b'{"subjects":{"a":1},"state":{"subjects":{"b":2}}}', b"[]", b"7",
        ):
            self.assertEqual(json.loads(data), read(data)[0], data)

    def test_broken(self) -> None:
        """Bytes that are no JSON are an error."""
        for data in (b"", b"\xff", b'{"state":{"subjects":{', b'{"state":{"subjects":{"a":1', b'{"state":{"subjects":{"a":1}', b'{"state":{"subjects":{"a" 1}}}', b'{"state":{"subjects":{1:2}}}', written({"a": 1})[:-1]):
            self.assertRaises(ValueError, read, data)

    def test_steps(self) -> None:
        """No step reads more than some hundred subjects."""
        found, steps = read(written({f"s.{number}": number for number in range(10 * AT_ONCE + 1)}))
        self.assertEqual((10 * AT_ONCE + 1, 11), (len(found["state"]["subjects"]), steps))
