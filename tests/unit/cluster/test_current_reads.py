"""Reads from replicas that are behind: what is known to exist is in every answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from s2sgw.cluster.current_reads import lane_records, last_records, newest_records
from s2sgw.cluster.jetstream_api import JetStreamAPI
from s2sgw.cluster.requests import Message
from tests.support.scripted_requests import NOT_FOUND, SILENCE, APITests, Request, json_message, page, status, stored


def info(last: int, first: int = 1) -> Any:
    return json_message({"state": {"last_seq": last, "first_seq": first}})


class LastRecordsTests(APITests):
    """The last records of a peer, behind its claim at 9."""

    def last(self, *script: Any) -> list[int]:
        found = self.ask(lambda api: last_records(api, "S", "s.>", "s.9", 9), *script)
        return [record.sequence for record in found.values()]

    def test_replica_behind(self) -> None:
        """An answer without the claim is from a replica that is behind: its records are not the last ones."""
        self.assertEqual(self.last(page(3), status(404), self.claim(8), page(3, 5, 9)), [3, 5, 9])
        self.assertEqual(len(self.requests.made), 4)

    def test_newer_claim(self) -> None:
        """A newer claim ends the waiting too."""
        self.assertEqual(self.last(page(3), self.claim(12)), [12])

    def claim(self, sequence: int) -> list[Message]:
        """Return an answer with one claim alone."""
        record, end = page(sequence)
        return [record._replace(headers={**record.headers, "Nats-Subject": "s.9"}), end]

    def test_many_lanes(self) -> None:
        """The lanes of a large peer are read in parts, and each part may be of another replica: the claim is in each of them."""
        names = [f"s.{number:04}" for number in range(1199)] + ["s.home"]
        current = {name: 5000 + number for number, name in enumerate(names)}
        parts: list[int] = []

        def answer(request: Request) -> Any:
            if "STREAM.INFO" in request.subject:
                return json_message({"state": {"subjects": dict.fromkeys(names, 1), "last_seq": 9999}, "total": len(names)})
            wanted = request.content["multi_last"]
            if len(wanted) == 1:
                return status(413)
            parts.append(len(wanted))
            late = 4000 if len(parts) in (1, 4) else 0
            return self.records(sorted((current[name] - late, name) for name in wanted))

        found = self.ask(lambda api: last_records(api, "S", "s.>", "s.home", current["s.home"]), answer)
        self.assertEqual({name: record.sequence for name, record in found.items()}, current)
        self.assertEqual(parts, [501, 501, 501, 200, 501, 501, 200])

    def records(self, rows: Sequence[tuple[int, str]]) -> list[Message]:
        """Return an answer with these records."""
        messages, before = [], 0
        for sequence, subject in rows:
            headers = {"Nats-Subject": subject, "Nats-Sequence": str(sequence), "Nats-Last-Sequence": str(before)}
            messages.append(Message("", "", headers, b"", 0))
            before = sequence
        end = {"Nats-Num-Pending": "0", "Nats-Last-Sequence": str(before), "Status": "204"}
        return [*messages, Message("", "", end, b"", 204)]

    def test_engine_away(self) -> None:
        """The claim was made, so it is read however long the engine is away."""
        self.assertEqual(self.last(*[SILENCE] * 30, page(9)), [9])


class LaneRecordsTests(APITests):
    """Records of a lane up to 9."""

    def lane(self, *script: Any, after: int = 0) -> list[int]:
        found = self.ask(self.read(after), *script)
        return [record.sequence for record in found]

    def read(self, after: int) -> Callable[[JetStreamAPI], Any]:
        return lambda api: lane_records(api, "S", "s.a", after, 9, 1000)

    def test_whole(self) -> None:
        """An answer with the last one is whole, and one that says that there is more. What is behind `up_to` is left out."""
        self.assertEqual(self.lane(page(3, 9)), [3, 9])
        self.assertEqual(self.lane(page(3, more=4)), [3])
        self.assertEqual(self.lane(page(3, 12)), [3])
        self.assertEqual(self.lane(page(12, more=1)), [])
        self.assertEqual(self.lane(SILENCE, after=9), [])

    def test_replica_behind(self) -> None:
        """An answer that ends before `up_to` is asked for again where the leader has more."""
        self.assertEqual(self.lane(page(3), stored("s.a", 9, "x"), page(3, 9)), [3, 9])
        self.assertEqual(self.lane(status(404), stored("s.a", 3, "x"), page(3, 9)), [3, 9])

    def test_removed_end(self) -> None:
        """It is whole where the leader has no more: the last record was removed."""
        self.assertEqual(self.lane(page(3), NOT_FOUND, info(9)), [3])
        self.assertEqual(self.lane(page(3), stored("s.a", 12, "x"), info(12)), [3])
        self.assertEqual(self.requests.made[1].content, {"next_by_subj": "s.a", "seq": 4})

    def test_leader_behind(self) -> None:
        """A leader that has not reached `up_to` was deposed: it decides nothing."""
        self.assertEqual(self.lane(page(3), NOT_FOUND, info(8), page(3, 9)), [3, 9])


class NewestRecordsTests(APITests):
    """The newest records of a stream."""

    def newest(self, at_most: int, *script: Any) -> list[int]:
        return [record.sequence for record in self.ask(lambda api: newest_records(api, "S", "s.>", at_most, 1000), *script)]

    def test_newest(self) -> None:
        """As many as asked for, to the last one, over pages, also from replicas that are behind."""
        self.assertEqual(self.newest(3, info(9), page(7), status(404), page(8, more=1), page(9)), [7, 8, 9])
        self.assertEqual([request.content.get("seq") for request in self.requests.made], [None, 7, 8, 8, 9])

    def test_removed(self) -> None:
        """A record that the leader has removed is not read from a replica that still has it."""
        self.assertEqual(self.newest(100, info(9, first=8), page(8, 9)), [8, 9])
        self.assertEqual(self.requests.made[1].content["seq"], 8)
        self.assertEqual(self.newest(100, info(0, first=0)), [])
