"""Appends behind a home record: a copy of a write that comes after the server has forgotten its id has no effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineError, EngineFull, Fence, Fenced
from s2sgw.cluster.fenced_writes import FencedWrites
from s2sgw.cluster.jetstream_api import ID, WRONG_SEQUENCE, JetStreamAPI, Record
from s2sgw.cluster.requests import Message
from s2sgw.cluster.subjects import home_subject, spool_stream
from s2sgw.xmpp.jid import Domain
from tests.support.scripted_requests import NOT_FOUND, SILENCE, Request, ScriptedRequests, ack, error, stored
from tests.support.simulated_loop import SimulatedLoop

PEER = Domain.parse("b.example")
HOME = home_subject(PEER)
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_FULL = error(10023, "insufficient resources")
_OTHER = error(10054, "refused")


def lane(identity: str) -> Record:
    return Record("s.lane", {ID: identity}, b"data")


class Server:
    """A stream that checks home records and ids.

    `answers` of the next writes: True, an error, False (it is stored, and not answered), or None (it waits on its way). Of a write
    without an answer a copy may come.
    """

    def __init__(self) -> None:
        self.records: list[tuple[int, str, str]] = []
        self.copies: list[Request] = []
        self.ids: dict[str, int] = {}
        self.answers: list[Any] = []
        self.removed: list[tuple[str, int]] = []

    def __call__(self, request: Request) -> Any:
        if "MSG.GET" in request.subject:
            wanted = request.content
            for sequence, subject, identity in self.records:
                if subject == wanted["next_by_subj"] and sequence >= wanted["seq"]:
                    return stored(subject, sequence, identity)
            return NOT_FOUND
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Message):
            return answer
        if answer is True:
            return self.publish(request)
        self.copies.append(request)
        if answer is False:
            self.publish(request)
        return SILENCE

    def publish(self, request: Request) -> Message:
        """Store a record, unless it is known, or the home is another."""
        identity = request.headers[ID]
        if identity in self.ids:
            return ack(self.ids[identity], duplicate=True)
        if int(request.headers[_EXPECTED]) != self.home:
            return error(WRONG_SEQUENCE, "wrong last sequence")
        sequence = len(self.records) + 1
        self.records.append((sequence, request.subject, identity))
        self.ids[identity] = sequence
        return ack(sequence)

    @property
    def home(self) -> int:
        """Return the sequence of the home record."""
        return max((sequence for sequence, subject, _ in self.records if subject == HOME), default=0)

    def claim(self) -> None:
        """Let another node be the home."""
        self.records.append((len(self.records) + 1, HOME, "other"))

    def late_copies(self) -> None:
        """Let the copies of appends come after the server has forgotten their ids."""
        self.ids.clear()
        for request in [request for request in self.copies if request.subject != HOME]:
            self.publish(request)

    @property
    def lane(self) -> list[str]:
        """Return the ids of the records of the lane."""
        return [identity for _, subject, identity in self.records if subject != HOME]


class FencedWritesTests(SynchronousTestCase):
    """The writes of one node, whose first claim is answered."""

    def run_on(self, server: Server, calls: Callable[[FencedWrites, Fence], Coroutine[Any, Any, Any]]) -> Any:
        loop = SimulatedLoop()
        requests = ScriptedRequests(loop, server)

        async def run() -> Any:
            writes = FencedWrites(JetStreamAPI(requests, loop.time), lambda stream, sequence: server.removed.append((stream, sequence)))
            fence = Fence(PEER, await writes.claim(PEER, b"home", 0))
            return await calls(writes, fence)

        self.requests = requests
        return loop.run(run())

    def appended(self, server: Server, *answers: Any, settled: bool = True) -> list[Any]:
        """Return the answers of two appends. `answers` are those of the server."""
        async def calls(writes: FencedWrites, fence: Fence) -> list[Any]:
            server.answers += answers
            found: list[Any] = []
            for identity in ("one", "two"):
                try:
                    found.append(await writes.append(fence, [lane(identity)], 0))
                except EngineError as failure:
                    found.append(type(failure))
                if settled:
                    await writes.settle(PEER)
            return found

        return list(self.run_on(server, calls))

    def homes(self, server: Server) -> int:
        return sum(subject == HOME for _, subject, _ in server.records)

    def test_answered(self) -> None:
        """Without a doubt the home record is written once, by the claim."""
        server = Server()
        self.assertEqual((self.appended(server), self.homes(server), server.removed), ([[2], [3]], 1, []))

    def test_late_copy(self) -> None:
        """A copy of an append is refused after the home record was written again; the former home record is removed."""
        server = Server()
        self.assertEqual(self.appended(server, False, True), [[2], [4]])
        server.late_copies()
        self.assertEqual((server.lane, self.homes(server), server.removed), (["one", "two"], 2, [(spool_stream(PEER), 1)]))

    def test_late_copy_before_the_next_append(self) -> None:
        """If the home record was not written behind an append, it is written before the next one."""
        server = Server()
        self.assertEqual(self.appended(server, False, settled=False), [[2], [4]])
        server.late_copies()
        self.assertEqual(server.lane, ["one", "two"])

    def test_the_last_append(self) -> None:
        """A copy of the last append of a peer does not come either: a stanza that was removed is not there again."""
        server = Server()
        self.appended(server, True, False)
        server.late_copies()
        self.assertEqual(server.lane, ["one", "two"])

    def test_full_home(self) -> None:
        """An engine that refuses the home record is asked again before the next append, which has no effect until then."""
        server = Server()
        self.assertEqual(self.appended(server, False, True, _FULL, _FULL), [[2], EngineFull])
        self.assertEqual((server.lane, self.homes(server)), (["one"], 2))

    def test_refused_in_doubt(self) -> None:
        """A refusal after an attempt without an answer: its copy is found, or is refused from then on."""
        for refusal, kind in ((_FULL, EngineFull), (_OTHER, None)):
            server = Server()
            self.assertEqual(self.appended(server, False, refusal)[0], [2])
            server = Server()
            outcome = self.appended(server, None, refusal)
            self.assertTrue(kind is None or outcome[0] is kind)
            server.late_copies()
            self.assertEqual((server.lane, outcome[1]), (["two"], [3]))

    def test_stored_behind_the_refusal(self) -> None:
        """A copy that is stored between the refusal and the home record is found: the append had its effect."""
        class Slow(Server):
            def __call__(self, request: Request) -> Any:
                if request.subject == HOME and self.copies and "one" not in self.ids and self.home:
                    self.publish(self.copies[-1])
                return super().__call__(request)

        server = Slow()
        self.assertEqual(self.appended(server, None, _FULL)[0], [2])
        self.assertEqual((server.lane, self.homes(server)), (["one", "two"], 2))

    def test_another_home(self) -> None:
        """A node whose peer was claimed by another one meanwhile writes neither a record nor the home record."""
        server = Server()

        async def calls(writes: FencedWrites, fence: Fence) -> Sequence[type]:
            server.answers.append(False)
            await writes.append(fence, [lane("one")], 0)
            server.claim()
            found = []
            for identity in ("two", "three"):
                try:
                    await writes.append(fence, [lane(identity)], 0)
                except EngineError as failure:
                    found.append(type(failure))
                await writes.settle(PEER)
            return found

        self.assertEqual(self.run_on(server, calls), [Fenced, Fenced])
        self.assertEqual((server.lane, server.home), (["one"], 3))

    def test_in_doubt(self) -> None:
        """Records that got no answer may have been stored, delivered and removed when another node is the home. Others were not stored."""
        server = Server()

        async def append(writes: FencedWrites, fence: Fence, identity: str) -> bool:
            try:
                await writes.append(fence, [lane(identity)], 0)
            except Fenced as failure:
                return failure.in_doubt
            raise AssertionError

        async def calls(writes: FencedWrites, fence: Fence) -> Any:
            server.answers += [None, error(WRONG_SEQUENCE, "wrong last sequence")]
            found = [await append(writes, fence, "one")]
            server.claim()
            return [*found, await append(writes, fence, "two")]

        self.assertEqual(self.run_on(server, calls), [True, False])

    def test_claimed_again(self) -> None:
        """A claim, or a release, on the fence is one on the home record that stands for it, also after one that was refused."""
        server = Server()

        async def calls(writes: FencedWrites, fence: Fence) -> Any:
            server.answers.append(False)
            await writes.append(fence, [lane("one")], 0)
            await writes.settle(PEER)
            server.answers.append(_FULL)
            try:
                await writes.claim(PEER, b"released", fence.sequence)
            except EngineFull:
                self.assertEqual(await writes.append(fence, [lane("two")], 0), [4])
            return await writes.claim(PEER, b"released", fence.sequence)

        self.assertEqual((self.run_on(server, calls), server.home, server.lane), (5, 5, ["one", "two"]))
        self.assertEqual([sequence for _, sequence in server.removed], [1, 3])

    def test_claimed_while_it_is_written(self) -> None:
        """A claim waits for the home record that is being written: this node is no rival of itself."""
        server = Server()

        async def calls(writes: FencedWrites, fence: Fence) -> Any:
            server.answers.append(False)
            await writes.append(fence, [lane("one")], 0)
            server.answers.append(False)
            settling = asyncio.ensure_future(writes.settle(PEER))
            await asyncio.sleep(0.01)
            claimed = await writes.claim(PEER, b"released", fence.sequence)
            await settling
            return claimed

        self.assertEqual((self.run_on(server, calls), server.home), (4, 4))
