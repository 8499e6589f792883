"""A party: one domain's server, on either side of the gateway. It sends numbered stanzas and notes those that arrive."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import ssl
import time
import xml.etree.ElementTree as ET
from collections import deque

from tests.durability.account import Mark, Pair
from tests.durability.unread import Connection, Reading
from tests.durability.wire import SM, STANZAS, Wire, WireError

_PING = "{urn:xmpp:ping}ping"
_LOST = (OSError, WireError, TimeoutError, ET.ParseError, asyncio.IncompleteReadError)
#: Seconds between two looks at what is to be sent, and between two attempts to connect.
TICK, RETRY = 0.01, 0.05
#: Stanzas that a sender with XEP-0198 leaves unacknowledged.
UNACKNOWLEDGED = 5000
#: The part of the stanzas that are IQs.
QUERIES = 0.05


_streams = itertools.count(1)


class Sender:
    """Sends to one other domain through the gateway's listener at `port`, whenever there is a stream."""

    def __init__(
        self, pair: Pair, me: str, them: str, port: int, context: ssl.SSLContext, rate: float, to: str, reading: Reading,
    ) -> None:
        self.pair = pair
        self.me, self.them = me, them
        self.rate = rate
        self.to = to
        self.sending = True
        self.unacknowledged: deque[int] = deque()
        self._port = port
        self._context = context
        self._reading = reading
        self._answers: list[str] = []
        self._due = 0.0

    async def run(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(*_LOST):
                await self._live()
            await asyncio.sleep(RETRY)

    async def _live(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        wire = Wire(reader, writer)
        self._connection = self._reading.watch(Connection(writer.get_extra_info("sockname")[1], self._port))
        try:
            managed = await wire.initiate(self.them, self.me, self._context, self.pair.managed)
            if self.pair.managed and not managed:
                raise WireError("no XEP-0198")
            self._again(wire)
            listening = asyncio.create_task(self._listen(wire))
            try:
                await self._talk(wire, listening)
            finally:
                listening.cancel()
        finally:
            self._reading.forget(self._connection)
            wire.close()

    def _again(self, wire: Wire) -> None:
        """XEP-0198: what was not acknowledged on the stream before; an IQ is never sent twice."""
        self.pair.withdrawn.update(number for number in self.unacknowledged if number in self.pair.queries)
        self.unacknowledged = deque(
            number for number in self.unacknowledged if number >= 0 and number not in self.pair.queries
        )
        for number in self.unacknowledged:
            self._put(wire, number)
        self.pair.resent.update(self.unacknowledged)
        if self.unacknowledged:
            wire.send(f"<r xmlns='{SM}'/>")

    async def _talk(self, wire: Wire, listening: asyncio.Task[None]) -> None:
        last = time.monotonic()
        while not wire.closed and not listening.done():
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self._due, last = min(self._due + (now - last) * self.rate, 1000.0), now
            self._send_due(wire)
            await wire.writer.drain()
        if wire.closed:
            wire.send("</stream:stream>")
            with contextlib.suppress(*_LOST):
                async with asyncio.timeout(5):
                    while True:
                        await wire.read()

    def _send_due(self, wire: Wire) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            self._count(wire, answer)
        if not self.sending or wire.closed or wire.writer.is_closing() or len(self.unacknowledged) > UNACKNOWLEDGED:
            return
        number, self._due = int(self._due), self._due % 1
        for _ in range(number):
            self._new(wire)
        if number and self.pair.managed:
            wire.send(f"<r xmlns='{SM}'/>")

    def _count(self, wire: Wire, answer: str) -> None:
        """An answer is counted by XEP-0198 too; it is not sent again."""
        if self.pair.managed:
            self.unacknowledged.append(-1)
        wire.send(answer)

    def _new(self, wire: Wire) -> None:
        number = len(self.pair.sent)
        if self.to.startswith("u@") and random.random() < QUERIES:
            self.pair.queries.add(number)
        self.pair.sent.append(time.time())
        if self.pair.managed:
            self.unacknowledged.append(number)
        self._put(wire, number)

    def _put(self, wire: Wire, number: int) -> None:
        wire.send(self._stanza(number))
        self.pair.marks[number] = Mark(self._connection, wire.written)

    def _stanza(self, number: int) -> str:
        addresses = f"from='u@{self.me}/r' to='{self.to}' id='n{number}'"
        if number in self.pair.queries:
            return f"<iq type='get' {addresses}><query xmlns='urn:example:crash'/></iq>"
        return f"<message type='chat' {addresses}><body>{'nothing is lost ' * (number % 30)}</body></message>"

    async def _listen(self, wire: Wire) -> None:
        with contextlib.suppress(*_LOST):
            while not wire.closed:
                for element in await wire.read():
                    if element.tag == f"{{{SM}}}a":
                        self._acknowledged(int(element.get("h", "0")), wire)
                    elif element.tag == f"{{{SM}}}r":
                        wire.send(f"<a xmlns='{SM}' h='0'/>")

    def _acknowledged(self, h: int, wire: Wire) -> None:
        for _ in range(h - wire.acknowledged):
            self.unacknowledged.popleft()
        wire.acknowledged = h

    def owing(self) -> bool:
        """Something is still to be acknowledged."""
        return any(number >= 0 for number in self.unacknowledged)

    def answer(self, text: str) -> None:
        """To be sent on this stream when there is one."""
        if len(self._answers) < 100:
            self._answers.append(text)


class Receiver:
    """Listens at `port` for one domain; may be shut for a while, or answer no ping (`silent`)."""

    def __init__(self, me: str, port: int, context: ssl.SSLContext, managed: bool) -> None:
        self.me = me
        self.port = port
        self.managed = managed
        self.shut = self.silent = False
        self.pairs: dict[str, Pair] = {}
        self.senders: dict[str, Sender] = {}
        self._context = context
        self._open: set[Wire] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    def close_up(self) -> None:
        """Drop every stream and take no more."""
        self.shut = True
        for wire in list(self._open):
            wire.writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.shut:
            writer.transport.abort()
            return
        wire = Wire(reader, writer)
        self._open.add(wire)
        try:
            with contextlib.suppress(*_LOST):
                them, _ = await wire.receive(self._context, self.managed)
                await self._hear(wire, them)
        finally:
            self._open.discard(wire)
            wire.close()

    async def _hear(self, wire: Wire, them: str) -> None:
        count, counting, stream = 0, False, next(_streams)
        while not wire.closed:
            for element in await wire.read():
                if element.tag in STANZAS:
                    count += 1
                    self._note(element, them, stream)
                elif element.tag == f"{{{SM}}}enable":
                    count, counting = 0, self.managed
                    wire.send(f"<enabled xmlns='{SM}'/>")
                elif element.tag == f"{{{SM}}}r" and counting:
                    wire.send(f"<a xmlns='{SM}' h='{count}'/>")
        wire.send("</stream:stream>")

    def _note(self, element: ET.Element, them: str, stream: int) -> None:
        number = element.get("id", "")
        if element.get("type") == "error":
            self.senders[them].pair.bounced.add(int(number[1:]))
        elif element.find(_PING) is not None:
            if not self.silent:
                self.senders[them].answer(f"<iq type='result' id='{number}' from='{self.me}' to='{them}'/>")
        elif number.startswith("n"):
            self.pairs[them].arrived.append(int(number[1:]))
            self.pairs[them].on.append(stream)
