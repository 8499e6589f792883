"""Requests of JetStream: until when they are made again, what is looked for, and what an answer must be like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineFull, EngineGone
from s2sgw.cluster.jetstream_api import ID, JetStreamAPI, Record, expecting
from s2sgw.cluster.requests import Message
from tests.support.scripted_requests import NOT_FOUND, SILENCE, APITests, Request, ack, error, json_message, page, status, stored

ONE = [Record("s.a", {ID: "one"}, b"1")]
TWO = [Record("s.a", {ID: "one"}, b"1"), Record("s.b", {ID: "two"}, b"2")]


class StoreTests(APITests):
    """Writes."""

    def store(self, records: Sequence[Record], *script: Any) -> Any:
        return self.ask(lambda api: api.store("S", records, 7), *script)

    def test_answered(self) -> None:
        """One record is one message."""
        self.assertEqual(self.store(ONE, ack(9)), [9])
        self.assertEqual([(each.subject, each.data, each.headers) for each in self.requests.made], [("s.a", b"1", {ID: "one"})])

    def test_unknown_outcome(self) -> None:
        """A record is sent again, the same, until there is an answer, and from then on the outcome is known."""
        self.assertEqual(self.store(ONE, SILENCE, SILENCE, SILENCE, ack(9, duplicate=True)), [9])
        self.assertEqual([each.headers for each in self.requests.made], [{ID: "one"}] * 4)

    def test_transient_errors(self) -> None:
        """No leader, a fence in process, an incomplete batch, …: the record is sent again, soon and then more slowly."""
        codes = (10008, 10009, 10158, 10164, 10167, 10176, 10210)
        self.assertEqual(self.store(ONE, *map(error, codes), ack(9)), [9])
        self.assertLess(self.loop.time(), 0.2)
        self.store(ONE, *[error(10164)] * 100, ack(9))
        self.assertGreater(self.loop.time(), 15)

    def test_full(self) -> None:
        """A lack of room has an error of its own, whether the stream, the server or the account reports it."""
        for code, text in ((10077, "maximum bytes exceeded"), (10047, ""), (10023, ""), (10002, "")):
            self.assertIsInstance(self.store(ONE, error(code, text)), EngineFull)

    def test_refused(self) -> None:
        """Another error has no effect, is not tried again, and has the server's words and number."""
        refusal = self.store(ONE, error(10054, "message size exceeds maximum allowed"))
        self.assertEqual((refusal.code, len(self.requests.made), str(refusal)), (10054, 1, "message size exceeds maximum allowed (10054)"))

    def test_wrong_sequence(self) -> None:
        """A first attempt with a wrong sequence has no effect. A later one is looked for: an earlier may have been stored."""
        self.assertEqual(self.store(ONE, error(10071)).code, 10071)
        self.assertEqual(self.store(ONE, SILENCE, error(10071), stored("s.a", 8, "other"), stored("s.a", 11, "one"), NOT_FOUND), [11])
        asked = [request.content for request in self.requests.made[2:]]
        self.assertEqual(asked, [{"next_by_subj": "s.a", "seq": sequence} for sequence in (8, 9, 12)])
        self.assertEqual(self.store(ONE, SILENCE, error(10071), stored("s.a", 8, "other"), NOT_FOUND).code, 10071)

    def test_refused_in_doubt(self) -> None:
        """A lack of room, or another refusal, after an attempt without an answer: that attempt may have been stored."""
        for code in (10023, 10054):
            self.assertEqual(self.store(ONE, SILENCE, error(code), stored("s.a", 11, "one"), NOT_FOUND), [11])
        self.assertIsInstance(self.store(ONE, SILENCE, error(10023), NOT_FOUND), EngineFull)
        self.assertEqual(self.store(ONE, SILENCE, error(10054), NOT_FOUND).code, 10054)

    def test_refused_in_doubt_by_an_engine_that_goes_away(self) -> None:
        """A record that may be stored is looked for until the engine is back, however long that takes."""
        def answer(request: Request) -> Any:
            return SILENCE if request.at < 60 else next(late)

        late = iter([stored("s.a", 11, "one"), NOT_FOUND])
        self.assertEqual(self.store(ONE, SILENCE, error(10071), answer), [11])

    def test_sent_again_soon(self) -> None:
        """A record that must not wait is sent again with its id while the first answer may still come."""
        found = self.ask(lambda api: api.store("S", ONE, 7, again=0.2), SILENCE, SILENCE, ack(9))
        self.assertEqual([9], found)
        self.assertEqual(([0.0, 0.2, 0.4], {"one"}), ([round(each.at, 3) for each in self.requests.made], {each.headers[ID] for each in self.requests.made}))

    def test_copy_is_refused(self) -> None:
        """The refusal of a copy is no answer to the first message, which may have been stored."""
        found = self.ask(lambda api: api.store("S", ONE, 7, again=0.2), SILENCE, error(10071), stored("s.a", 11, "one"), NOT_FOUND)
        self.assertEqual([11], found)

    def test_tells_of_a_doubt(self) -> None:
        """The caller is told of each attempt without an answer, and of none that was answered."""
        doubts: list[int] = []
        for script in ([error(10164), ack(9)], [SILENCE, SILENCE, ack(9)]):
            self.ask(lambda api: api.store("S", ONE, 7, lambda: doubts.append(1)), *script)
        self.assertEqual(len(doubts), 2)

    def test_long_doubt(self) -> None:
        """Before the server may have forgotten an id, the record is looked for, and sent again only if it is not there."""
        def answer(request: Request) -> Any:
            return SILENCE if request.at < 21 else next(late)

        late = iter([stored("s.a", 8, "one"), NOT_FOUND, ack(20)])
        self.assertEqual(self.store(ONE, answer), [8])
        self.assertEqual(self.subjects[-3:], ["s.a"] + ["$JS.API.STREAM.MSG.GET.S"] * 2)
        late = iter([NOT_FOUND, ack(20)])
        self.assertEqual(self.store(ONE, answer), [20])

    def test_longer_doubt(self) -> None:
        """A record is not sent again while it cannot be looked for: the first may be stored."""
        def answer(request: Request) -> Any:
            if request.at < 60:
                return SILENCE
            return NOT_FOUND if "MSG.GET" in request.subject else ack(20)

        self.assertEqual(self.store(ONE, answer), [20])
        self.assertEqual([request.at for request in self.requests.made if request.subject == "s.a" and 22 < request.at < 60], [])

    def test_batch(self) -> None:
        """Several records are one batch: the last message commits, and its sequence is that of the last record."""
        self.assertEqual(self.store(TWO, ack(9, batch="b", count=2)), [8, 9])
        (first,), (last,) = self.requests.published, self.requests.made
        batch = first.headers["Nats-Batch-Id"]
        self.assertEqual(first.headers, {ID: "one", "Nats-Batch-Id": batch, "Nats-Batch-Sequence": "1"})
        self.assertEqual(last.headers, {ID: "two", "Nats-Batch-Id": batch, "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"})
        self.assertEqual((first.subject, last.subject, len(batch) <= 64), ("s.a", "s.b", True))

    def test_batch_again(self) -> None:
        """A batch is sent again as a new batch of the same records; parts of the former do not count."""
        self.assertEqual(self.store(TWO, SILENCE, error(10176), ack(9)), [8, 9])
        batches = [each.headers["Nats-Batch-Id"] for each in self.requests.published]
        self.assertEqual((len(set(batches)), [each.headers["Nats-Batch-Id"] for each in self.requests.made]), (3, batches))

    def test_batch_that_is_stored(self) -> None:
        """A batch with an id that is stored is looked for: as a whole, behind what is known, then from the start."""
        found = [stored("s.a", 8, "one"), NOT_FOUND, stored("s.b", 9, "two"), NOT_FOUND]
        by_subject = found
        self.assertEqual(self.store(TWO, SILENCE, error(10201), *by_subject), [8, 9])
        self.assertEqual(self.store(TWO, error(10201), NOT_FOUND, NOT_FOUND, *by_subject), [8, 9])
        self.assertEqual([request.content["seq"] for request in self.requests.made[1:4]], [8, 8, 1])

    def test_part_of_a_batch_is_stored(self) -> None:
        """Records of which some are stored are refused: they were not one call."""
        self.assertEqual(self.store(TWO, error(10201), *[NOT_FOUND] * 9).code, 10201)

    def test_strange_answer(self) -> None:
        """An answer that is no JSON object is none."""
        self.assertEqual(self.store(ONE, Message("", "", {}, b"+OK", 0), json_message([1]), ack(9)), [9])

    def test_hop(self) -> None:
        """A server that answers nothing is left for another after some seconds, and not at each attempt."""
        self.store(ONE, *[SILENCE] * 13, ack(9))
        self.assertIn(len(self.requests.hops), (3, 4))
        self.assertGreater(self.requests.hops[0], 4)


class QuestionTests(APITests):
    """Reads."""

    def test_gives_up(self) -> None:
        """A question is asked again for as long as an election may take, then it is `EngineGone` with the last reason."""
        gone = self.ask(lambda api: api.leader_last("S", "s.a"), SILENCE)
        self.assertEqual((type(gone), "silence" in str(gone), 12 <= self.loop.time() < 15), (EngineGone, True, True))
        for strange in (b"5", b"[]", b'{"error":"x"}', b'{"error":{"err_code":"?"}}'):
            gone = self.ask(lambda api: api.info("S", "s.>"), Message("", "", {}, strange, 0))
            self.assertEqual((type(gone), "no JSON object" in str(gone)), (EngineGone, True), strange)
        gone = self.ask(lambda api: api.leader_last("S", "s.a"), error(10008, "no leader"))
        self.assertEqual((type(gone), "no leader" in str(gone)), (EngineGone, True))

    def test_sent_again(self) -> None:
        """A question to a leader is sent again while it has no answer: it may have been lost in an election."""
        for question, answer in (
            (lambda api: api.leader_last("S", "s.a"), stored("s.a", 5, "one")),
            (lambda api: api.leader_next("S", "s.a", 4), stored("s.a", 5, "one")),
            (lambda api: api.call("STREAM.INFO.S", {}), json_message({})),
        ):
            self.ask(question, SILENCE, SILENCE, answer)
            self.assertEqual([0.0, 0.5, 1.0], [request.at for request in self.requests.made])

    def test_leader(self) -> None:
        """A record as the leader has it: headers and data are decoded; None if there is none."""
        found = self.ask(lambda api: api.leader_last("S", "s.a"), SILENCE, stored("s.a", 5, "one", b"\xff\x00"))
        self.assertEqual((found.subject, found.sequence, found.headers[ID], found.headers["S2S-a"], found.data), ("s.a", 5, "one", "b:c", b"\xff\x00"))
        self.assertEqual(self.ask(lambda api: api.leader_last("S", "s.a"), NOT_FOUND), None)

    def test_page(self) -> None:
        """Records, and whether the replica has more."""
        read = self.ask(lambda api: api.next_page("S", "s.>", 4, 100), page(5, 9, more=3))
        self.assertEqual(([found.sequence for found in read.records], read.more), ([5, 9], True))
        self.assertEqual(self.requests.made[0].content, {"next_by_subj": "s.>", "seq": 5, "batch": 1000, "max_bytes": 100})
        self.assertEqual(self.ask(lambda api: api.next_page("S", "s.>", 4, 100), status(404)), ([], False))

    def test_lost_part(self) -> None:
        """An answer of which a message was lost, at any place, is asked for again."""
        whole = page(5, 9, 11)
        for lost in range(3):
            broken = [message for number, message in enumerate(whole) if number != lost]
            read = self.ask(lambda api: api.next_page("S", "s.>", 4, 100), broken, whole)
            self.assertEqual(([found.sequence for found in read.records], len(self.requests.made)), ([5, 9, 11], 2))

    def test_last_of_over_pages(self) -> None:
        """The last records of a pattern are read page by page, without their data where it is not wanted."""
        found = self.ask(lambda api: api.last_of("S", "s.>", data=False), page(5, 9, more=1), page(12))
        self.assertEqual([(each.sequence, each.data) for each in found], [(5, b""), (9, b""), (12, b"")])
        self.assertEqual([request.content.get("seq") for request in self.requests.made], [None, 10])

    def test_last_of_too_many(self) -> None:
        """More subjects than one answer may have are listed first, then read in parts."""
        names = {f"s.{number}": 1 for number in range(1200)}
        info = json_message({"state": {"subjects": names, "last_seq": 9}, "total": 1200})
        found = self.ask(lambda api: api.last_of("S", "s.>"), status(413), info, page(7), page(5), page(6))
        self.assertEqual([each.sequence for each in found], [5, 6, 7])
        self.assertEqual([len(request.content["multi_last"]) for request in self.requests.made[2:]], [500, 500, 200])

    def test_info_over_pages(self) -> None:
        """Subjects are listed to the end."""
        pages = [json_message({"state": {"subjects": {name: 1}, "last_seq": 9}, "total": 3}) for name in "abc"]
        found = self.ask(lambda api: api.info("S", ">"), *pages)
        self.assertEqual((found["state"]["subjects"], [r.content.get("offset") for r in self.requests.made]), (dict.fromkeys("abc", 1), [None, 1, 2]))

    def test_long_list(self) -> None:
        """Other work is done while a long list is read."""
        content = {"state": {"subjects": {f"s.{number}": 1 for number in range(1200)}}, "total": 1200}
        answer = Message("", "", {}, json.dumps(content, separators=(",", ":")).encode(), 0)  # as the server writes it
        pauses: list[object] = []

        async def reading(api: JetStreamAPI) -> None:
            pauses.extend(api._content_in_steps(answer).__await__())

        self.ask(reading)
        self.assertEqual([None, None], pauses)

    def test_refused_question(self) -> None:
        """A question that is refused is not asked again."""
        self.assertEqual(self.ask(lambda api: api.next_page("S", "s.>", 4, 100), status(408)).code, 408)
        self.assertEqual(len(self.requests.made), 1)


class RemovalTests(APITests):
    """Removals."""

    def test_delete(self) -> None:
        """A record that is gone is no error."""
        for answer in (json_message({"success": True}), error(10043), error(10057)):
            self.assertEqual(self.ask(lambda api: api.delete("S", 5), answer), None)
        self.assertEqual(self.ask(lambda api: api.delete("S", 5), error(10008)).code, 10008)

    def test_purge(self) -> None:
        """The server purges what is before a sequence; ours is the last to go."""
        self.ask(lambda api: api.purge("S", "s.a", 5), json_message({"success": True}))
        self.assertEqual(self.requests.made[0].content, {"filter": "s.a", "seq": 6})


class HeaderTests(SynchronousTestCase):
    """Headers."""

    def test_expecting(self) -> None:
        """The expected sequence is of the named subject, not of the record's own."""
        self.assertEqual(expecting("s.home", 3), {
            "Nats-Expected-Last-Subject-Sequence": "3", "Nats-Expected-Last-Subject-Sequence-Subject": "s.home",
        })  # fmt: skip
