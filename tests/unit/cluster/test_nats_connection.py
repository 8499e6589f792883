"""A connection whose client breaks: it is noticed, and nothing is left. What a real server does to it is in tests/integration."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, ClassVar

from nats.errors import Error, NoServersError
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from s2sgw.cluster import nats_connection
from s2sgw.cluster.engine import EngineUnfit
from s2sgw.cluster.nats_connection import NATSConnection, _reason
from s2sgw.cluster.requests import NoResponders, Unanswered
from tests.support.simulated_loop import SimulatedLoop


class ClientStub:
    """A client that connects at once, and breaks without a word: its close fails in the middle, as nats-py's does."""

    made: ClassVar[list[ClientStub]] = []
    refused: ClassVar[list[str]] = []
    error: ClassVar[Exception] = OSError("refused")
    max_payload = 1000
    connected_server_version = SimpleNamespace(major=2, minor=15)

    def __init__(self) -> None:
        self.is_connected = False
        self._subs: dict[int, Any] = {}
        self._reading_task: asyncio.Task[None] | None = None
        self._transport = SimpleNamespace(closed=0)
        self._transport.close = lambda: setattr(self._transport, "closed", 1)
        self.published: list[tuple[str, bytes]] = []

    async def connect(self, servers: list[str], error_cb: Callable[[Exception], Awaitable[None]], **options: Any) -> None:
        if servers[0] in self.refused:
            await error_cb(self.error)
            raise NoServersError
        self.is_connected = True
        self.made.append(self)

    async def subscribe(self, subject: str, cb: Callable[[Any], Awaitable[None]], **options: Any) -> None:
        self._subs[len(self._subs)] = SimpleNamespace(
            subject=subject, cb=cb, _wait_for_msgs_task=asyncio.get_running_loop().create_task(asyncio.Event().wait()),
        )  # fmt: skip

    async def publish(self, subject: str, data: bytes, reply: str, headers: Any) -> None:
        self.published.append((subject, data))

    async def close(self) -> None:
        self._subs = {}
        raise BrokenPipeError

    async def hear(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        for each in list(self._subs.values()):
            if each.subject in (subject, f"{subject.rpartition('.')[0]}.*"):
                await each.cb(SimpleNamespace(subject=subject, reply="", data=data, headers=headers))


class ConnectionTests(SynchronousTestCase):
    """A connection to two servers."""

    def setUp(self) -> None:
        self.patch(nats_connection, "Client", ClientStub)
        self.patch(ClientStub, "made", [])
        self.patch(ClientStub, "refused", [])
        self.loop = SimulatedLoop()
        self.connection = NATSConnection(["nats://user:secret@a", "nats://b"], None, self.loop)

    def run_test(self, test: Callable[[], Awaitable[None]]) -> None:
        """Run a test, close the connection, and see that nothing is left."""
        async def run() -> None:
            self.connection.open()
            await test()
            await self.connection.close()
            await asyncio.sleep(0)
            self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})

        self.loop.run(run())
        self.assertEqual([client._transport.closed for client in ClientStub.made], [1] * len(ClientStub.made))

    def test_breaks_without_a_word(self) -> None:
        """A client that is no longer connected is replaced soon; requests on it fail, and subscriptions go along."""
        heard: list[bytes] = []

        async def test() -> None:
            self.connection.subscribe("a.b", lambda message: heard.append(message.data))
            await self.connection.wait_up(1)
            lost = asyncio.ensure_future(self.connection.request("x", b"", 60))
            await asyncio.sleep(0)
            ClientStub.made[0].is_connected = False
            with self.assertRaises(Unanswered):
                await lost
            self.assertEqual((self.connection.connected, self.loop.time() < 3), (False, True))
            await self.connection.wait_up(1)
            await ClientStub.made[1].hear("a.b", b"x")
            self.assertEqual(heard, [b"x"])

        self.run_test(test)

    def test_hop(self) -> None:
        """A connection that is given up is replaced."""
        async def test() -> None:
            await self.connection.wait_up(1)
            self.connection.hop()
            await asyncio.sleep(1)
            self.assertEqual((len(ClientStub.made), self.connection.connected), (2, True))

        self.run_test(test)

    def test_no_server(self) -> None:
        """Where no server can be had, the words have the address and the reason, without the password. Later servers are taken."""
        async def test() -> None:
            self.patch(ClientStub, "refused", ["nats://user:secret@a", "nats://b"])
            with self.assertRaises(Unanswered) as caught:
                await self.connection.request("x", b"", 3)
            self.assertIn(str(caught.exception), ("no connection: nats://a: refused", "no connection: nats://b: refused"))
            with self.assertRaises(Unanswered):
                await self.connection.publish("x", b"")
            self.assertEqual(self.connection.max_payload, 0)
            self.patch(ClientStub, "refused", [])
            await self.connection.wait_up(3)
            self.assertEqual(self.connection.max_payload, 1000)

        self.run_test(test)

    def warnings(self) -> list[str]:
        """Return where the texts of warnings will be."""
        texts: list[str] = []

        @implementer(ILogObserver)
        def note(event: LogEvent) -> None:
            if event["log_level"] is LogLevel.warn:
                texts.append(event["text"])

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        return texts

    def test_reasons(self) -> None:
        """Why a server cannot be used is logged once for each server and reason, and again after a connection."""
        texts = self.warnings()

        async def test() -> None:
            for error in (Error("nats: 'Authorization Violation'"), OSError("no route"), Error("nats: 'Authorization Violation'")):
                self.patch(ClientStub, "error", error)
                await asyncio.sleep(2)
            self.assertEqual(
                sorted(texts),
                [f"nats://{name}: {why}" for name in "ab" for why in ("nats: 'Authorization Violation'", "no route")],
            )
            self.patch(ClientStub, "refused", [])
            await self.connection.wait_up(3)
            self.patch(ClientStub, "refused", ["nats://user:secret@a", "nats://b"])
            self.connection.hop()
            await asyncio.sleep(2)
            self.assertEqual(len(texts), 6)
            for number in range(200):
                self.connection.tell(str(number))
            self.assertEqual(len(texts), 4 + nats_connection._REASONS)

        self.patch(ClientStub, "refused", ["nats://user:secret@a", "nats://b"])
        self.run_test(test)

    def test_other_tls(self) -> None:
        """A handshake that breaks names what to set; a certificate that is refused does not.

        A server that says nothing hangs. It may expect TLS, if we do not begin it.
        """
        hints = "handshake_first: true", "cluster.tls must be set"
        for error, tls, hint in (
            (TimeoutError(), True, None), (ssl.SSLError(1, "wrong version number"), True, 0), (ConnectionResetError("reset"), True, 0),
            (TimeoutError(), False, 1), (Error("nats: empty response from server when expecting INFO message"), False, 1),
            (ssl.SSLCertVerificationError(1, "expired"), True, None), (ConnectionRefusedError("refused"), True, None),
            (Error("nats: 'Authorization Violation'"), False, None),
        ):
            words = _reason(error, tls)
            self.assertEqual([number for number, text in enumerate(hints) if text in words], [] if hint is None else [hint], words)
            self.assertIn(str(error) or "no answer: the server hangs", words)
            self.assertFalse([text for text in hints if text in _reason(error, tls, known=True)], "a server that was connected to has our TLS")

    def test_server_that_stops(self) -> None:
        """A server resets a connection. That is told with advice about TLS, unless it was connected to before: then it stops."""
        texts = self.warnings()

        async def test() -> None:
            self.patch(ClientStub, "error", ConnectionResetError("reset"))
            self.patch(ClientStub, "refused", ["nats://user:secret@a", "nats://b"])
            await asyncio.sleep(2)
            self.assertEqual((2, 2), (len(texts), len([text for text in texts if "cluster.tls must be set" in text])))
            self.patch(ClientStub, "refused", ["nats://user:secret@a"])
            await self.connection.wait_up(3)
            self.patch(ClientStub, "refused", ["nats://user:secret@a", "nats://b"])
            texts.clear()
            self.connection.hop()
            await asyncio.sleep(3)
            self.assertEqual(["nats://a: reset: if the server has TLS, cluster.tls must be set", "nats://b: reset"], sorted(texts))

        self.run_test(test)

    def test_unfit_server(self) -> None:
        """A server that cannot serve is left, now and later, and the words say why; another is taken."""
        versions: list[tuple[int, int]] = []

        def check(version: tuple[int, int], max_payload: int) -> None:
            versions.append(version)
            if len(versions) < 4:
                raise EngineUnfit("too old")

        async def test() -> None:
            with self.assertRaises(Unanswered) as caught:
                await self.connection.request("x", b"", 0.3)
            self.assertIn("too old", str(caught.exception))
            self.assertEqual((self.connection.connected, str(self.connection.unfit)), (False, "too old"))
            await self.connection.wait_up(5)
            self.assertEqual(versions, [(2, 15)] * 4)

        self.connection = NATSConnection(["nats://a", "nats://b"], None, self.loop, check)
        self.run_test(test)

    def test_answers(self) -> None:
        """The first answer, several up to a status, none in time, and no receiver; later answers are dropped."""
        async def answer(*answers: tuple[bytes, dict[str, str] | None]) -> None:
            token = list(self.connection._replies)[-1]
            for data, headers in answers:
                await ClientStub.made[0].hear(f"{self.connection._inbox}.{token}", data, headers)

        async def ask(*answers: tuple[bytes, dict[str, str] | None], many: bool = False) -> list[tuple[bytes, int]]:
            asked = asyncio.ensure_future(self.connection.request("x", b"", 5, many=many))
            await asyncio.sleep(0.1)
            await answer(*answers)
            return [(message.data, message.status) for message in await asked]

        async def test() -> None:
            await self.connection.wait_up(1)
            self.assertEqual(await ask((b"1", None), (b"2", None)), [(b"1", 0)])
            end = (b"", {"Status": "204"})
            self.assertEqual(await ask((b"1", None), (b"2", None), end, (b"3", None), many=True), [(b"1", 0), (b"2", 0), (b"", 204)])
            self.assertEqual(await ask((b"1", {"Status": "204"})), [(b"1", 0)])
            with self.assertRaises(Unanswered):
                await ask()
            with self.assertRaises(NoResponders):
                await ask((b"", {"Status": "503"}))

        self.run_test(test)

    def test_sent_again(self) -> None:
        """A request that changes nothing is sent again while there is no answer, and ends with the first one, or in time."""
        async def test() -> None:
            await self.connection.wait_up(1)
            client = ClientStub.made[0]
            asked = asyncio.ensure_future(self.connection.request("x", b"q", 5, again=0.5))
            await asyncio.sleep(1.2)
            self.assertEqual([("x", b"q")] * 3, client.published)
            token = list(self.connection._replies)[-1]
            await client.hear(f"{self.connection._inbox}.{token}", b"1")
            self.assertEqual([b"1"], [message.data for message in await asked])
            await asyncio.sleep(5)
            self.assertEqual(3, len(client.published))
            began = self.loop.time()
            with self.assertRaises(Unanswered):
                await self.connection.request("x", b"q", 2, again=0.5)
            self.assertAlmostEqual(2.0, self.loop.time() - began)
            self.assertEqual(3 + 4, len(client.published))

        self.run_test(test)

    def test_sent_again_and_lost(self) -> None:
        """A request that is sent again ends with its connection."""
        async def test() -> None:
            await self.connection.wait_up(1)
            asked = asyncio.ensure_future(self.connection.request("x", b"q", 60, again=0.5))
            await asyncio.sleep(0.7)
            ClientStub.made[0].is_connected = False
            with self.assertRaises(Unanswered):
                await asked
            self.assertLess(self.loop.time(), 5)

        self.run_test(test)

    def test_subscription_that_fails(self) -> None:
        """A connection on which nothing can be subscribed is left for another, which has the subscription."""
        heard: list[bytes] = []

        async def fail(*arguments: Any, **options: Any) -> None:
            raise BrokenPipeError

        async def test() -> None:
            await self.connection.wait_up(1)
            self.patch(ClientStub.made[0], "subscribe", fail)
            self.connection.subscribe("a.b", lambda message: heard.append(message.data))
            await asyncio.sleep(1)
            await ClientStub.made[1].hear("a.b", b"x")
            self.assertEqual(heard, [b"x"])

        self.run_test(test)

    def test_task_that_fails(self) -> None:
        """A task that fails is logged."""
        async def fail() -> None:
            raise ValueError("no")

        async def test() -> None:
            self.connection.start(fail())
            await asyncio.sleep(1)

        self.run_test(test)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_fault_of_a_listener(self) -> None:
        """A message that cannot be taken is logged, and ends nothing."""
        heard: list[int] = []

        async def test() -> None:
            self.connection.subscribe("a.b", lambda message: heard.append(int(message.data)))
            await self.connection.wait_up(1)
            for data in (b"x", b"2"):
                await ClientStub.made[0].hear("a.b", data)
            self.assertEqual(heard, [2])

        self.run_test(test)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
