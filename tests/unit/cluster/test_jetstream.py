"""The engine on a scripted connection: its streams at a start, and late copies of appends. tests/integration/test_jetstream.py has real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import jetstream
from s2sgw.cluster.engine import EngineError, EngineGone, LaneRecord, NoReceiver
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.requests import Message, NoResponders, Unanswered
from s2sgw.cluster.stream_setup import wanted_streams
from s2sgw.cluster.subjects import PEN_STREAM, home_subject
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.scripted_requests import SILENCE, Request, ScriptedRequests, ack, error, json_message
from tests.support.simulated_loop import SimulatedLoop

PAIR = Pair(Domain.parse("a.example"), Domain.parse("b.example"))
PEER = PAIR.recipient
HOME = home_subject(PEER)


class Connection(ScriptedRequests):
    """A scripted connection, which runs coroutines on the loop."""

    unfit = None

    def __init__(self, loop: SimulatedLoop, *script: Any) -> None:
        super().__init__(loop, *script)
        self.told: list[str] = []

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.loop.create_task(coroutine)

    def open(self) -> None:
        """It is connected already."""

    def tell(self, reason: str) -> None:
        self.told.append(reason)


class StreamTests(SynchronousTestCase):
    """The streams at a start, on servers that have `streams`."""

    def setUp(self) -> None:
        self.loop = SimulatedLoop()
        self.addCleanup(self.loop.close)
        self.connection = Connection(self.loop, self.answer)
        self.patch(jetstream, "NATSConnection", lambda *arguments: self.connection)
        self.engine = JetStreamEngine(["nats://192.0.2.1"], self.loop, record_bytes=1000, shard_bytes=1000)
        self.streams = {stream["name"]: {**stream, "num_replicas": 1} for stream in wanted_streams(1, 1000)}
        self.refusal: Message | Exception | None = None
        self.changes: list[str] = []

    def answer(self, request: Request) -> Message | Exception:
        what, _, name = request.subject.removeprefix("$JS.API.STREAM.").partition(".")
        if what != "INFO":
            self.changes.append(f"{what} {name}")
            if self.refusal is not None:
                return self.refusal
            self.streams[name] = request.content
        found = self.streams.get(name)
        return error(10059) if found is None else json_message({"config": found})

    def test_lost(self) -> None:
        """A stream is missing if the server that decides says so. What does not answer is unknown, and hides no stream that is missing."""
        async def missing() -> Sequence[str]:
            return await Deferred.fromCoroutine(self.engine.missing()).asFuture(self.loop)

        def all_but_one(request: Request) -> Message | Exception:
            return NoResponders("nobody") if request.subject.endswith("_7") else self.answer(request)

        async def run() -> None:
            self.assertEqual(await missing(), [])
            self.connection.script[0] = all_but_one
            with self.assertRaises(EngineGone):
                await missing()
            del self.streams[PEN_STREAM], self.streams["S2SGW_SPOOL_2"]
            self.assertEqual(await missing(), ["S2SGW_SPOOL_2", PEN_STREAM])

        self.loop.run(run())

    def test_elected(self) -> None:
        """Streams without a leader are waited for, each in its own time. One that gets none is not waited for longer."""
        leaders = {"S2SGW_SPOOL_3": 4.0, "S2SGW_BOOK": 9.0, "S2SGW_PEN": 100.0}  # when they are elected

        def by_leaders(request: Request) -> Message | Exception:
            name = request.subject.rpartition(".")[2]
            return self.answer(request) if request.at >= leaders.get(name, 0.0) else SILENCE

        async def elected() -> tuple[bool, float]:
            began = self.loop.time()
            found = await Deferred.fromCoroutine(self.engine.elected(10.0)).asFuture(self.loop)
            return found, self.loop.time() - began

        async def run() -> None:
            self.connection.script[0] = by_leaders
            found, seconds = await elected()
            self.assertTrue(found and 9 <= seconds <= 10, seconds)  # it is asked again after some tenths of a second
            found, seconds = await elected()
            self.assertTrue(found and seconds < 0.5, seconds)
            leaders["S2SGW_SPOOL_3"] = 1000.0
            found, seconds = await elected()
            self.assertFalse(found)
            self.assertTrue(10 <= seconds <= 12)

        self.loop.run(run())

    def test_leader_without_a_majority(self) -> None:
        """A leader without contact to another copy goes on answering, and does not count. One with contact to one of two does.

        The server writes 0 s for a copy that the leader has never seen.
        """
        def contact(*seconds: float, **more: bool) -> Callable[[Request], Message]:
            replicas = [{"name": "n", "current": True, "active": round(each * 1e9), **more} for each in seconds]
            return lambda request: json_message({"cluster": {"leader": "n0", "replicas": replicas}})

        async def elected() -> bool:
            return await Deferred.fromCoroutine(self.engine.elected(2.0)).asFuture(self.loop)

        async def run() -> None:
            for seconds, expected in (((0.0, 0.9), True), ((0.9, 8.0), True), ((3.1, 8.0), False), ((), True)):
                self.connection.script[0] = contact(*seconds)
                self.assertEqual(expected, await elected(), seconds)
            self.connection.script[0] = contact(0.0, 8.0)
            self.assertFalse(await elected(), "never seen")
            self.connection.script[0] = contact(0.9, 0.9, offline=True)
            self.assertFalse(await elected(), "offline")

        self.loop.run(run())

    def test_no_receiver(self) -> None:
        """A question without a receiver is told apart from one without an answer."""
        async def asked(error: Exception) -> None:
            self.connection.script[0] = lambda request: error
            await Deferred.fromCoroutine(self.engine.ask("b", b"question")).asFuture(self.loop)

        async def run() -> None:
            with self.assertRaises(NoReceiver):
                await asked(NoResponders("nobody"))
            with self.assertRaises(EngineGone) as gone:
                await asked(Unanswered("late"))
            self.assertNotIsInstance(gone.exception, NoReceiver)

        self.loop.run(run())

    def test_sequences_of_a_new_stream(self) -> None:
        """They begin with the time, so that none is that of a former stream with this name."""
        del self.streams[PEN_STREAM]
        before = time.time_ns() // 1_000_000
        self.assertIsNone(self.run_both())
        first = self.streams[PEN_STREAM]["first_seq"]
        self.assertTrue(before <= first <= time.time_ns() // 1_000_000)

    def run_both(self) -> Exception | None:
        """Return the error of `open`, or else of `enlarge`. The changes of the first are in `at_first`."""
        async def run() -> Exception | None:
            try:
                await Deferred.fromCoroutine(self.engine.open(5)).asFuture(self.loop)
                self.at_first = self.changes.copy()
                await Deferred.fromCoroutine(self.engine.enlarge(5)).asFuture(self.loop)
            except EngineError as failure:
                return failure
            return None

        return self.loop.run(run())

    def test_grows(self) -> None:
        """A stream that is too small, or forgets ids too early, is changed by `enlarge` alone. One that is larger stays as large."""
        self.streams["S2SGW_SPOOL_1"]["max_bytes"] = 999
        self.streams["S2SGW_SPOOL_2"].update(max_bytes=2000, duplicate_window=1)
        self.assertIsNone(self.run_both())
        self.assertEqual(([], ["UPDATE S2SGW_SPOOL_1", "UPDATE S2SGW_SPOOL_2"]), (self.at_first, self.changes))
        self.assertEqual([1000, 2000], [self.streams[f"S2SGW_SPOOL_{number}"]["max_bytes"] for number in (1, 2)])

    def test_missing(self) -> None:
        """A stream that is missing is made, if all others can serve."""
        del self.streams["S2SGW_SPOOL_1"]
        self.assertIsNone(self.run_both())
        self.assertEqual(["CREATE S2SGW_SPOOL_1"], self.changes)

    def test_made_by_another_node(self) -> None:
        """A stream that another node makes at the same moment is waited for."""
        made, questions = self.streams.pop("S2SGW_SPOOL_1"), 0

        def answer(request: Request) -> Message | Exception:
            nonlocal questions
            if request.subject.endswith("INFO.S2SGW_SPOOL_1") and self.changes:
                questions += 1
                if questions == 3:
                    self.streams["S2SGW_SPOOL_1"] = made
            return self.answer(request)

        self.refusal = error(10058, "stream name already in use with a different configuration")
        self.connection.script[0] = answer
        self.assertIsNone(self.run_both())
        self.assertEqual(3, len(self.changes))

    def test_not_made(self) -> None:
        """A stream that cannot be made, and does not come, ends the start in time."""
        del self.streams["S2SGW_SPOOL_1"]
        self.refusal = error(10058, "stream name already in use with a different configuration")
        self.assertIn("cannot be made: no (10059)", str(self.run_both()))
        self.assertTrue(5.0 <= self.loop.time() < 7.0, self.loop.time())

    def test_unfit(self) -> None:
        """Nothing is changed if a stream cannot serve."""
        del self.streams["S2SGW_SPOOL_1"]
        self.streams[PEN_STREAM]["storage"] = "memory"
        self.assertIn("in memory", str(self.run_both()))
        self.assertEqual([], self.changes)

    def test_no_room(self) -> None:
        """A refusal because there is no room tells how much is needed."""
        for code, words in ((10047, "insufficient storage resources available"), (10005, "no suitable peers, insufficient storage")):
            self.setUp()
            del self.streams["S2SGW_SPOOL_1"]
            self.refusal = error(code, words)
            self.assertIn(f"it reserves 1000 bytes on the disk of each server, and all streams {8000 + (100 << 20)} bytes", str(self.run_both()))
        self.setUp()
        self.streams["S2SGW_SPOOL_1"]["max_bytes"] = 999
        self.refusal = error(10047, "insufficient storage resources available")
        self.assertIn("it reserves 1000 bytes", str(self.run_both()))

    def test_other_refusal(self) -> None:
        """Servers that are no cluster are not a matter of room. What is waited for is told."""
        del self.streams["S2SGW_SPOOL_1"]
        self.refusal = error(10005, "no suitable peers for placement")
        found = str(self.run_both())
        self.assertEqual((True, False), ("3 servers in one cluster" in found, "reserves" in found), found)
        self.assertIn("no suitable peers for placement (10005)", self.connection.told)

    def test_no_jetstream(self) -> None:
        """A server without JetStream is told while it is waited for, and at the end."""
        self.connection.script[0] = lambda request: NoResponders("")
        self.assertIn("JetStream is not enabled on this server", str(self.run_both()))
        self.assertIn("JetStream is not enabled on this server", self.connection.told[0])


class DoubtTests(SynchronousTestCase):
    """Appends of which an attempt had no answer."""

    def test_home_record_is_written_behind_it(self) -> None:
        """The append is answered first. Then the home record is written, and the next append expects that one."""
        loop = SimulatedLoop()
        writes: list[Request] = []
        answered: list[tuple[float, Sequence[int]]] = []

        def answer(request: Request) -> Message | Exception | list[Message]:
            if "DIRECT.GET" in request.subject:
                found = {"Nats-Subject": HOME, "Nats-Sequence": "1", "Nats-Last-Sequence": "0"}
                end = {"Nats-Num-Pending": "0", "Nats-Last-Sequence": "1", "Status": "204"}
                return [Message("", "", found, b"", 0), Message("", "", end, b"", 204)]
            if "$JS" in request.subject:
                return json_message({"success": True})
            writes.append(request)
            return SILENCE if len(writes) in (2, 4) else ack(len(writes))

        connection = Connection(loop, answer)
        self.patch(jetstream, "NATSConnection", lambda *arguments: connection)
        engine = JetStreamEngine(["nats://192.0.2.1"], loop, record_bytes=1000, shard_bytes=1000)
        connection.max_payload = 1 << 20  # type: ignore[attr-defined]

        async def run() -> None:
            fence, _ = await Deferred.fromCoroutine(engine.claim(PEER, b"home", 0)).asFuture(loop)
            for identity in ("one", "two"):
                call = Deferred.fromCoroutine(engine.append(fence, [LaneRecord(PAIR, {}, b"x")], identity))
                answered.append((loop.time(), await call.asFuture(loop)))
            await asyncio.sleep(10)

        loop.run(run())
        expected = [(each.subject == HOME, each.headers["Nats-Expected-Last-Subject-Sequence"]) for each in writes]
        self.assertEqual(expected, [(True, "0"), (False, "1"), (False, "1"), (True, "1"), (True, "1"), (False, "5")])
        self.assertEqual([sequences for _, sequences in answered], [[3], [6]])
