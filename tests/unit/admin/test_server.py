"""Tests of the admin socket: requests and answers, its limits, and the socket file."""

from __future__ import annotations

import grp
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin import protocol, server
from s2sgw.admin.event_flow import FLUSH_SECONDS
from s2sgw.admin.event_watch import EventWatch
from s2sgw.admin.server import AdminFactory, AdminInUse, AdminService, FirstByte, Rows, VerbError, claim
from s2sgw.admin.verb_table import is_read_only
from s2sgw.net.slices import Slices
from s2sgw.reporting.live_events import WAITING, WATCHERS_PER_USER, LiveEvents
from tests.support.admin import member, operator
from tests.support.turn_clock import TurnClock


def producer(transport: StringTransport) -> Any:
    """Return the producer registered with a transport."""
    return transport.producer


class Conversation(SynchronousTestCase):
    """A connection with verbs for every kind of answer."""

    clock: Clock

    def setUp(self) -> None:
        self.clock = Clock()
        self.later: Deferred[Any] = Deferred()
        self.verbs: dict[str, Any] = {
            "echo": lambda arguments: arguments, "later": lambda _: self.later, "soon": self.soon, "no": self.no,
            "broken": lambda _: 1 / 0, "odd": lambda _: object(),
        }
        self.factory = AdminFactory(self.verbs, self.clock, identify=operator)
        self.transport, self.protocol = self.connect()

    def connect(self) -> tuple[StringTransport, FirstByte]:
        protocol = self.factory.buildProtocol(None)
        assert isinstance(protocol, FirstByte)
        transport = StringTransport()
        protocol.makeConnection(transport)
        return transport, protocol

    async def soon(self, _: object) -> str:
        await self.later
        return "soon"

    def no(self, _: object) -> None:
        raise VerbError("there is no such peer")

    def ask(self, verb: str, **arguments: object) -> None:
        self.receive(json.dumps({"verb": verb, "args": arguments}).encode())

    def receive(self, line: bytes) -> None:
        self.protocol.dataReceived(line + b"\n")
        self.clock.advance(0)

    def answers(self) -> list[dict[str, Any]]:
        self.clock.advance(0)
        return [json.loads(line) for line in self.transport.value().splitlines()]


class AnswerTests(Conversation):
    def test_answer(self) -> None:
        """A verb is called with the arguments, and its result is returned on a line."""
        self.ask("echo", peer="é.example")
        self.assertEqual([{"ok": True, "result": {"peer": "é.example"}}], self.answers())

    def test_byte_by_byte(self) -> None:
        """A request may arrive in pieces."""
        for byte in b'{"verb": "echo"}\n':
            self.protocol.dataReceived(bytes([byte]))
        self.assertEqual([{"ok": True, "result": {}}], self.answers())

    def test_in_order(self) -> None:
        """Answers are in the order of the requests, whichever takes longer."""
        self.ask("later")
        self.ask("echo", n=1)
        self.assertEqual([], self.answers())
        self.later.callback("late")
        self.assertEqual(["late", {"n": 1}], [answer["result"] for answer in self.answers()])

    def test_coroutine(self) -> None:
        """A verb may be a coroutine."""
        self.ask("soon")
        self.later.callback(None)
        self.assertEqual([{"ok": True, "result": "soon"}], self.answers())

    def test_refusal(self) -> None:
        """A verb's refusal is returned with its text."""
        self.ask("no")
        self.assertEqual([{"ok": False, "error": "there is no such peer", "kind": "failed"}], self.answers())

    def test_mistakes_of_ours(self) -> None:
        """An exception, or a result that is not JSON, is logged and reported without details."""
        for verb, error in (("broken", ZeroDivisionError), ("odd", TypeError)):
            self.ask(verb)
            self.assertEqual(1, len(self.flushLoggedErrors(error)))
            self.assertEqual({"ok": False, "error": "the gateway could not answer; see its log", "kind": "internal"}, self.answers()[-1])

    def test_unknown_verb(self) -> None:
        """The answer to an unknown verb lists the known ones."""
        self.ask("frobnicate")
        self.assertEqual("there is no verb 'frobnicate'; there are broken, echo, later, no, odd, soon", self.answers()[0]["error"])

    def test_what_is_no_request(self) -> None:
        """Anything but an object with a verb is refused, and the connection continues."""
        for line in (b"", b"nonsense", b"[]", b"1", b'{"verb": 1}', b'{"verb": "echo", "args": []}', b'{"args": {}}', b"\xff", b"[" * 60000):
            self.receive(line)
            self.assertEqual("usage", self.answers()[-1]["kind"], line[:20])
        self.ask("echo")
        self.assertTrue(self.answers()[-1]["ok"])


class PermissionTests(Conversation):
    def test_denied(self) -> None:
        """A member of the group may not call a verb that changes something. An unknown verb is reported as unknown."""
        self.factory.identify = member
        self.transport, self.protocol = self.connect()
        self.ask("echo")
        self.ask("frobnicate")
        self.assertEqual(["denied", "usage"], [answer["kind"] for answer in self.answers()])

    def test_unknown_caller(self) -> None:
        """A caller that the kernel does not identify may call no verb."""
        self.factory.identify = lambda transport: None
        self.transport, self.protocol = self.connect()
        self.ask("echo")
        self.assertEqual("denied", self.answers()[0]["kind"])


class FeedTests(Conversation):
    """Tests of a response with a line for each event."""

    def setUp(self) -> None:
        super().setUp()
        self.publisher = LogPublisher()
        self.live = LiveEvents(publisher=self.publisher)
        self.verbs["follow"] = EventWatch(self.live).watch
        self.log = Logger("s2sgw", observer=self.publisher)

    def tell(self, event: str, peer: str = "a.example") -> None:
        self.log.debug(event=event, peer=peer)

    def events(self) -> list[str]:
        self.clock.advance(FLUSH_SECONDS)
        return [answer["result"]["event"] for answer in self.answers()]

    def test_events(self) -> None:
        """Each event is a line, for longer than a response or an idle connection may take. The stop ends the watch."""
        self.ask("follow")
        self.tell("one")
        self.clock.advance(1000)
        self.tell("two")
        self.assertEqual(["watching", "one", "two"], self.events())
        self.assertFalse(self.transport.disconnecting)
        self.protocol.connectionLost()
        self.assertEqual(0, len(self.live))

    def test_peer(self) -> None:
        """Only the requested peer's events are sent, in either form of its name. Notes in free text are no events."""
        self.ask("follow", peer="BÜCHER.example")
        for peer in ("bücher.example", "Xn--Bcher-kva.example", "other.example", ""):
            self.tell("seen", peer)
        self.log.info("a note about {peer}", peer="bücher.example")
        self.assertEqual(["watching", "seen", "seen"], self.events())

    def test_slow_client(self) -> None:
        """For a client that does not read, only the last events are kept, and the others are counted: they take no memory."""
        self.ask("follow")
        producer(self.transport).pauseProducing()
        for number in range(WAITING + 1000):
            self.tell(f"event {number}")
        self.assertEqual(["watching"], self.events())
        producer(self.transport).resumeProducing()
        self.assertEqual(["watching", "events missed", "event 1000"], self.events()[:3])
        self.assertEqual((1000, 2 + WAITING), (self.answers()[1]["result"]["number"], len(self.answers())))

    def test_no_more_requests(self) -> None:
        """A connection that watches events accepts no other request, not even one that was sent along."""
        self.receive(b'{"verb": "follow"}\n{"verb": "echo"}')
        self.assertEqual([None, "usage"], [answer.get("kind") for answer in self.answers()])
        self.assertTrue(self.transport.disconnecting)

    def test_bounded(self) -> None:
        """If a user has too many watches the oldest ends with a message, and its connection can still be used. Another user has a limit of its own."""
        first = self.transport
        for _ in range(WATCHERS_PER_USER):
            self.ask("follow")
            self.transport, self.protocol = self.connect()
        self.ask("follow")
        self.assertIn("a newer watch", json.loads(first.value().splitlines()[-1])["error"])
        self.assertTrue(first.disconnecting)
        self.assertIsNone(first.producer)
        self.factory.identify = member
        self.factory._is_read_only = is_read_only
        self.verbs["watch"] = self.verbs["follow"]
        self.transport, self.protocol = self.connect()
        self.ask("watch")
        self.assertEqual(WATCHERS_PER_USER + 1, len(self.live))


class BoundTests(Conversation):
    def test_long_request(self) -> None:
        """A request without an end is refused, and the connection closes."""
        self.protocol.dataReceived(b"x" * (protocol.REQUEST_BYTES + 1))
        self.assertIn("at most 65536 bytes", self.answers()[0]["error"])
        self.assertTrue(self.transport.disconnecting)

    def test_many_requests_at_once(self) -> None:
        """No more than `PIPELINED` requests wait behind the current one. They are answered before the refusal."""
        for _ in range(server.PIPELINED + 1):
            self.ask("later")
        self.ask("echo")
        self.ask("echo")
        self.assertEqual(([], False), (self.answers(), self.transport.disconnecting))
        self.later.callback("late")
        *answered, refusal = self.answers()
        self.assertEqual([{"ok": True, "result": "late"}, *[{"ok": True, "result": None}] * server.PIPELINED], answered)
        self.assertEqual(("usage", True), (refusal["kind"], self.transport.disconnecting))
        self.assertIn("at most 16 requests may wait", refusal["error"])
        self.ask("echo")
        self.assertEqual(server.PIPELINED + 2, len(self.answers()))

    def test_many_requests_in_one_piece(self) -> None:
        """The same holds for requests that arrive together. None beyond the limit is executed."""
        done: list[object] = []

        def count(arguments: object) -> Deferred[Any]:
            done.append(arguments)
            return self.later

        self.verbs["count"] = count
        self.receive(b"\n".join([b'{"verb": "count"}'] * 60))
        self.later.callback(None)
        self.assertEqual((server.PIPELINED + 2, server.PIPELINED + 1), (len(self.answers()), len(done)))
        self.assertTrue(self.transport.disconnecting)

    def test_too_much_and_gone(self) -> None:
        """A client that disconnects before its requests are answered leaves nothing in memory."""
        for _ in range(server.PIPELINED + 2):
            self.ask("later")
        self.protocol.connectionLost()
        self.later.callback(None)
        self.assertEqual(([], []), (self.answers(), self.clock.getDelayedCalls()))

    def test_long_request_behind_another(self) -> None:
        """A request without an end is refused after those before it are answered. Further input takes no memory."""
        self.ask("later")
        self.protocol.dataReceived(b"x" * (protocol.REQUEST_BYTES + 1))
        for _ in range(100):
            self.protocol.dataReceived(b"x" * 1000)
        self.assertEqual(([], protocol.REQUEST_BYTES + 1), (self.answers(), len(self.protocol._protocol._buffer)))
        self.later.callback("late")
        self.assertEqual(["late", None], [answer.get("result") for answer in self.answers()])
        self.assertTrue(self.transport.disconnecting)

    def test_watch_among_too_many(self) -> None:
        """A watch among the waiting requests begins, and is then ended with the refusal."""
        self.verbs["follow"] = EventWatch(LiveEvents()).watch
        self.ask("later")
        self.ask("follow")
        for _ in range(server.PIPELINED):
            self.ask("echo")
        self.later.callback("late")
        self.assertIn("at most 16 requests", self.answers()[-1]["error"])
        self.assertTrue(self.transport.disconnecting)

    def test_half_closed(self) -> None:
        """A client that closes its sending side, as `echo … | socat` does, gets its answers. Then the connection closes."""
        self.ask("later")
        self.ask("echo", n=1)
        self.protocol.readConnectionLost()
        self.assertFalse(self.transport.disconnecting)
        self.later.callback("late")
        self.assertEqual(["late", {"n": 1}], [answer["result"] for answer in self.answers()])
        self.assertTrue(self.transport.disconnecting)
        self.transport, self.protocol = self.connect()
        self.ask("echo")
        self.protocol.readConnectionLost()
        self.assertEqual((1, True), (len(self.answers()), self.transport.disconnecting))

    def test_half_closed_watch(self) -> None:
        """A watch ends when its client closes its sending side: its disconnection could not be seen."""
        self.verbs["follow"] = EventWatch(LiveEvents()).watch
        for closes_first in (False, True):
            self.transport, self.protocol = self.connect()
            if closes_first:
                self.ask("later")
            self.ask("follow")
            self.protocol.readConnectionLost()
            if closes_first:
                self.later.callback(None)
                self.clock.advance(0)
            self.assertTrue(self.transport.disconnecting)

    def test_hung_up(self) -> None:
        """A client that has disconnected is told apart from one that only closed its sending side: its request is cancelled."""
        for half in (False, True):
            ours, theirs = socket.socketpair(socket.AF_UNIX)
            self.addCleanup(ours.close)
            self.addCleanup(theirs.close)
            given_up: list[object] = []
            self.later = Deferred(given_up.append)
            self.transport, self.protocol = self.connect()
            self.ask("later")
            transport: Any = self.transport
            transport.socket, transport.abortConnection = ours, self.protocol.connectionLost
            theirs.shutdown(socket.SHUT_WR) if half else theirs.close()
            self.protocol.readConnectionLost()
            self.assertEqual(0 if half else 1, len(given_up))

    def test_half_closed_before_the_first_byte(self) -> None:
        """A client that closes its sending side without a request is disconnected."""
        transport, protocol = self.connect()
        cut: Any = transport
        cut.abortConnection = transport.loseConnection
        protocol.readConnectionLost()
        self.assertTrue(transport.disconnecting)

    def test_long_answer(self) -> None:
        """An answer that is too long is refused with a text."""
        self.patch(server, "ANSWER_BYTES", 100)
        self.ask("echo", text="x" * 100)
        self.assertIn("too large", self.answers()[0]["error"])

    def test_members_leave_room(self) -> None:
        """However many connections members of the group have, an operator can connect."""
        self.factory.identify = member
        held = [self.connect() for _ in range(server.CONNECTIONS - 1)]
        admitted = [not transport.disconnecting for transport, _ in held]
        self.assertEqual([True] * server.MEMBERS_CONNECTIONS, admitted[: server.MEMBERS_CONNECTIONS])
        self.assertEqual({False}, set(admitted[server.MEMBERS_CONNECTIONS :]))
        for transport, connection in held:
            if transport.disconnecting:
                connection.connectionLost()
        self.factory.identify = operator
        self.transport, self.protocol = self.connect()
        self.ask("echo")
        self.assertTrue(self.answers()[0]["ok"])
        held[0][1].connectionLost()
        self.factory.identify = member
        self.assertFalse(self.connect()[0].disconnecting)

    def test_many_connections(self) -> None:
        """Above the limit a connection is refused. One that ends makes room."""
        protocols = [self.connect()[1] for _ in range(server.CONNECTIONS - 1)]
        self.assertIsNone(self.factory.buildProtocol(None))
        protocols[0].connectionLost()
        self.assertIsNotNone(self.factory.buildProtocol(None))

    def test_idle(self) -> None:
        """A connection without a request is closed. One that waits for an answer is not."""
        self.ask("later")
        self.clock.advance(server.IDLE_SECONDS + 1)
        self.assertFalse(self.transport.disconnecting)
        self.later.callback(1)
        self.clock.advance(0)
        self.clock.advance(server.IDLE_SECONDS + 1)
        self.assertTrue(self.transport.disconnecting)

    def test_slow_answer(self) -> None:
        """A late answer is replaced by an error, and the next request is answered."""
        self.ask("later")
        self.ask("echo")
        self.clock.advance(protocol.ANSWER_SECONDS)
        self.assertEqual(["no answer within 120 seconds", None], [answer.get("error") for answer in self.answers()])

    def test_gone_while_answering(self) -> None:
        """A client that has disconnected gets no answer, and its request is cancelled."""
        self.ask("soon")
        self.protocol.connectionLost()
        self.assertEqual([], self.answers())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_close(self) -> None:
        """The factory closes its connections."""
        self.factory.close()
        self.assertTrue(self.transport.disconnecting)


class RowsTests(Conversation):
    """Tests of answers that are made and written row by row."""

    def setUp(self) -> None:
        super().setUp()
        self.clock: TurnClock = TurnClock()
        self.now = 0.0
        self.made = 0
        self.verbs |= {"rows": self.rows, "steps": self.steps, "breaks": self.breaks, "table": lambda _: {"a": [1, None], "b": {}, "c": {1: 2}}}
        self.factory = AdminFactory(self.verbs, self.clock, Slices(self.clock, 10, lambda: self.now), identify=operator)
        self.transport, self.protocol = self.connect()

    def row(self, number: int, length: int = 0) -> dict[str, Any]:
        self.made += 1
        self.now += 4
        return {"number": number, "text": "x" * length}

    def rows(self, arguments: Any) -> Rows:
        return Rows(self.row(number, arguments.get("length", 0)) for number in range(arguments["number"]))

    def steps(self, arguments: Any) -> Rows:
        """Return work that yields no row at first."""
        def rows() -> Iterator[Any]:
            for _ in range(5):
                self.now += 4
                yield None
            yield self.row(1)
        return Rows(rows())

    def breaks(self, arguments: Any) -> Rows:
        def rows() -> Iterator[Any]:
            yield self.row(1, arguments["length"])
            raise ValueError("broken")
        return Rows(rows())

    def receive(self, line: bytes) -> None:
        self.protocol.dataReceived(line + b"\n")

    def turns(self) -> int:
        """Run turns of the reactor until everything is done, or waits."""
        number = 0
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.calls):
            self.clock.turn()
            number += 1
        return number

    def test_in_slices(self) -> None:
        """A long answer takes many turns, and equals one that is made at once."""
        self.ask("rows", number=30)
        self.assertEqual((self.turns(), self.made), (11, 30))
        self.assertEqual([row["number"] for row in self.answers()[0]["result"]], list(range(30)))

    def test_steps_without_rows(self) -> None:
        """Work that finds nothing for a while uses turns too. None is not a row."""
        self.ask("steps")
        self.assertEqual(self.turns(), 3)
        self.assertEqual([row["number"] for row in self.answers()[0]["result"]], [1])

    def test_shapes(self) -> None:
        """Lists and tables of any shape are written as by the json module."""
        self.ask("rows", number=0)
        self.ask("table")
        self.turns()
        self.assertEqual([[], {"a": [1, None], "b": {}, "c": {"1": 2}}], [answer["result"] for answer in self.answers()])

    def test_client_does_not_read(self) -> None:
        """While the client does not read no rows are made, and little is written. Then the work continues."""
        self.ask("rows", number=100, length=10_000)
        self.clock.turn()
        producer(self.transport).pauseProducing()
        producer(self.transport).pauseProducing()
        self.turns()
        self.assertLess(self.made, 6)
        producer(self.transport).resumeProducing()
        producer(self.transport).resumeProducing()
        self.turns()
        self.assertEqual((self.made, len(self.answers()[0]["result"]), self.transport.producer), (100, 100, None))

    def test_client_never_reads(self) -> None:
        """A client that never reads is disconnected after its time."""
        self.ask("rows", number=100, length=10_000)
        self.clock.turn()
        producer(self.transport).pauseProducing()
        self.turns()
        self.clock.advance(protocol.ANSWER_SECONDS)
        self.assertTrue(self.transport.disconnected)
        self.assertFalse(self.transport.value().endswith(b"\n"))

    def test_breaks_early(self) -> None:
        """An error before the first byte is reported with a text."""
        self.ask("breaks", length=0)
        self.turns()
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertIn("see its log", self.answers()[0]["error"])

    def test_breaks_late(self) -> None:
        """An error halfway cannot be reported: the connection is cut, so that the half is not taken for the whole."""
        self.ask("breaks", length=server.CHUNK_BYTES)
        self.turns()
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertTrue(self.transport.disconnected)

    def test_gone_in_the_midst(self) -> None:
        """If a client disconnects, no more rows are made for it."""
        self.ask("rows", number=100)
        self.clock.turn()
        self.protocol.connectionLost()
        self.turns()
        self.assertEqual(self.made, 3)

    def test_the_next_request(self) -> None:
        """The next request is answered after the answer before it is written."""
        self.ask("rows", number=10)
        self.ask("rows", number=1)
        self.turns()
        self.assertEqual([10, 1], [len(answer["result"]) for answer in self.answers()])


class SocketTests(SynchronousTestCase):
    """Tests of the socket file, in a short folder because a socket's path is short."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = Path(folder.name)
        self.path = self.state / "admin.sock"

    def bound(self) -> socket.socket:
        bound = socket.socket(socket.AF_UNIX)
        self.addCleanup(bound.close)
        bound.bind(str(self.path))
        return bound

    def test_nothing_there(self) -> None:
        """A new state folder needs nothing."""
        claim(self.path)

    def test_left_behind(self) -> None:
        """The socket file of a killed gateway is removed."""
        self.bound().close()
        claim(self.path)
        self.assertFalse(self.path.exists())

    def test_in_use(self) -> None:
        """The socket of a gateway that answers is not replaced."""
        self.bound().listen(1)
        error = self.assertRaises(AdminInUse, claim, self.path)
        self.assertIn("another gateway runs with this state", str(error))
        self.assertTrue(self.path.exists())

    def test_not_ours(self) -> None:
        """A file that is not a socket stays, and is an error."""
        self.path.write_text("precious")
        self.assertIn("is not a socket", str(self.assertRaises(AdminInUse, claim, self.path)))
        self.assertEqual("precious", self.path.read_text())

    def test_not_allowed(self) -> None:
        """A socket that cannot be connected to for lack of permission is an error with a text."""
        self.bound()
        self.patch(socket, "socket", _Unreachable)
        self.assertIn("Permission denied", str(self.assertRaises(AdminInUse, claim, self.path)))

    def test_path_too_long(self) -> None:
        """A path that is too long for a socket is reported before anything else."""
        error = self.assertRaises(AdminInUse, claim, self.state / ("x" * 120) / "admin.sock")
        self.assertIn("at most 107 bytes", str(error))

    def test_service(self) -> None:
        """The service opens the socket for its owner alone, and closes it with its connections."""
        reactor = MemoryReactorClock()
        service = AdminService(reactor, self.path, {"echo": lambda arguments: arguments})
        service.startService()
        path, factory, _, mode, _ = reactor.unixServers[0]
        self.assertEqual((str(self.path), 0o600), (path, mode))
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        transport.socket, other = socket.socketpair()  # type: ignore[attr-defined]
        for each in (transport.socket, other):  # type: ignore[attr-defined]
            self.addCleanup(each.close)
        protocol.makeConnection(transport)
        protocol.dataReceived(b'{"verb": "echo"}\n')
        reactor.advance(0)
        self.assertEqual({"ok": True, "result": {}}, json.loads(transport.value()))
        service.stopService()
        self.assertTrue(transport.disconnecting)
        self.assertIsNone(service.stopService())
        self.assertFalse(os.path.exists(path))


    def test_group(self) -> None:
        """The configured group can use the socket. A group that does not exist ends the start."""
        reactor = MemoryReactorClock()
        changed: list[tuple[Any, ...]] = []
        self.patch(os, "chown", lambda *words: changed.append(words))
        self.patch(os, "chmod", lambda *words: changed.append(words))
        name = grp.getgrgid(os.getegid()).gr_name
        AdminService(reactor, self.path, {}, group=name).startService()
        self.assertEqual([(self.path, -1, os.getegid()), (self.path, 0o660)], changed)
        self.assertIn("no group", str(self.assertRaises(AdminInUse, AdminService(reactor, self.path, {}, group="nosuchgroup").startService)))

    def test_already_of_the_group(self) -> None:
        """The group of a socket made in that group is not set: the shipped unit forbids chown."""
        changed: list[tuple[Any, ...]] = []
        self.patch(server, "_group_of", lambda path: os.getegid())
        self.patch(os, "chown", lambda *words: self.fail("chown was called"))
        self.patch(os, "chmod", lambda *words: changed.append(words))
        AdminService(MemoryReactorClock(), self.path, {}, group=grp.getgrgid(os.getegid()).gr_name).startService()
        self.assertEqual([(self.path, 0o660)], changed)

    def test_not_in_the_group(self) -> None:
        """A group that the gateway's user is not in ends the start with a text."""
        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "chown", refuse)
        service = AdminService(MemoryReactorClock(), self.path, {}, group=grp.getgrgid(os.getegid()).gr_name)
        self.assertIn("must be in it", str(self.assertRaises(AdminInUse, service.startService)))


class _Unreachable(socket.socket):
    def connect(self, address: object) -> None:
        raise PermissionError(13, "Permission denied")
