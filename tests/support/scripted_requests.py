"""A connection to the engine's servers that answers by a script, and tests on it."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.engine import EngineFull, EngineGone
from s2sgw.cluster.jetstream_api import ID, JetStreamAPI, RequestRefused
from s2sgw.cluster.requests import Message, Requests, Unanswered
from tests.support.simulated_loop import SimulatedLoop


class Request:
    """A request that was made, at a time."""

    def __init__(self, at: float, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        self.at = at
        self.subject = subject
        self.data = data
        self.headers = headers

    @property
    def content(self) -> Any:
        return json.loads(self.data or b"{}")


class ScriptedRequests(Requests):
    """Answers requests by a script: each in turn, the last of them forever. An exception comes when the time of a request is over.

    A request that is sent again takes the next answer.
    """

    connected = True

    def __init__(self, loop: SimulatedLoop, *script: Any) -> None:
        self.loop = loop
        self.script = deque(script)
        self.made: list[Request] = []
        self.published: list[Request] = []
        self.hops: list[float] = []

    async def wait_up(self, seconds: float) -> None:
        return

    def hop(self) -> None:
        self.hops.append(self.loop.time())

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        self.published.append(Request(self.loop.time(), subject, data, headers or {}))

    async def request(
        self, subject: str, data: bytes, seconds: float, headers: Mapping[str, str] | None = None, many: bool = False,
        again: float = inf,
    ) -> Sequence[Message]:
        end = self.loop.time() + seconds
        while isinstance(answer := self._answer(Request(self.loop.time(), subject, data, headers or {})), Exception):
            left = end - self.loop.time()
            await asyncio.sleep(min(again, left))
            if left <= again:
                raise answer
        return [answer] if isinstance(answer, Message) else answer

    def _answer(self, request: Request) -> Any:
        self.made.append(request)
        answer = self.script.popleft() if len(self.script) > 1 else self.script[0]
        return answer(request) if callable(answer) else answer


SILENCE = Unanswered("silence")


def ack(sequence: int, **more: Any) -> Message:
    return json_message({"stream": "S", "seq": sequence, **more})


def error(code: int, text: str = "no") -> Message:
    return json_message({"error": {"code": 400, "err_code": code, "description": text}})


def json_message(content: Any) -> Message:
    return Message("", "", {}, json.dumps(content).encode(), 0)


def stored(subject: str, sequence: int, identity: str, data: bytes = b"x") -> Message:
    headers = b64encode(f"NATS/1.0\r\n{ID}: {identity}\r\nS2S-a: b:c\r\n\r\n".encode()).decode()
    return json_message({"message": {"subject": subject, "seq": sequence, "hdrs": headers, "data": b64encode(data).decode()}})


NOT_FOUND = error(10037)


def page(*sequences: int, more: int = 0, before: int = 0, last: int | None = None) -> list[Message]:
    messages = []
    for sequence in sequences:
        headers = {"Nats-Subject": f"s.{sequence}", "Nats-Sequence": str(sequence), "Nats-Last-Sequence": str(before)}
        messages.append(Message("", "", headers, b"data", 0))
        before = sequence
    end = {"Nats-Num-Pending": str(more), "Nats-Last-Sequence": str(before if last is None else last), "Status": "204"}
    return [*messages, Message("", "", end, b"", 204)]


def status(number: int) -> list[Message]:
    return [Message("", "", {"Status": str(number), "Description": "words"}, b"", number)]


class APITests(SynchronousTestCase):
    """An interface on scripted answers."""

    def ask(self, question: Callable[[JetStreamAPI], Any], *script: Any) -> Any:
        """Return the result of a call, or its error."""
        self.loop = SimulatedLoop()
        self.requests = ScriptedRequests(self.loop, *script)
        api = JetStreamAPI(self.requests, self.loop.time)

        async def run() -> Any:
            try:
                return await question(api)
            except (EngineGone, EngineFull, RequestRefused) as failure:
                return failure

        return self.loop.run(run())

    @property
    def subjects(self) -> list[str]:
        return [request.subject for request in self.requests.made]
