"""The room that is kept in a stream."""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.jetstream_api import AGAIN_SECONDS, ANSWER_SECONDS, JetStreamAPI
from s2sgw.cluster.requests import Message
from s2sgw.cluster.stream_room import LOOK_SECONDS, StreamRoom
from tests.support.scripted_requests import SILENCE, ScriptedRequests, error, json_message
from tests.support.simulated_loop import SimulatedLoop


def holding(size: int) -> Message:
    return json_message({"state": {"bytes": size}, "config": {"max_bytes": 1000}})


class StreamRoomTests(SynchronousTestCase):
    """One stream of 1,000 bytes."""

    def answers(self, *script: Any) -> list[bool]:
        """Return what is said at first, and after each answer of the server."""
        loop = SimulatedLoop()
        self.requests = ScriptedRequests(loop, *script)
        room = StreamRoom(JetStreamAPI(self.requests, loop.time), loop.time, loop.create_task)  # type: ignore[arg-type]

        async def run() -> list[bool]:
            said = []
            for _ in range(len(script) + 1):
                said += [room.has_room("S"), room.has_room("S")]
                await asyncio.sleep(LOOK_SECONDS * 3)
            return said[::2]

        return loop.run(run())

    def test_room(self) -> None:
        """Nine tenths are for stanzas. A stream that has room again is found at the next look."""
        self.assertEqual(self.answers(holding(900), holding(901), holding(900)), [True, True, False, True])

    def test_no_answer(self) -> None:
        """The last look counts while the server does not answer."""
        silence = [SILENCE] * round(ANSWER_SECONDS / AGAIN_SECONDS)  # one question, which is sent so often
        said = self.answers(holding(901), *silence, error(10008), holding(1))
        self.assertEqual(said[:5], [True, False, False, False, True])

    def test_looks(self) -> None:
        """A stream is not looked at again within a second, and only if it is asked for."""
        self.answers(holding(1), holding(1))
        self.assertEqual([request.at for request in self.requests.made], [0, 3, 6])
