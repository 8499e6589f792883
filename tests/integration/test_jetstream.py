"""The engine on real NATS servers: the contract of every engine, on one server and on three, and what their faults do to it.

Skipped where nats-server is not installed ($NATS_SERVER, PATH or ~/go/bin).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s2sgw.cluster.engine import ClusterEngine, EngineError, EngineGone, EngineUnfit, Entry, Fenced
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.jetstream_api import JetStreamAPI
from s2sgw.cluster.nats_connection import NATSConnection
from s2sgw.cluster.requests import Unanswered
from s2sgw.cluster.stream_setup import wanted_streams
from s2sgw.cluster.subjects import BOOK_STREAM, SPOOL_STREAMS
from s2sgw.xmpp.jid import Domain, Pair
from tests.lab.certificates import Authority, Names
from tests.lab.lab import Lab
from tests.lab.nats import nats, nats_server
from tests.support.engine_contract import LOCAL, EngineContract, record, texts
from tests.support.jetstream_engines import PATIENCE, RECORD_BYTES, SHARD_BYTES, EngineHarness, started

PEER, OTHER = Domain.parse("peer.example"), Domain.parse("other.example")
LANE, BACK = Pair(PEER, LOCAL), Pair(LOCAL, PEER)


class EngineTests(EngineHarness, EngineContract):
    """The contract on servers that all tests share."""

    servers: int

    @property
    def urls(self) -> list[str]:
        return started(self.servers).urls

    def open(self) -> tuple[ClusterEngine, ClusterEngine]:
        return self.engines

    def run_coroutine(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        self.engines = self.engine(), self.engine()
        for engine in self.engines:
            self.wait(Deferred.fromCoroutine(engine.open(PATIENCE)))
        self.wait(Deferred.fromCoroutine(coroutine))

    def pause(self) -> Deferred[None]:
        return Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0.01), loop=self.loop))

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[None]:
        await Deferred.fromFuture(asyncio.ensure_future(self.resize(5000)))
        yield
        await Deferred.fromFuture(asyncio.ensure_future(self.resize(SHARD_BYTES)))

    async def resize(self, room: int) -> None:
        """Let every stream have `room` for so many bytes more."""
        connection = NATSConnection(started(self.servers).urls, None, self.loop)
        api = JetStreamAPI(connection, self.loop.time)
        connection.open()
        for stream in (*SPOOL_STREAMS, BOOK_STREAM):
            info = await api.info(stream)
            changed = {**info["config"], "max_bytes": info["state"]["bytes"] + room}
            await api.call(f"STREAM.UPDATE.{stream}", changed, PATIENCE)
        await connection.close()


class OneServerTests(EngineTests, SynchronousTestCase):
    """One server that runs alone."""

    servers = 1


class ThreeServersTests(EngineTests, SynchronousTestCase):
    """Three servers in a cluster."""

    servers = 3


class SetupTests(SynchronousTestCase):
    """Tests of the refusals of a start, on servers of its own."""

    skip = None if nats_server() else "nats-server is not installed"

    def outcome(self, number: int = 1, urls: Sequence[str] | None = None, streams: Sequence[Mapping[str, Any]] = (), seconds: float = PATIENCE, **options: Any) -> Any:
        """Return None, or the error of an engine on servers with `options`, which have `streams` already."""
        with Lab() as lab:
            servers = nats(lab, number, **options)
            servers.start()
            self.addCleanup(servers.kill)
            try:
                return asyncio.run(self.opened(urls or servers.urls, servers.urls, streams, seconds))
            finally:
                servers.kill()

    async def opened(self, urls: Sequence[str], servers: Sequence[str], streams: Sequence[Mapping[str, Any]], seconds: float) -> Any:
        loop = asyncio.get_running_loop()
        connection = NATSConnection(servers, None, loop)
        api = JetStreamAPI(connection, loop.time)
        connection.open()
        for stream in streams:
            await api.question(api.call, f"STREAM.CREATE.{stream['name']}", stream, seconds=PATIENCE)
        await connection.close()
        engine = JetStreamEngine(urls, loop, record_bytes=RECORD_BYTES, shard_bytes=SHARD_BYTES)
        try:
            await Deferred.fromCoroutine(engine.open(seconds)).asFuture(loop)
            self.sizes = [(await engine._api.info(SPOOL_STREAMS[0]))["config"]["max_bytes"]]
            await Deferred.fromCoroutine(engine.enlarge(seconds)).asFuture(loop)
            self.sizes.append((await engine._api.info(SPOOL_STREAMS[0]))["config"]["max_bytes"])
            return None
        except EngineError as error:
            return error
        finally:
            await Deferred.fromCoroutine(engine.close()).asFuture(loop)

    def assert_unfit(self, error: Any, words: str) -> None:
        self.assertEqual((type(error), words in str(error)), (EngineUnfit, True), error)

    def test_payload(self) -> None:
        """A server that does not take the largest record is refused."""
        self.assert_unfit(self.outcome(max_payload=RECORD_BYTES), f"max_payload is {RECORD_BYTES} bytes")

    def test_no_room(self) -> None:
        """A server on whose disk the streams cannot be reserved is refused."""
        self.assert_unfit(self.outcome(disk=4 * SHARD_BYTES), "cannot be made: insufficient storage")
        self.assert_unfit(self.outcome(disk=4 * SHARD_BYTES), f"it reserves {SHARD_BYTES} bytes")

    def test_stream_in_memory(self) -> None:
        """A stream that would not survive its server is refused."""
        stream = {**wanted_streams(1, SHARD_BYTES)[2], "storage": "memory"}
        self.assert_unfit(self.outcome(streams=[stream]), "S2SGW_SPOOL_2 is in memory")

    def test_stream_of_others(self) -> None:
        """A stream of another that has our subjects is refused."""
        self.assert_unfit(self.outcome(streams=[{"name": "OTHER", "subjects": ["s2sgw.>"]}]), "overlap")

    def test_one_replica_of_three(self) -> None:
        """A stream on one server of a cluster is refused, also if only one server is configured."""
        self.assert_unfit(self.outcome(3, streams=[wanted_streams(1, SHARD_BYTES)[0]]), "has 1 replica(s), and must have 3")

    def test_no_cluster(self) -> None:
        """Several servers that are no cluster are refused."""
        with Lab() as lab:
            servers = [nats(lab, 1), nats(lab, 1)]
            for each in servers:
                each.start()
                self.addCleanup(each.kill)
            urls = [url for each in servers for url in each.urls]
            self.assert_unfit(asyncio.run(self.opened(urls, servers[0].urls, [], PATIENCE)), "3 servers in one cluster")
            for each in servers:
                each.kill()

    def test_two_servers(self) -> None:
        """A cluster of two servers has no place for three copies. A cluster that starts is waited for."""
        self.assert_unfit(self.outcome(2, seconds=3), "3 servers in one cluster")

    def test_nobody_there(self) -> None:
        """Where no server answers, the words have its address and the reason, and not its password."""
        error = self.outcome(urls=["nats://user:secret@127.0.0.1:1"], seconds=2)
        self.assertEqual((type(error), "nats://127.0.0.1:1: " in str(error), "secret" in str(error)), (EngineGone, True, False), error)

    def test_grows(self) -> None:
        """A stream that is smaller than it should be is made larger, but not by `open`: the node may be refused."""
        small = wanted_streams(1, SHARD_BYTES // 2)
        self.assertEqual(self.outcome(streams=small), None)
        self.assertEqual(self.sizes, [SHARD_BYTES // 2, SHARD_BYTES])

    def test_refused_before_anything_is_made(self) -> None:
        """A stream that cannot serve is found before any other is made."""
        stream = {**wanted_streams(1, SHARD_BYTES)[-1], "storage": "memory"}
        self.assert_unfit(self.outcome(streams=[stream], disk=SHARD_BYTES), "is in memory")


class FaultTests(EngineHarness, SynchronousTestCase):
    """Faults of a server that runs alone, and is of one test."""

    def setUp(self) -> None:
        super().setUp()
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.servers = nats(self.lab, 1)
        self.servers.start()
        self.addCleanup(self.servers.kill)
        self.server = self.servers.servers[0]

    @property
    def urls(self) -> list[str]:
        return self.servers.urls

    def run_both(self, test: Callable[[JetStreamEngine, JetStreamEngine], Coroutine[Deferred[Any], Any, None]]) -> None:
        engines = self.engine(), self.engine()
        for engine in engines:
            self.wait(Deferred.fromCoroutine(engine.open(PATIENCE)))
        self.wait(Deferred.fromCoroutine(test(*engines)))

    def sleep(self, seconds: float) -> Deferred[None]:
        return Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(seconds), loop=self.loop))

    def test_killed_under_appends(self) -> None:
        """A server is killed and started again under appends: each is answered, and is there once, in order."""

        async def test(one: JetStreamEngine, other: JetStreamEngine) -> None:
            fence, _ = await one.claim(PEER, b"a", 0)
            calls = []
            for number in range(60):
                calls.append(Deferred.fromCoroutine(one.append(fence, [record(LANE, str(number)), record(BACK, "x")][: 1 + number % 2], str(number))))
                await self.sleep(0.005)
                if number == 20:
                    self.server.kill()
                if number == 40:
                    self.assertEqual(await self.refused(other.home(PEER)), EngineGone)
                    self.server.start()
            answers = await gatherResults(calls)
            last = answers[-1][-1]
            self.assertEqual(texts(await other.read(LANE, PEER, 0, last, 1 << 20)), [str(number) for number in range(60)])
            self.assertEqual(len(await other.read(BACK, PEER, 0, last, 1 << 20)), 30)
            self.assertEqual([answer[0] for answer in answers], [each.sequence for each in await other.read(LANE, PEER, 0, last, 1 << 20)])

        self.run_both(test)

    async def refused(self, call: Awaitable[Any]) -> type[EngineError] | None:
        try:
            await call
        except EngineError as error:
            return type(error)
        return None

    def test_stopped(self) -> None:
        """A server that hangs stalls writes, without a word against them; then each has its effect, once."""

        async def test(one: JetStreamEngine, other: JetStreamEngine) -> None:
            fence, _ = await one.claim(PEER, b"a", 0)
            self.server.suspend()
            calls = [Deferred.fromCoroutine(one.append(fence, [record(LANE, str(number))], str(number))) for number in range(3)]
            put = Deferred.fromCoroutine(one.put("pin.a", b"1", 0))
            claim = Deferred.fromCoroutine(one.claim(OTHER, b"a", 0))
            self.assertEqual(one.stalled, False)
            await self.sleep(3.5)
            called = [*(call.called for call in calls), put.called, claim.called]
            self.assertEqual((one.stalled, other.stalled, called), (True, False, [False] * 5))
            self.server.resume()
            answers = await gatherResults(calls)
            self.assertEqual(texts(await other.read(LANE, PEER, 0, answers[2][0], 1 << 20)), ["0", "1", "2"])
            self.assertEqual(((await other.get("pin.a")), one.stalled), (Entry("pin.a", await put, b"1"), False))
            self.assertEqual(await other.home(OTHER), (await claim)[1].home)

        self.run_both(test)

    def test_watch_over_a_restart(self) -> None:
        """A watch tells what changed after its server was restarted, and pulses and questions go on."""

        async def test(one: JetStreamEngine, other: JetStreamEngine) -> None:
            told: list[Entry] = []
            heard: list[bytes] = []
            one.watch("pin", told.append)
            one.on_pulse(heard.append)

            async def answers(question: bytes) -> bytes:
                return question * 2

            one.answer("a", answers)
            await other.put("pin.a", b"1", 0)
            self.server.kill()
            self.server.start()
            await other.put("pin.b", b"2", 0)
            while len(told) < 2 or not heard:
                other.pulse(b"x")
                await self.sleep(0.02)
            self.assertEqual(([entry.key for entry in told], await other.ask("a", b"?")), (["pin.a", "pin.b"], b"??"))

        self.run_both(test)

    def test_lost_store(self) -> None:
        """A server that comes back empty has no stream. Those that are made again have higher sequences, so an old fence fits nothing."""

        async def test(one: JetStreamEngine, other: JetStreamEngine) -> None:
            fence, _ = await one.claim(PEER, b"a", 0)
            self.assertEqual(await one.missing(), [])
            self.server.kill()
            shutil.rmtree(self.server.folder / "store")
            self.server.start()
            append = Deferred.fromCoroutine(one.append(fence, [record(LANE, "0")], "0"))
            self.assertEqual(len(await one.missing()), len(wanted_streams(1, SHARD_BYTES)))
            third = self.engine()
            await third.open(PATIENCE)
            self.assertEqual(await one.missing(), [])
            again, logs = await third.claim(PEER, b"b", 0)
            self.assertEqual((again > fence, logs.lanes, await self.refused(append)), (True, {}, Fenced))

        self.run_both(test)

    def test_question_that_is_lost(self) -> None:
        """A question to a node ends with the connection, at once."""

        async def test(one: JetStreamEngine, other: JetStreamEngine) -> None:
            async def answers(question: bytes) -> bytes:
                return await Deferred()

            other.answer("b", answers)
            await self.sleep(0.1)
            asked = Deferred.fromCoroutine(one.ask("b", b"?"))
            await self.sleep(0.1)
            self.server.kill()
            start = self.loop.time()
            self.assertEqual(await self.refused(asked), EngineGone)
            self.assertLess(self.loop.time() - start, 3)

        self.run_both(test)

    def test_close_while_it_hangs(self) -> None:
        """An engine is closed within seconds though its server hangs: every call ends, and removals say that they were not made."""

        async def test(one: JetStreamEngine, other: JetStreamEngine) -> None:
            fence, _ = await one.claim(PEER, b"a", 0)
            (sequence,) = await one.append(fence, [record(LANE, "1")], "1")
            self.server.suspend()
            calls: list[Deferred[Any]] = [Deferred.fromCoroutine(one.append(fence, [record(LANE, "2")], "2"))]
            calls.append(Deferred.fromCoroutine(one.get("pin.a")))
            removal = one.delete(PEER, [sequence])
            start = self.loop.time()
            await one.close()
            self.assertLess(self.loop.time() - start, 10)
            self.assertEqual([await self.refused(call) for call in calls], [EngineGone] * 2)
            self.assertEqual(await removal, False)
            self.server.resume()

        self.run_both(test)


class ConnectionTests(SynchronousTestCase):
    """A connection to the one of two servers that answers."""

    skip = None if nats_server() else "nats-server is not installed"

    def test_silent_server(self) -> None:
        """A server that falls silent is left for the other one, also if nothing is asked. Subscriptions go along."""
        with Lab() as lab:
            first, second = nats(lab, 1), nats(lab, 1)
            self.addCleanup(first.kill)
            self.addCleanup(second.kill)
            first.start()

            async def run() -> None:
                heard = asyncio.Event()
                connection = NATSConnection([*first.urls, *second.urls], None, asyncio.get_running_loop())
                connection.subscribe("a.b", lambda message: heard.set())
                connection.open()
                await connection.wait_up(PATIENCE)
                second.start()
                first.servers[0].suspend()
                speaker = NATSConnection(second.urls, None, asyncio.get_running_loop())
                speaker.open()
                await speaker.wait_up(PATIENCE)
                while not heard.is_set():
                    await speaker.publish("a.b", b"x")
                    await asyncio.sleep(0.05)
                await connection.close()
                await speaker.close()

            asyncio.run(asyncio.wait_for(run(), PATIENCE))
            for each in (first, second):
                each.kill()

    def test_socket_that_breaks(self) -> None:
        """A server that is killed with much on its way to it is noticed, and nothing of its connection is left."""
        with Lab() as lab:
            first, second = nats(lab, 1), nats(lab, 1)
            self.addCleanup(first.kill)
            self.addCleanup(second.kill)
            first.start()

            async def run() -> None:
                loop = asyncio.get_running_loop()
                connection = NATSConnection([*first.urls, *second.urls], None, loop)
                connection.subscribe("a.b", lambda message: None)
                connection.open()
                await connection.wait_up(PATIENCE)
                second.start()
                first.servers[0].suspend()
                for _ in range(30):
                    connection.start(publish(connection))
                await asyncio.sleep(0.1)
                first.kill()
                try:
                    await asyncio.wait_for(answered(connection), PATIENCE)
                finally:
                    await connection.close()
                await asyncio.sleep(0.05)
                self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})

            async def publish(connection: NATSConnection) -> None:
                with contextlib.suppress(Unanswered):
                    await connection.publish("a.b", b"x" * 500_000)

            async def answered(connection: NATSConnection) -> None:
                """Ask until there is an answer. A request that is begun on the broken connection fails with it."""
                while True:
                    with contextlib.suppress(Unanswered):
                        await connection.request("$JS.API.INFO", b"", 1)
                        return
                    await asyncio.sleep(0.02)

            asyncio.run(run())
            second.kill()


class TLSTests(SynchronousTestCase):
    """TLS to the servers."""

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.authority = Authority(self.lab.directory("ca"))
        self.context = ssl.create_default_context(cafile=str(self.authority.file))

    def outcome(self, port: int, context: ssl.SSLContext, seconds: float) -> str:
        """Return "" if there is a connection, or why there is none."""
        async def run() -> str:
            connection = NATSConnection([f"nats://user:secret@localhost:{port}"], context, asyncio.get_running_loop())
            connection.open()
            try:
                await connection.request("$JS.API.INFO", b"", seconds)
            except Unanswered as error:
                return str(error)
            finally:
                await connection.close()
            return ""

        return asyncio.run(run())

    def test_certificates(self) -> None:
        """A server with a certificate of its authority is used. Another one is refused in words."""
        if nats_server() is None:
            raise SkipTest("nats-server is not installed")
        servers = nats(self.lab, 1, certificate=self.authority.issue(Names(dns=["localhost"])))
        servers.start()
        self.addCleanup(servers.kill)
        port = servers.servers[0].port
        self.assertEqual(self.outcome(port, self.context, PATIENCE), "")
        self.assertIn("certificate verify failed", self.outcome(port, ssl.create_default_context(), 2))

    def test_end_of_a_connection(self) -> None:
        """A server that ends its connection after the handshake causes no line of asyncio's log."""
        accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own = self.authority.issue(Names(dns=["localhost"]))
        accepting.load_cert_chain(own.chain, own.key)

        async def run() -> None:
            async def end(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                ended.set()
                writer.close()

            ended = asyncio.Event()
            server = await asyncio.start_server(end, "127.0.0.1", 0, ssl=accepting)
            connection = NATSConnection([f"nats://localhost:{server.sockets[0].getsockname()[1]}"], self.context, asyncio.get_running_loop())
            connection.open()
            await asyncio.wait_for(ended.wait(), PATIENCE)
            with self.assertRaises(Unanswered):
                await connection.wait_up(0.5)
            await connection.close()
            server.close()

        with self.assertNoLogs("asyncio"):
            asyncio.run(run())

    def test_server_without_tls(self) -> None:
        """A server that says nothing of TLS gets no password: nothing is sent before TLS."""
        received: list[bytes] = []

        def answer(listener: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.settimeout(1)
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(b'INFO {"server_id":"x","version":"2.15.3","max_payload":1048576,"headers":true}\r\n')
                        received.append(connection.recv(65536))

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=answer, args=[listener])
            thread.start()
            outcome = self.outcome(listener.getsockname()[1], self.context, 4)
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
        self.assertIn("no connection", outcome)
        self.assertIn("handshake_first: true", outcome)
        self.assertEqual({data[:1] for data in received}, {b"\x16"})
        self.assertNotIn(b"secret", b"".join(received))


#: A program that uses an engine on Twisted's asyncio reactor, as the gateway does: the engine is opened before the loop runs.
_PROGRAM = """\
import asyncio, sys
from twisted.internet import asyncioreactor
loop = asyncio.new_event_loop()
asyncioreactor.install(loop)
from twisted.internet import reactor, task
from s2sgw.cluster.engine import LaneRecord
from s2sgw.cluster.jetstream import JetStreamEngine
from tests.integration.test_jetstream import LANE, PEER

engine = JetStreamEngine(sys.argv[1:], loop, record_bytes=1000, shard_bytes=1 << 20)

async def main(reactor):
    await engine.open(60)
    await task.deferLater(reactor, 0.01)
    fence, _ = await engine.claim(PEER, b"a", 0)
    sequences = await engine.append(fence, [LaneRecord(LANE, {}, b"1"), LaneRecord(LANE, {}, b"2")], "a")
    found = await engine.read(LANE, PEER, 0, sequences[-1], 1000)
    await engine.close()
    print([stored.data for stored in found])

task.react(main)
"""


class ReactorTests(SynchronousTestCase):
    """The reactor of the gateway."""

    skip = None if nats_server() else "nats-server is not installed"

    def test_asyncio_reactor(self) -> None:
        """An engine works on the asyncio reactor, also if it is opened before the loop runs."""
        with Lab() as lab:
            servers = nats(lab, 1)
            servers.start()
            self.addCleanup(servers.kill)
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", _PROGRAM, *servers.urls], capture_output=True, text=True, timeout=PATIENCE, check=False,
            )  # fmt: skip
            servers.kill()
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("[b'1', b'2']\n", "", 0))
