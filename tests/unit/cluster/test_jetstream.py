"""The engine on a scripted connection: late copies of appends. tests/integration/test_jetstream.py has real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import jetstream
from s2sgw.cluster.engine import LaneRecord
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.requests import Message
from s2sgw.cluster.subjects import home_subject
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.scripted_requests import SILENCE, Request, ScriptedRequests, ack, json_message
from tests.support.simulated_loop import SimulatedLoop

PAIR = Pair(Domain.parse("a.example"), Domain.parse("b.example"))
PEER = PAIR.recipient
HOME = home_subject(PEER)


class Connection(ScriptedRequests):
    """A scripted connection, which runs coroutines on the loop."""

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.loop.create_task(coroutine)


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
