"""The requests of JetStream that the engine makes, on one connection: store until the outcome is known, read, remove.

Every write has an id (`Nats-Msg-Id`). For `DUPLICATE_WINDOW` seconds, a server that has stored it answers with its sequence.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from math import inf
from typing import Any, NamedTuple

from s2sgw.cluster.engine import EngineError, EngineFull, EngineGone
from s2sgw.cluster.requests import Message, NoResponders, Requests, Unanswered
from s2sgw.cluster.stream_setup import DUPLICATE_WINDOW
from s2sgw.cluster.subject_counts import read_counts

#: Seconds that a write, and a question, waits for its answer before it is made again.
WRITE_SECONDS, ANSWER_SECONDS = 1.0, 2.0
#: Seconds after which a question to the leader of a stream is sent again, while its first answer may still come. The servers drop
#: a question to a stream without a leader, and the new leader answers only what comes to it.
AGAIN_SECONDS = 0.5
#: The requests that are such questions.
_QUESTIONS = ("STREAM.INFO.", "STREAM.MSG.GET.")
#: Seconds for which a question is asked again: longer than an election takes (4 to 9 s).
QUESTION_SECONDS = 12.0
#: Seconds without any answer, while requests were made, after which another server is tried.
HOP_SECONDS = 4.0
#: Seconds between two attempts: at first and at most. An answer "in process" is soon over; an election is not.
_SHORT_PAUSE, _LONG_PAUSE = 0.002, 0.25
#: The most bytes, and records, of one answer.
_PAGE_BYTES = 4 * 1024 * 1024
_PAGE_RECORDS = 1000
#: `multi_last` answers with at most 1,024 subjects.
_PAGE_SUBJECTS = 500

#: Seconds after which a write whose outcome is unknown is looked for: the server may have forgotten its id soon.
_DOUBT_SECONDS = DUPLICATE_WINDOW * 0.7

#: The header with the id of a record.
ID = "Nats-Msg-Id"
WRONG_SEQUENCE = 10071
_NOT_FOUND = {10037, 10043}
_STORE_FAILED = 10077
_FULL = {10002, 10023, 10028, 10047}
_DUPLICATE_IN_BATCH = 10201
#: The request had no effect, and may have one later: no leader, another write of the same fence in process, too many batches, …
_AGAIN = {10004, 10008, 10009, 10118, 10158, 10164, 10167, 10176, 10202, 10210}


class RequestRefused(EngineError):
    """The server refused a request. `code`: its error code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class Record(NamedTuple):
    """A record to publish. `headers` are all that it has, its id among them."""

    subject: str
    headers: Mapping[str, str]
    data: bytes


class Found(NamedTuple):
    """A record in a stream."""

    subject: str
    sequence: int
    headers: Mapping[str, str]
    data: bytes


class RecordPage(NamedTuple):
    """Some records in order. `more`: whether the replica that answered has more."""

    records: Sequence[Found]
    more: bool


class JetStreamAPI:
    """The requests. `now` is a monotonic clock, in seconds."""

    def __init__(self, connection: Requests, now: Callable[[], float]) -> None:
        self._connection = connection
        self._now = now
        self._answered = now()

    # --- writes ---

    async def store(
        self, stream: str, records: Sequence[Record], after: int, doubt: Callable[[], None] = lambda: None, again: float = inf,
    ) -> list[int]:
        """Store records, all or none, and return their sequences. Lasts until the outcome is known.

        What an earlier attempt may have stored is looked for behind the sequence `after`. `doubt` is called if an attempt has no
        answer: a copy of it may be on its way, and come when the server has forgotten its id. `again`: see `Requests.request`.
        Errors: `RequestRefused`, `EngineFull`.
        """
        pause, in_doubt, start = _SHORT_PAUSE, False, self._now()
        batch = secrets.token_hex(12)
        for attempt in count():
            sent = self._now()
            try:
                if in_doubt and self._now() - start > _DOUBT_SECONDS:
                    found = await self.find(stream, records, after)
                    if found is not None:
                        return found
                    start = self._now()
                last = int((await self._send_all(records, f"{batch}.{attempt}", again))["seq"])
                return list(range(last - len(records) + 1, last + 1))
            except Unanswered:
                in_doubt, pause = True, _LONG_PAUSE
                doubt()
                self._hop_if_silent()
            except RequestRefused as error:
                found, in_doubt = None, in_doubt or self._now() - sent >= again  # the refusal may be that of a copy
                if error.code == _DUPLICATE_IN_BATCH or (in_doubt and error.code not in _AGAIN):
                    found = await self.find(stream, records, after)
                if error.code == _DUPLICATE_IN_BATCH and found is None:
                    found = await self.find(stream, records, 0)
                if found is not None:
                    return found
                _raise_unless_transient(error)
            await _pause(pause)
            pause = min(pause * 1.5, _LONG_PAUSE)
        raise AssertionError("the attempts do not end")

    async def find(self, stream: str, records: Sequence[Record], after: int) -> list[int] | None:
        """Return the sequences of records that are stored, by their ids; None if one of them is not. Lasts until it is known."""
        found: dict[str, int] = {}
        for subject in sorted({record.subject for record in records}):
            sequence = after
            while (stored := await self._next(stream, subject, sequence)) is not None:
                sequence = stored.sequence
                found[stored.headers.get(ID, "")] = sequence
        sequences = [found.get(record.headers[ID]) for record in records]
        return [sequence for sequence in sequences if sequence is not None] if None not in sequences else None

    async def _next(self, stream: str, subject: str, after: int) -> Found | None:
        while True:
            try:
                return await self.leader_next(stream, subject, after)
            except EngineGone:  # after several seconds: it is asked again
                continue

    async def _send(self, record: Record, again: float = inf) -> dict[str, Any]:
        (answer,) = await self._connection.request(record.subject, record.data, WRITE_SECONDS, record.headers, again=again)
        return self._content(answer)

    async def _send_all(self, records: Sequence[Record], batch: str, again: float) -> dict[str, Any]:
        if len(records) == 1:
            return await self._send(records[0], again)
        for number, record in enumerate(records[:-1], 1):
            await self._connection.wait_up(WRITE_SECONDS)
            await self._connection.publish(record.subject, record.data, _of_batch(record, batch, number))
        headers = {**_of_batch(records[-1], batch, len(records)), "Nats-Batch-Commit": "1"}
        return await self._send(records[-1]._replace(headers=headers))

    def _content(self, answer: Message) -> dict[str, Any]:
        self._answered = self._now()
        try:
            return _checked(json.loads(answer.data))
        except (ValueError, AttributeError):
            raise _no_object(answer) from None

    async def _content_in_steps(self, answer: Message) -> dict[str, Any]:
        """Return the content of an answer that may name very many subjects. Other work is done meanwhile."""
        self._answered = self._now()
        work = read_counts(answer.data)
        try:
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    content = end.value
                    break
                await asyncio.sleep(0)
            return _checked(content)
        except (ValueError, AttributeError):
            raise _no_object(answer) from None

    def _hop_if_silent(self) -> None:
        """Try another server if this one has answered nothing for long: it may be cut off from the others."""
        if self._connection.connected and self._now() - self._answered > HOP_SECONDS:
            self._answered = self._now()
            self._connection.hop()

    # --- questions ---

    async def question(
        self, ask: Callable[..., Any], *arguments: Any, seconds: float = QUESTION_SECONDS,
        failed: Callable[[str], object] = lambda why: None,
    ) -> Any:
        """Return the answer of `ask(*arguments)`, which is asked until it answers. `failed` is called with why it has not.

        Errors: `EngineGone` after `seconds`, `RequestRefused`.
        """
        end = self._now() + seconds
        while True:
            try:
                return await ask(*arguments)
            except Unanswered as error:
                why = str(error)
                self._hop_if_silent()
            except RequestRefused as error:
                if error.code not in _AGAIN:
                    raise
                why = str(error)
            failed(why)
            if self._now() >= end:
                raise EngineGone(f"the engine does not answer: {why}")
            await _pause(_LONG_PAUSE)

    async def call(self, name: str, content: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Make one request of the API, once. Errors: `Unanswered`, `RequestRefused`."""
        again = AGAIN_SECONDS if name.startswith(_QUESTIONS) else inf
        try:
            (answer,) = await self._connection.request(f"$JS.API.{name}", _json(content), seconds, again=again)
        except NoResponders:
            raise NoResponders("JetStream is not enabled on this server, or not for this user (no responders)") from None
        return self._content(answer)

    async def _subjects(self, stream: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for subjects of a stream, once. The server names at most 100,000. Errors: `Unanswered`, `RequestRefused`."""
        (answer,) = await self._connection.request(f"$JS.API.STREAM.INFO.{stream}", _json(content), ANSWER_SECONDS)
        return await self._content_in_steps(answer)

    async def info(self, stream: str, subjects: str | None = None) -> dict[str, Any]:
        """Return what the leader says of a stream; with how many records each of `subjects` (a pattern) has, if it is given."""
        if subjects is None:
            found: dict[str, Any] = await self.question(self.call, f"STREAM.INFO.{stream}", {})
            found["state"]["subjects"] = {}
            return found
        content = {"subjects_filter": subjects}
        found = await self.question(self._subjects, stream, content)
        counts: dict[str, int] = found["state"].get("subjects") or {}
        while found.get("total", 0) > len(counts):
            page = await self.question(self._subjects, stream, {**content, "offset": len(counts)})
            more = page["state"].get("subjects") or {}
            if not more:
                break
            counts.update(more)
        found["state"]["subjects"] = counts
        return found

    async def leader_last(self, stream: str, subject: str) -> Found | None:
        """Return the last record of a subject, as the leader has it."""
        return await self._of_leader(stream, {"last_by_subj": subject})

    async def leader_next(self, stream: str, subject: str, after: int) -> Found | None:
        """Return the first record of a subject behind a sequence, as the leader has it."""
        return await self._of_leader(stream, {"next_by_subj": subject, "seq": after + 1})

    async def _of_leader(self, stream: str, content: Mapping[str, Any]) -> Found | None:
        try:
            answer = await self.question(self.call, f"STREAM.MSG.GET.{stream}", content)
        except RequestRefused as error:
            if error.code in _NOT_FOUND:
                return None
            raise
        return _stored_message(answer["message"])

    async def next_page(self, stream: str, subjects: str, after: int, at_most: int) -> RecordPage:
        """Return records of a pattern behind a sequence, from any replica: about `at_most` bytes, at least one if it has one."""
        content = {"next_by_subj": subjects, "seq": after + 1, "batch": _PAGE_RECORDS, "max_bytes": min(at_most, _PAGE_BYTES)}
        page: RecordPage = await self.question(self._page, stream, content)
        return page

    async def last_of(
        self, stream: str, pattern: str, data: bool = True, behind: tuple[str, int] | None = None,
    ) -> list[Found]:
        """Return the last record of each subject of a pattern, from any replica; without its data, if `data` is false.

        `behind`: a subject and sequence that every answer must have: where there are several, another replica may give each.
        """
        try:
            return await self._last_of(stream, [pattern], data)
        except RequestRefused as error:
            if error.code != 413:
                raise
        subjects = sorted((await self.info(stream, pattern))["state"]["subjects"])
        found: list[Found] = []
        for first in range(0, len(subjects), _PAGE_SUBJECTS):
            wanted = subjects[first : first + _PAGE_SUBJECTS]
            some = await self._last_of(stream, [*{*wanted, *((behind[0],) if behind else ())}], data)
            if behind and not any(each.subject == behind[0] and each.sequence >= behind[1] for each in some):
                return some  # this replica is behind
            found += [each for each in some if behind is None or each.subject in wanted]
        return sorted(found, key=_sequence)

    async def _last_of(self, stream: str, subjects: list[str], data: bool) -> list[Found]:
        found: list[Found] = []
        content: dict[str, Any] = {"multi_last": subjects, "batch": _PAGE_RECORDS, "max_bytes": _PAGE_BYTES}
        while True:
            page: RecordPage = await self.question(self._page, stream, content)
            found += page.records if data else [record._replace(data=b"") for record in page.records]
            if not page.more:
                return found
            content = {**content, "seq": found[-1].sequence + 1}

    async def _page(self, stream: str, content: Mapping[str, Any]) -> RecordPage:
        """Read once. Raises `Unanswered`, also if a record was lost on the way; `RequestRefused` with a status as its code."""
        answers = await self._connection.request(f"$JS.API.DIRECT.GET.{stream}", _json(content), ANSWER_SECONDS, many=True)
        self._answered = self._now()
        *messages, end = answers
        if end.status == 404:
            return RecordPage([], False)
        if end.status != 204:
            raise RequestRefused(end.status, end.headers.get("Description", "refused"))
        before = "0"
        for message in messages:
            if message.headers.get("Nats-Last-Sequence") != before:
                raise Unanswered("a part of the answer was lost")
            before = message.headers.get("Nats-Sequence", "")
        if end.headers.get("Nats-Last-Sequence") != before:
            raise Unanswered("a part of the answer was lost")
        return RecordPage(list(map(_found, messages)), end.headers.get("Nats-Num-Pending", "0") != "0")

    # --- removal ---

    async def delete(self, stream: str, sequence: int) -> None:
        """Remove a record, which may be gone already. Errors: `Unanswered`, `RequestRefused`."""
        try:
            await self.call(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
        except RequestRefused as error:
            if error.code not in (10037, 10043, 10057):
                raise

    async def purge(self, stream: str, subject: str, up_to: int) -> None:
        """Remove the records of a subject up to a sequence. Errors: `Unanswered`, `RequestRefused`."""
        await self.call(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": up_to + 1})


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an answer. Raises `RequestRefused`; `AttributeError` if it is no object."""
    error = content.get("error")
    if error:
        raise RequestRefused(int(error.get("err_code", 0)), str(error.get("description", "refused")))
    return content


def _no_object(answer: Message) -> Unanswered:
    return Unanswered(f"the answer is no JSON object: {answer.data[:80]!r}")


def _raise_unless_transient(error: RequestRefused) -> None:
    if error.code in _FULL or (error.code == _STORE_FAILED and "maximum" in str(error)):
        raise EngineFull(f"the engine is full: {error}") from error
    if error.code not in _AGAIN:
        raise error


def expecting(subject: str, sequence: int) -> dict[str, str]:
    """Return the headers by which a record is refused unless `sequence` is the last of `subject` (0: it has none)."""
    return {"Nats-Expected-Last-Subject-Sequence": str(sequence), "Nats-Expected-Last-Subject-Sequence-Subject": subject}


def _of_batch(record: Record, batch: str, number: int) -> dict[str, str]:
    return {**record.headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}


def _found(message: Message) -> Found:
    return Found(message.headers["Nats-Subject"], int(message.headers["Nats-Sequence"]), message.headers, message.data)


def _stored_message(content: Mapping[str, Any]) -> Found:
    """Return a record of an answer in JSON: headers and data are in Base64."""
    lines = b64decode(content.get("hdrs", "")).decode("utf-8", "replace").split("\r\n")[1:]
    headers = {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
    return Found(content["subject"], int(content["seq"]), headers, b64decode(content.get("data", "")))


def _sequence(found: Found) -> int:
    return found.sequence


async def _pause(seconds: float) -> None:
    """Wait about so long: nodes that were refused at the same moment come again at different ones."""
    await asyncio.sleep(random.uniform(0.5, 1.5) * seconds)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() if content else b""
