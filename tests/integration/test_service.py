"""The gateway under twistd: errors that prevent its start, the orders to stop, and listeners that are all opened or none."""

from __future__ import annotations

import atexit
import errno
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw import service
from s2sgw.admin.server import AdminInUse, VerbError
from s2sgw.admin.views import Numbers
from s2sgw.backend.private_ca import PrivateCAError
from s2sgw.composition import listeners
from s2sgw.composition.federation import OwnPorts
from s2sgw.config.sections import Backend, Console, GatewayLimits, Listener, Queue
from s2sgw.net.admission import Admission, ConnectionLimits
from s2sgw.net.slices import SlicedWork
from s2sgw.peerdb.database import DatabaseUnusable
from s2sgw.reporting.audit import AuditLog
from s2sgw.runtime import descriptors
from s2sgw.runtime.periodic_jobs import PeriodicJobs
from s2sgw.runtime.stream_closing import ACK_SECONDS, CLOSING_TAG_SECONDS, BringingStream
from s2sgw.service import ABORTED_PER_TURN, ANSWERED, GatewayService, RunningGateway, _heed_signals, exit_if_unable_to_start
from s2sgw.spool.interface import SpoolBroken
from s2sgw.xmpp.ending import Cause, Ending
from tests.support.fakes import FixedClock

namespace: Any = SimpleNamespace


def done_at_once(work: SlicedWork[Any]) -> Deferred[Any]:
    """Do all of `work` now."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return succeed(end.value)


class Opened:
    """A running gateway."""

    closed = 0

    def close(self) -> Any:
        self.closed += 1
        return succeed(None)


class StartTests(SynchronousTestCase):
    """Errors that prevent the start."""

    def test_said_in_one_line(self) -> None:
        """Each cause is one line of the log at the highest level, and status 1, without a traceback."""
        for error in (
            AdminInUse("another gateway runs"), PrivateCAError("no key"), CannotListenError("", 5269, OSError("taken")), SpoolBroken("worn"),
            PermissionError("state"), ValueError("what"), DatabaseUnusable("garbled"),
        ):
            with capturedLogs() as logged, self.assertRaises(SystemExit) as stopped, exit_if_unable_to_start():
                raise error
            self.assertEqual(1, stopped.exception.code)
            (line,) = logged
            self.assertEqual((LogLevel.critical, "cannot start", str(error)), (line["log_level"], line["event"], line["detail"]))

    def test_closed_once(self) -> None:
        """Stopping closes opened resources once. Stopping a gateway that never started, or has stopped, has no effect."""
        life = GatewayService(None)  # type: ignore[arg-type]
        self.assertIsNone(life.stopService())
        life._gateway = opened = Opened()  # type: ignore[assignment]
        self.successResultOf(life.stopService())  # type: ignore[arg-type]
        self.assertIsNone(life.stopService())
        self.assertEqual(1, opened.closed)


class ClockTests(SynchronousTestCase):
    """The gateway's clocks."""

    def test_delays_are_monotonic(self) -> None:
        """The reactor counts delays by the monotonic clock before any part of the gateway is made."""
        done: list[str] = []

        def build(config: object, reactor: object) -> None:
            done.append("gateway")
            raise ValueError("enough")

        self.patch(service, "use_monotonic_clock", lambda reactor: done.append("clock"))
        self.patch(service, "build_gateway", build)
        self.patch(descriptors, "raise_limit", Mock())
        self.patch(sys, "setswitchinterval", Mock())
        self.patch(GatewayService, "_log_start", Mock())
        with capturedLogs(), self.assertRaises(SystemExit):
            GatewayService(None).startService()  # type: ignore[arg-type]
        self.assertEqual(["clock", "gateway"], done)


class SignalTests(SynchronousTestCase):
    """SIGTERM and SIGINT end with status 0; SIGHUP reloads; SIGUSR1 opens the log again; SIGUSR2 does nothing."""

    def test_from_the_reactors_thread(self) -> None:
        """A signal only schedules a call in the reactor, which does the work."""
        handlers: dict[int, Any] = {}
        left: list[Any] = []
        done: list[str] = []
        self.patch(signal, "signal", handlers.__setitem__)
        reactor = SimpleNamespace(callFromThread=lambda function, *arguments: left.append(partial(function, *arguments)))
        _heed_signals(reactor, lambda: done.append("stopped"), lambda: done.append("reloaded"), lambda: done.append("reopened"))
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        handlers[signal.SIGINT](signal.SIGINT, None)
        handlers[signal.SIGHUP](signal.SIGHUP, None)
        handlers[signal.SIGUSR1](signal.SIGUSR1, None)
        self.assertEqual(signal.SIG_IGN, handlers[signal.SIGUSR2])
        self.assertEqual([], done)
        for each in left:
            each()
        self.assertEqual(["stopped", "stopped", "reloaded", "reopened"], done)


class Streams(list[Any]):
    """The accepted streams."""

    def accept(self, *values: object) -> None:
        """Accept none."""


class GatewayTests(SynchronousTestCase):
    """The parts that the gateway opens, without a socket."""

    def setUp(self) -> None:
        self.clock: Any = cast(Any, Clock())
        self.clock.stop = lambda: self.stops.append(self.clock.seconds())
        self.stops: list[float] = []
        self.to_former_domains: list[Any] = []
        self.audited: list[tuple[str, dict[str, object]]] = []
        self.opened: list[str] = []
        self.refused: list[tuple[Any, ...]] = []
        self.ports = OwnPorts()
        backends = SimpleNamespace(
            start=lambda: self.opened.append("links"), stop=lambda: self.opened.append("links stopped"),
            check=lambda: None, prepare=lambda config: "", abandon=lambda: None, legs={}, links={}, leaving=[], stale_streams=list,
            leg_at=lambda endpoint: SimpleNamespace(receiving=None), forwarders=lambda backend, config: ["192.0.2.53:53"],
            serves=lambda listen, name: False,
        )
        self.config: Any = SimpleNamespace(
            limits=GatewayLimits(), queue=Queue(), nameservers=("192.0.2.53:53",), domains_of=lambda backend: [], backends=(), listen=(),
            console=Console(),
        )
        self.components: Any = namespace(
            reactor=self.clock, cluster=None, accepted=SimpleNamespace(accept=lambda *ignored: None), own_ports=self.ports, backends=backends,
            views=SimpleNamespace(count=lambda: succeed(Numbers(waiting=7))), custody=SimpleNamespace(services=SimpleNamespace(spools=True), queues=[]),
            slices=SimpleNamespace(run=done_at_once),
            spool=SimpleNamespace(count=7),
            record=SimpleNamespace(refused=lambda *facts: self.refused.append(facts), limit_hit=None, tell_repeated=lambda at_once=False: None),
            admission=Admission(ConnectionLimits(), self.clock),
            own_certificates=SimpleNamespace(look=lambda: None, tell_endings=lambda: None, tell_used=lambda: None),
            secret_watch=SimpleNamespace(look=lambda: None),
            former_domains=SimpleNamespace(turn=lambda: None), streams_to_former_domains=lambda: self.to_former_domains,
            reports=SimpleNamespace(turn=lambda: None, close=lambda: None),
            audit=SimpleNamespace(note_or_log=lambda action, **facts: self.audited.append((action, facts))),
            running=SimpleNamespace(config=self.config, former_domains=set(), trust_files=SimpleNamespace(period=5, look=lambda: None)), jobs=PeriodicJobs(self.clock),
        )
        self.components.verbs, self.components.metrics = {"watch": Mock()}, None
        self.components.record.live = None
        self.components.federation = SimpleNamespace(receiving=None)
        self.components.reconfiguration = SimpleNamespace(adopters=[], listeners=None)
        self.patch(listeners, "listen", self._listen)
        self.patch(listeners, "DNSView", self._view)
        self.gateway = RunningGateway(self.components)
        self.answer: Any = None
        self.views: list[tuple[Any, ...]] = []

    def _listen(self, reactor: object, endpoint: str, factory: object) -> Any:
        self.opened.append(endpoint)
        return [fail(CannotListenError("", 1, OSError("taken"))) if self.answer == "taken" else succeed(self._port())]

    def _port(self) -> Any:
        return SimpleNamespace(
            connected=True, disconnecting=False, getHost=lambda: SimpleNamespace(port=15270), stopReading=lambda: self.opened.append("waits"),
            startReading=lambda: self.opened.append("accepts"), stopListening=lambda: self.opened.append("stops"),
        )

    def _view(self, reactor: object, served: Any, port: int, target: str, forward: list[str], **options: Any) -> Any:
        self.views.append((port, target, forward))

        def stop() -> Deferred[None]:
            self.opened.append("view stopped")
            return succeed(None)

        return SimpleNamespace(listen=self.opened.append, stop=stop, configure=lambda *values, **options: None)

    def open(self, *endpoints: str, backends: tuple[Backend, ...] = ()) -> None:
        """Open these listeners of the federation, and those of the backends."""
        self.config.listen = [Listener.model_validate({"endpoint": each}) for each in endpoints]
        self.config.backends = backends
        self.gateway._open_listeners()

    # --- as a node of a cluster ---

    def as_node(self) -> tuple[list[str], SimpleNamespace]:
        """Make the gateway a node with open doors. Return the list of what becomes of its streams, and its membership."""
        aborted: list[str] = []
        accepted, initiated = (
            SimpleNamespace(abort=lambda ending, name=name: aborted.append(f"{name} {ending.cause.value}")) for name in ("accepted", "initiated")
        )
        self.components.accepted = Streams([(accepted, None)])
        self.components.federation.connect_services = SimpleNamespace(initiated=[SimpleNamespace(connection=initiated)])
        member = SimpleNamespace(why_closed="", door=SimpleNamespace(factory=lambda *values: None))
        self.gateway._node = cast(Any, member)
        self.gateway._restored = True
        return aborted, member

    def test_closed_doors(self) -> None:
        """A node without a lease listens no more and aborts its streams. With the lease it listens again."""
        aborted, _ = self.as_node()
        self.open("tcp:5269:interface=127.0.0.1")
        self.opened.clear()
        self.gateway.close_doors()
        self.assertEqual((["stops"], ["accepted no-node", "initiated no-node"]), (self.opened, aborted))
        self.gateway.open_doors()
        self.assertEqual(["stops", "tcp:5269:interface=127.0.0.1"], self.opened)

    def test_closed_doors_with_many_streams(self) -> None:
        """The streams are aborted some in each turn, also beside one that cannot be."""
        def broken(ending: object) -> None:
            raise ZeroDivisionError

        aborted, _ = self.as_node()
        one = self.components.accepted[0]
        self.components.accepted = Streams([(SimpleNamespace(abort=broken), None), *[one] * (ABORTED_PER_TURN + 1)])
        self.gateway.close_doors()
        self.assertEqual(ABORTED_PER_TURN - 1, len(aborted))
        self.clock.advance(0)
        self.assertEqual((ABORTED_PER_TURN + 2, 1), (len(aborted), len(self.flushLoggedErrors(ZeroDivisionError))))

    def test_stop_of_a_node(self) -> None:
        """A stop gives up the peers first, then ends the streams, and leaves the cluster last."""
        steps: list[str] = []

        async def step(name: str) -> None:
            steps.append(name)

        _, member = self.as_node()
        member.drain, member.leave = partial(step, "drain"), partial(step, "leave")
        self.shut_down(steps)
        self.gateway.close()
        self.assertEqual(["drain", "shut down", "leave"], steps)

    def test_door(self) -> None:
        """Connections that begin in clear come to the door. Those with direct TLS are served here."""
        _, member = self.as_node()
        door = object()
        member.door = SimpleNamespace(factory=lambda *values: door)
        factories = [self.gateway._stream_factory("federation", cast(Any, None), cast(Any, None), direct) for direct in (False, True)]
        self.assertEqual([True, False], [each is door for each in factories])

    def test_port_taken_while_closed(self) -> None:
        """A port that was taken meanwhile is tried again every second, while this node may listen."""
        _, member = self.as_node()
        self.open("tcp:5269:interface=127.0.0.1")
        self.gateway.close_doors()
        self.answer = "taken"
        with capturedLogs() as logged:
            self.gateway.open_doors()
        self.assertEqual(["cannot listen"], [each["event"] for each in logged])
        member.why_closed = "no lease"
        self.opened.clear()
        self.clock.advance(1.0)
        self.assertEqual([], self.opened)
        member.why_closed = ""
        self.gateway.open_doors()
        self.answer = None
        self.opened.clear()
        self.clock.advance(1.0)
        self.assertEqual(["tcp:5269:interface=127.0.0.1"], self.opened)
        self.clock.advance(5.0)
        self.assertEqual(1, len(self.opened))

    def test_given_up(self) -> None:
        """A node that cannot be a member, or stay one, stops with status 1, but not during a stop."""
        hooks: list[Any] = []
        self.patch(atexit, "register", hooks.append)
        for opened, event in ((False, "cannot start"), (True, "cannot go on")):
            hooks.clear()
            self.gateway._opened = opened
            with capturedLogs() as logged:
                self.gateway.give_up("another secret")
            self.assertEqual([event], [each["event"] for each in logged])
            self.assertEqual(1, len(hooks))
        self.gateway._opened, self.gateway._closing = False, True
        self.gateway.give_up("another secret")
        self.assertEqual((1, 2), (len(hooks), len(self.stops)))

    def test_why_unready(self) -> None:
        """The reason why a node takes no connections is that of its membership."""
        _, member = self.as_node()
        self.assertEqual([], self.gateway.unready())
        member.why_closed = "no lease"
        self.assertEqual(["no lease"], self.gateway.unready())

    def test_console_alerts(self) -> None:
        """The alerts of the console are among those of `status`."""
        console: Any = SimpleNamespace(console=SimpleNamespace(alerts=lambda: ["its certificate"]))
        self.gateway._console._open = console
        self.assertEqual(["its certificate"], self.components.views.console_alerts())

    def test_console_is_read_first(self) -> None:
        """A node makes what takes long of its console before the reactor runs, and not in the turn in which it has joined."""
        self.as_node()
        steps: list[str] = []
        for part in ("_start_jobs", "_start_reconfiguration", "_open_admin"):
            self.patch(self.gateway, part, lambda: None)
        self.components.peer_records = SimpleNamespace(database=SimpleNamespace(close=None))
        self.patch(service, "read_console", lambda config: steps.append("console"))
        self.clock.callWhenRunning = lambda call, node: steps.append("joins")
        self.gateway.open()
        self.assertEqual(["console", "joins"], steps)

    def test_why_closed(self) -> None:
        """Before a node has joined nothing listens; later the listeners for peers and servers may be closed; not for a moment's reason."""
        purposes = ("federation", "backend", "console")
        self.assertEqual([""] * 3, [self.gateway._why_closed(each) for each in purposes])
        _, member = self.as_node()
        member.why_closed = "not joined"
        self.assertEqual(["not joined"] * 3, [self.gateway._why_closed(each) for each in purposes])
        self.open("tcp:5269:interface=127.0.0.1")
        self.assertEqual([""] * 3, [self.gateway._why_closed(each) for each in purposes])
        self.gateway.close_doors()
        self.assertEqual(["not joined", "not joined", ""], [self.gateway._why_closed(each) for each in purposes])
        member.why_closed = ""
        self.gateway.open_doors()
        self.assertEqual([""] * 3, [self.gateway._why_closed(each) for each in purposes])
        self.gateway._closing = True
        self.assertEqual(["it is stopping", "it is stopping", ""], [self.gateway._why_closed(each) for each in purposes])

    def test_restored_by_claims(self) -> None:
        """A node of a cluster accepts at once. It does not restore queues at its start: it may have claimed some peers already."""
        self.gateway._node = cast(Any, SimpleNamespace(why_closed="", door=SimpleNamespace(factory=lambda *values: None)))
        self.components.custody.restore = SimpleNamespace(restore_all=lambda: self.fail("restored twice"))
        self.components.views.listeners = list
        self.config.gateway = SimpleNamespace(domains=[])
        self.config.listen = [Listener.model_validate({"endpoint": "tcp:5269:interface=127.0.0.1"})]
        self.gateway.open_doors()
        self.assertEqual(["tcp:5269:interface=127.0.0.1", "waits", "accepts", "links"], self.opened)
        self.assertEqual([], self.gateway.unready())

    def test_reloaded_before_it_joined(self) -> None:
        """A node of a cluster opens the listeners of the configuration that is in force when it has joined."""
        self.gateway._node = cast(Any, SimpleNamespace(why_closed="", door=SimpleNamespace(factory=lambda *values: None)))
        new = SimpleNamespace(**{**vars(self.config), "listen": [Listener.model_validate({"endpoint": "tcp:5270:interface=127.0.0.1"})]})
        self.components.running.config = new
        self.gateway._open_listeners()
        self.assertEqual(["tcp:5270:interface=127.0.0.1", "waits"], self.opened)

    def test_drained_on_a_full_disk(self) -> None:
        """`drain` works, and says what is in memory only. The log has the line for which the audit log has no space."""
        audit = AuditLog(Path("/nowhere"), FixedClock(0.0))
        self.patch(audit, "note", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        self.components.audit = audit
        held = [SimpleNamespace(stanzas=[1, 2])]
        queue = SimpleNamespace(overflow=SimpleNamespace(without_disk=True), pair_queue=SimpleNamespace(only_in_memory=lambda: held))
        self.components.custody.queues = [queue]
        with capturedLogs() as logged:
            answer = Deferred.fromCoroutine(self.gateway._drain({}))
        self.assertEqual({"waiting": 7, "kept": True, "unsaved": 2}, self.successResultOf(answer))
        self.assertEqual(["not in the audit log"], [each["event"] for each in logged if each["log_level"] is LogLevel.critical])
        self.clock.advance(ANSWERED)
        self.assertEqual([ANSWERED], self.stops)

    def test_drained_by_word(self) -> None:
        """`drain` says what is waiting and whether it is kept, and stops after that answer is sent."""
        answer = Deferred.fromCoroutine(self.gateway._drain({}))
        self.assertEqual({"waiting": 7, "kept": True, "unsaved": 0}, self.successResultOf(answer))
        self.assertEqual([], self.stops)
        self.clock.advance(ANSWERED)
        self.assertEqual([ANSWERED], self.stops)
        self.assertEqual([("drain", {"by": "admin socket"})], self.audited)

    def refused_drain(self) -> str:
        return str(self.failureResultOf(Deferred.fromCoroutine(self.gateway._drain({})), VerbError).value)

    def test_drained_twice(self) -> None:
        """A second `drain` answers that the gateway is stopping, before the stop begins and after."""
        self.successResultOf(Deferred.fromCoroutine(self.gateway._drain({})))
        self.assertEqual("it is stopping", self.refused_drain())
        self.clock.advance(ANSWERED)
        self.assertEqual("it is stopping", self.refused_drain())
        self.assertEqual((1, 1), (len(self.stops), len(self.audited)))

    def test_drained_together(self) -> None:
        """Of two `drain` at once, the second is refused as soon as the first has its answer. The gateway stops once."""
        counted: list[Deferred[Numbers]] = [Deferred(), Deferred()]
        waiting = iter(counted)
        self.components.views.count = lambda: next(waiting)
        first, second = (Deferred.fromCoroutine(self.gateway._drain({})) for _ in counted)
        for each in counted:
            each.callback(Numbers(waiting=7))
        self.assertEqual(7, self.successResultOf(first)["waiting"])
        self.failureResultOf(second, VerbError)
        self.clock.advance(ANSWERED)
        self.assertEqual([ANSWERED], self.stops)

    def test_drained_after_a_signal(self) -> None:
        """`drain` is refused while a signal's stop is under way, and begins no other."""
        self.gateway.stop.make()
        self.assertEqual("it is stopping", self.refused_drain())
        self.clock.advance(ANSWERED)
        self.assertEqual([0], self.stops)

    def test_drain_that_cannot_be_noted(self) -> None:
        """`drain` does not stop the gateway if the audit log cannot be written."""
        self.components.audit.note_or_log = Mock(side_effect=OSError("no space"))
        self.assertIn("nothing was done", self.refused_drain())
        self.clock.advance(ANSWERED)
        self.assertEqual([], self.stops)

    def test_backend_with_its_view(self) -> None:
        """The inner listener is opened, and the DNS view that points at it. Other names are looked up at the gateway's name servers (docs/decisions.md#dns-view)."""
        self.open(backends=(Backend.model_validate({"kind": "s2s", "dns_view": "127.53.0.1:53"}),))
        self.assertEqual(["tcp:15270:interface=127.0.0.1", "127.53.0.1:53", "waits"], self.opened)
        self.assertEqual([(15270, "localhost.", ["192.0.2.53:53"])], self.views)
        self.gateway._close_rest(None)
        self.assertEqual("view stopped", self.opened[-1])

    def test_backend_without_a_view(self) -> None:
        """Without `dns_view` there is no view."""
        self.open(backends=(Backend.model_validate({"kind": "s2s"}),))
        self.assertEqual([], self.views)

    def test_nobody_is_accepted_before_the_spool_is_read(self) -> None:
        """New stanzas go behind those in the spool, so callers wait until its lanes are known. Ports that are opened later do not wait."""
        self.open("tcp:5269")
        self.assertEqual(["tcp:5269", "waits"], self.opened)
        self.gateway._all_accept(0)
        self.open("tcp:5269", "tcp:5270")
        self.assertEqual(["tcp:5269", "waits", "accepts", "links", "tcp:5270"], self.opened)
        self.assertTrue(self.ports.reached_at("127.0.0.1", 15270))
        self.assertFalse(self.ports.reached_at("127.0.0.1", 15271))

    def test_closed_before_the_spool_is_read(self) -> None:
        """A reload may close a listener before that. It accepts no connection, and the others do."""
        self.open("tcp:5269", "tcp:5270")
        self.gateway._listening[0].connected = False  # type: ignore[attr-defined]
        self.gateway._all_accept(0)
        self.assertEqual(["tcp:5269", "tcp:5270", "waits", "waits", "accepts", "links"], self.opened)

    def test_ports_of_closed_listeners(self) -> None:
        """A port that a reload closes is no longer a port of the gateway, also before it is closed and if no other one is opened."""
        numbers = iter((5269, 5270))

        def port() -> Any:
            made = SimpleNamespace(connected=True, disconnecting=False, startReading=lambda: None)
            made.getHost = partial(SimpleNamespace, port=next(numbers))
            made.stopListening = lambda: setattr(made, "disconnecting", True)
            return made

        self.patch(self, "_port", port)
        self.gateway._all_accept(0)
        self.open("tcp:5269")
        self.open("tcp:5270")
        self.assertEqual((False, True), (self.ports.reached_at("127.0.0.1", 5269), self.ports.reached_at("127.0.0.1", 5270)))
        self.open()
        self.assertEqual((False, []), (self.ports.reached_at("127.0.0.1", 5270), self.gateway._listening))

    def test_streams_to_a_former_domain(self) -> None:
        """Nothing more is written on them; each is closed when nothing of ours is in flight, or some seconds later."""
        told: list[float] = []
        connection = SimpleNamespace(
            pause=lambda holder: None, when_closed=Deferred, wind_down=lambda ending: told.append(self.clock.seconds()), close=lambda ending: None,
            retiring=False,
        )
        used = SimpleNamespace(busy=True)
        self.to_former_domains = [(BringingStream(connection, SimpleNamespace(managed=False, owes=False)), used)]  # type: ignore[arg-type]
        self.gateway._close_stale_streams(self.config)
        self.assertEqual(([], False), (told, connection.retiring))
        self.components.running.former_domains.add("a domain")
        self.gateway._close_stale_streams(self.config)
        self.clock.advance(ACK_SECONDS - 0.1)
        self.assertEqual(([], True), (told, connection.retiring))
        self.clock.advance(0.2)
        self.assertEqual(1, len(told))
        self.gateway._close_stale_streams(self.config)
        used.busy = False
        self.clock.advance(0.1)
        self.assertEqual(2, len(told))

    def test_stale_streams(self) -> None:
        """A server that lost its domain is told at once, and is read for 5 seconds more, also while look-ups of others are under way."""
        told: list[tuple[str, float]] = []
        connection = SimpleNamespace(
            pause=lambda holder: None, when_closed=Deferred, wind_down=lambda ending: told.append(("closing tag", self.clock.seconds())),
            close=lambda ending: told.append(("closed", self.clock.seconds())),
        )
        owner = SimpleNamespace(engine=SimpleNamespace(managed=False, owes=False))
        self.components.backends.stale_streams = lambda: [(connection, owner)]
        self.components.admitting = True
        self.gateway._close_stale_streams(self.config)
        self.clock.advance(CLOSING_TAG_SECONDS)
        self.assertEqual([("closing tag", 0.0), ("closed", CLOSING_TAG_SECONDS)], told)

    def test_systemd_is_told(self) -> None:
        """systemd is told that the gateway is ready when it accepts connections; then a status line, watchdog signs, and the stop."""
        told: list[str] = []
        notifications = Mock(watchdog_interval=1.0, ready=told.append, status=told.append, alive=lambda: told.append("alive"))
        turning = SimpleNamespace(turn=lambda: None)
        self.components.custody.expiry = SimpleNamespace(sweep=turning.turn)
        self.components.keepalive = self.components.rediscovery = turning
        gateway = RunningGateway(self.components, notifications)
        gateway._start_jobs()
        gateway._all_accept(0)
        self.assertEqual(["0 streams, 7 stanzas waiting"], told)
        self.clock.pump([1] * 10)
        self.assertEqual(["0 streams, 7 stanzas waiting"] * 2 + ["alive"] * 10, sorted(told))
        gateway._close_rest(None)

    def test_every_listener_or_none(self) -> None:
        """All listeners that cannot be opened are reported before the start ends with status 1."""
        self.answer = "taken"
        with capturedLogs() as logged:
            stopped = self.assertRaises(SystemExit, self.open, "tcp:1", "tcp:2", backends=(Backend.model_validate({"kind": "s2s"}),))
        self.assertEqual(1, stopped.code)
        self.assertEqual(["tcp:1", "tcp:2", "tcp:15270:interface=127.0.0.1"], [line["endpoint"] for line in logged])

    def shut_down(self, steps: list[str] | None = None) -> list[Any]:
        """Let the steps of a stop end at once, and note them in `steps`; return the list of what they unbind."""
        unbound: list[Any] = []
        noted = [] if steps is None else steps

        class Steps:
            def __init__(self, custody: object, reactor: object, components: object, links: list[Any], in_engine: bool) -> None:
                unbound.extend(links)

            async def run(self) -> None:
                noted.append("shut down")

        self.patch(service, "Shutdown", Steps)
        return unbound

    def test_router_that_leaves(self) -> None:
        """A stop also unbinds routers that a reload removed a moment ago: they still bring stanzas."""
        unbound = self.shut_down()
        bound, leaving = SimpleNamespace(unbind=Mock()), SimpleNamespace(unbind=Mock())
        self.components.backends.links, self.components.backends.leaving = {"a": bound}, [leaving]
        self.gateway.close()
        self.assertEqual([bound.unbind, leaving.unbind], unbound)

    def test_part_that_does_not_close(self) -> None:
        """A part that does not close, as on a disk that hangs, delays the stop by some seconds. It is named."""
        self.shut_down()
        trigger = object()
        removed: list[object] = []
        self.clock.threadpoolShutdownID, self.clock.removeSystemEventTrigger = trigger, removed.append
        self.gateway._closers.append(Deferred)
        with capturedLogs() as logged:
            done = self.gateway.close()
            self.clock.advance(1)
            self.clock.advance(service.CLOSE_SECONDS - 1.1)
            self.assertNoResult(done)
            self.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual(["not closed in time"], [each["event"] for each in logged if each["log_level"] is LogLevel.critical])
        self.assertEqual(([trigger], None), (removed, self.clock.threadpoolShutdownID))

    def test_call_that_does_not_end(self) -> None:
        """A call in another thread that does not end, as on a file that hangs, delays the stop by some seconds. It is told."""
        self.shut_down()
        trigger, removed = object(), list[object]()
        self.clock.threadpoolShutdownID, self.clock.removeSystemEventTrigger = trigger, removed.append
        self.clock.threadpool = SimpleNamespace(working=[None, None])
        with capturedLogs() as logged:
            done = self.gateway.close()
            self.clock.advance(service.CLOSE_SECONDS - 1)
            self.assertEqual([], removed)
            self.clock.advance(2)
        self.successResultOf(done)
        [told] = [each["detail"] for each in logged if each["log_level"] is LogLevel.critical]
        self.assertIn("2 calls in other threads have not ended", told)
        self.assertEqual([trigger], removed)

    def test_call_that_ends(self) -> None:
        """A call in another thread that ends in time is awaited, and nothing is told."""
        self.shut_down()
        self.clock.threadpool = SimpleNamespace(working=[None])
        with capturedLogs() as logged:
            done = self.gateway.close()
            self.clock.advance(1)
            self.assertNoResult(done)
            self.clock.threadpool.working = []
            self.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual([], [each for each in logged if each["log_level"] is LogLevel.critical])

    def test_proxy_that_is_refused(self) -> None:
        """A client without the PROXY protocol, or without permission, is recorded only by its address, because its name is not known yet."""
        ending = Ending(Cause.NOT_ALLOWED)
        self.gateway._refused("federation", "192.0.2.1:1", ending)
        self.assertEqual([("inbound", "federation", ("", ""), "192.0.2.1:1", ending)], self.refused)
