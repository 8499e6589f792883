"""`twistd s2sgw`: the options, and the life of the gateway: it is opened, and closed gracefully."""

from __future__ import annotations

import gc
import os
import platform
import pwd
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from s2sgw import __version__
from s2sgw.admin.http_api import APIServices, Folder, add_resources, everybody
from s2sgw.admin.log_verbs import LogVerbs
from s2sgw.admin.server import AdminInUse, AdminService, Arguments, Verb, VerbError, asked_by
from s2sgw.admin.spool_summaries import number_without_disk
from s2sgw.admin.verb_table import is_read_only
from s2sgw.admin.views import Numbers
from s2sgw.backend.private_ca import PrivateCAError
from s2sgw.composition import former_domains
from s2sgw.composition.backends import RECONFIGURED
from s2sgw.composition.console_listener import ConsoleListener
from s2sgw.composition.gateway import GatewayComponents, UsedStream, build_gateway
from s2sgw.composition.limits import backend_admission
from s2sgw.composition.listeners import Listeners, ViewNodes
from s2sgw.config import Config, ConfigError
from s2sgw.config.sections import Listener
from s2sgw.net.admission import Admission
from s2sgw.net.connection import StreamConnection
from s2sgw.net.fair_poll import share_turns
from s2sgw.net.http_server import BoundedSite
from s2sgw.net.listening import StreamFactory
from s2sgw.net.proxy_protocol import ProxyFactory
from s2sgw.net.threads import calls_under_way, leave_threads
from s2sgw.peerdb.database import DatabaseUnusable
from s2sgw.reporting import daily_report
from s2sgw.reporting.log import LineObserver, LoggedService, destination, observer
from s2sgw.reporting.metrics import MetricsPage
from s2sgw.reporting.record import Leg, direction_of
from s2sgw.runtime import descriptors, own_certificates, rediscovery, secret_watch
from s2sgw.runtime.configuration_file import VARIABLE, NoConfiguration, find_configuration
from s2sgw.runtime.monotonic_clock import use_monotonic_clock
from s2sgw.runtime.preflight import check_configuration
from s2sgw.runtime.shutdown import Shutdown
from s2sgw.runtime.stop_request import StopRequest
from s2sgw.runtime.stream_closing import ACK_SECONDS, BringingStream, close_streams, wait_while
from s2sgw.runtime.system_clock import SYSTEM_CLOCK
from s2sgw.runtime.systemd import ServiceNotifications
from s2sgw.s2s.keepalive import TICK
from s2sgw.s2s.legs import ReceivingLeg
from s2sgw.spool.interface import SpoolBroken
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

if TYPE_CHECKING:  # imported only with the section [cluster]
    from s2sgw.composition.cluster import ClusterParts
    from s2sgw.composition.node_life import NodeLife

#: Seconds between two status lines for systemd.
STATUS_SECONDS = 10
#: Seconds in which each of the last parts must close, such as the file of the daily report. Then the stop goes on without it.
CLOSE_SECONDS = 10.0
#: Seconds between two looks for a backend whose check is due (`backend.health`).
BACKEND_LOOK_SECONDS = 5.0
#: Seconds between two looks for events that were only counted, and must be logged.
REPEATED_SECONDS = 5.0
#: Seconds until the stop that `drain` requested begins. By then its answer is sent.
ANSWERED = 0.2
#: Seconds between two attempts to open a listener that another process took while this node had no lease.
RESUME_SECONDS = 1.0
#: Streams that are aborted in one turn of the reactor.
ABORTED_PER_TURN = 50
#: The end of all streams of a node that has lost its lease.
AWAY = Ending(Cause.NO_NODE, "this node of the gateway has no contact with the others")
#: The answer to a request to stop, and to `/readyz`, while a stop is under way.
STOPPING = "it is stopping"
#: Thresholds of the cyclic collector (`gc.set_threshold`). It examines the youngest objects when there are 700 more than before,
#: and objects that survived this twice. That takes a microsecond for each, so a few milliseconds at most, also while thousands of
#: streams begin. It never examines all objects: that would stop a gateway with 10,000 streams for a large part of a second.
COLLECTOR_THRESHOLDS = (700, 2, 1_000_000)
#: Seconds for which a computing thread (it reads a long configuration) may delay the reactor's thread at a time: the least that
#: costs neither of them much. Python's own 5 ms would be a delay of 5 ms at every read from a socket.
SWITCH_SECONDS = 0.001


class Options(usage.Options):
    """The options of `twistd s2sgw`."""

    synopsis = "[--config s2sgw.toml]"
    longdesc = "A server-to-server XMPP federation gateway in front of an existing server."
    optParameters = [
        ["config", "c", None, f"Configuration file. Default: ${VARIABLE}, ./s2sgw.toml, or /etc/s2sgw/s2sgw.toml.", str],
    ]


class UnusableConfiguration(SystemExit, usage.UsageError):
    """A `UsageError` that twistd shows without a traceback (it expects none from `makeService`): status 1."""


def makeService(options: Options) -> Service:
    """Return the service for twistd. Raises a `UsageError` with all errors of the configuration, or of the log's file."""
    try:
        with collector_paused():
            checked = check_configuration(Path(options["config"] or find_configuration()))
    except (ConfigError, NoConfiguration) as error:
        raise UnusableConfiguration(str(error)) from None
    try:
        where = destination(options.parent or {})
    except OSError as error:
        raise UnusableConfiguration(f"{error.filename}: the log cannot be written: {error.strerror}") from None
    config = checked.config
    lines = None if where is None else observer(where, config.log.format, config.log.level, config.limits.log_lines_per_second)
    service = LoggedService(lines)
    GatewayService(config, checked.warnings, lines).setServiceParent(service)
    return service


def _user() -> str:
    """Return the name of the user that we run as, or its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the cyclic collector from walking again and again over all that a long configuration makes, which stays."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def exit_if_unable_to_start() -> Iterator[None]:
    """Log in one line why the gateway cannot start, and exit with status 1."""
    try:
        yield
    except (AdminInUse, PrivateCAError, CannotListenError, DatabaseUnusable, SpoolBroken, OSError, ValueError) as error:
        Logger("s2sgw").critical(event="cannot start", detail=str(error))
        raise SystemExit(1) from None


class GatewayService(Service):
    """Builds and opens the gateway when the reactor starts, and closes it gracefully when the reactor stops."""

    log = Logger("s2sgw")

    def __init__(self, config: Config, warnings: Sequence[str] = (), lines: LineObserver | None = None) -> None:
        """Take the configuration. `lines` writes the log; None: another program does."""
        self.config = config
        self._warnings = warnings
        self._lines = lines
        self._gateway: RunningGateway | None = None

    def startService(self) -> None:
        from twisted.internet import reactor

        super().startService()
        self._log_start()
        use_monotonic_clock(reactor)
        descriptors.raise_limit()
        sys.setswitchinterval(SWITCH_SECONDS)
        with exit_if_unable_to_start():
            components = build_gateway(self.config, reactor)
            self._gateway = RunningGateway(components, lines=self._lines)
            self._gateway.open()
        components.reconfiguration.adopters.append(self._configure_log)
        reactor.callWhenRunning(
            _heed_signals, reactor, self._gateway.stop.make, components.reconfiguration.reload.signalled, self._reopen_log,
        )
        reactor.callWhenRunning(freeze_startup_objects)
        reactor.callWhenRunning(self._share_turns, reactor, components)

    def _reopen_log(self) -> None:
        if self._lines is not None:
            self._lines.reopen()

    def _configure_log(self, config: Config) -> None:
        """Write the log by a reloaded configuration."""
        if self._lines is not None:
            self._lines.configure(config.log.format, config.log.level, config.limits.log_lines_per_second)

    def _share_turns(self, reactor: Any, components: GatewayComponents) -> None:
        """Divide each turn of the reactor between peers and strangers, and measure it."""
        end = share_turns(
            reactor, components.admission.strangers, components.turns, components.turn_watch,
        )
        components.turn_watch.start()
        reactor.addSystemEventTrigger("after", "shutdown", end)
        reactor.addSystemEventTrigger("after", "shutdown", components.turn_watch.stop)

    def _log_start(self) -> None:
        """Log the facts about the start, for bug reports."""
        config = self.config
        self.log.info(
            event="starting", version=__version__, python=platform.python_version(), config=str(config.path),
            state=str(config.gateway.state), user=_user(),
        )
        for warning in self._warnings:
            self.log.warn(event="configuration warning", detail=warning)

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        gateway, self._gateway = self._gateway, None
        return None if gateway is None else gateway.close()


def _heed_signals(reactor: Any, stop: Callable[[], None], reload: Callable[[], None], reopen_log: Callable[[], None]) -> None:
    """Stop on SIGTERM and SIGINT, reload on SIGHUP, open the log file again on SIGUSR1; ignore SIGUSR2.

    twistd ends by the signal that stopped it. A requested stop is a success, so the gateway ends with status 0.
    """
    signal.signal(signal.SIGUSR1, _in_reactor(reactor, reopen_log))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _in_reactor(reactor, stop))
    signal.signal(signal.SIGHUP, _in_reactor(reactor, reload))


def _in_reactor(reactor: Any, call: Callable[[], object]) -> Callable[..., None]:
    """Return a signal handler that makes `call` on the reactor's thread."""
    def handler(*_: object) -> None:
        reactor.callFromThread(call)

    return handler


def freeze_startup_objects() -> None:
    """Exempt the objects of the start, some 80,000, and all old ones from the cyclic collector.

    Objects of a closed connection leave memory by their reference counts alone (tests/integration/test_memory.py), so
    the collector has little to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


class RunningGateway:
    """Opens the components of one gateway, and closes them gracefully."""

    log = Logger("s2sgw")

    def __init__(
        self, components: GatewayComponents, notifications: ServiceNotifications | None = None, lines: LineObserver | None = None,
    ) -> None:
        self.components = components
        self._lines = lines
        self._systemd = notifications or ServiceNotifications()
        #: stops the process for a signal or `drain`
        self.stop = StopRequest(components.reactor)
        self.config = components.running.config
        self._closers: list[Callable[[], Any]] = []
        self._listening: list[IListeningPort] = []
        self._api = self._api_services()
        self._console = ConsoleListener(components.reactor, self._build_console, self._listens)
        components.views.console_alerts = self._console.alerts
        self._listeners = Listeners(
            components.reactor, components.backends, self._federation_factory, self._inner_factory, self._listens,
            others=[self._console], committed=self._note_ports,
            nodes=None if components.cluster is None else self._node_directory(components.cluster),
        )
        self._restored = self._closing = self._samples = self._opened = False
        #: a member of a cluster; None: alone
        self._node = None if components.cluster is None else self._build_node(components.cluster)

    def open(self) -> None:
        """Open the admin socket, the DNS view and every listener. Raises the error if one of them cannot be opened."""
        self._closers.append(self.components.peer_records.database.close)  # closed last: others write while they close
        self._start_jobs()
        self._start_reconfiguration()
        self._open_admin()
        if self._node is None:
            self._open_all()
        else:
            read_console(self.config)  # not when it has joined: that would be one long turn of the reactor
            self.components.reactor.callWhenRunning(self._join, self._node)

    def _build_node(self, parts: ClusterParts) -> NodeLife:
        """Build the life of a node of a cluster. Without a cluster nothing of it is imported."""
        from s2sgw.composition.node_life import HandedOnFactories, build_node

        components = self.components
        federation = self._plain_factory("federation", components.federation.receiving, components.admission)
        admission = backend_admission(self.config, components.reactor, components.record)

        def backend(domain: Domain) -> ServerFactory | None:
            leg = components.backends.leg_of(domain)
            return None if leg is None else self._plain_factory("backend", leg.receiving, admission)

        handed_on = HandedOnFactories(federation, backend)
        local_domains, reactor = components.running.local_domains, components.reactor
        components.views.why_closed = self._why_closed
        return build_node(parts, self.config.cluster, local_domains, components.secret, handed_on, self, reactor)

    def _node_directory(self, parts: ClusterParts) -> ViewNodes:
        from s2sgw.composition.server_nodes import NodeDirectory

        listen = self.config.cluster.listen
        assert listen is not None
        return NodeDirectory(parts.members, parts.homes, listen, self.components.reactor)

    def _why_closed(self, purpose: str) -> str:
        """Return why the listeners of a purpose are closed on this node of a cluster; "": they are open."""
        if self._node is None or (self._opened and purpose not in ("federation", "backend")):
            return ""
        if self._closing:
            return STOPPING
        return "" if self._opened and not self._listeners.paused else self._node.why_closed

    def _join(self, node: NodeLife) -> None:
        Deferred.fromCoroutine(node.join()).addErrback(self._not_joined)

    def _not_joined(self, failure: Failure) -> None:
        self.give_up(failure.getErrorMessage())

    # --- what the membership of a cluster asks for ---

    def open_doors(self) -> None:
        """Listen for peers and servers. The first time this is the end of the start."""
        if self._closing:
            return
        if not self._opened:
            try:
                self._open_all()
            except SystemExit:
                self.give_up("a listener cannot be opened")
        elif wrong := self._listeners.resume():
            for each in wrong:
                self.log.critical(event="cannot listen", endpoint=each.endpoint, detail=each.detail)
            self.components.reactor.callLater(RESUME_SECONDS, self._open_again)

    def _open_again(self) -> None:
        if self._node is not None and not self._node.why_closed:
            self.open_doors()

    def close_doors(self) -> None:
        """Close the listeners for peers and servers, and abort all streams: this node may write nothing."""
        if self._opened:
            self._listeners.pause()
        connections = [connection for connection, _ in self.components.accepted]
        connections += [stream.connection for stream in self.components.federation.connect_services.initiated]
        self._abort_some(connections)

    def _abort_some(self, connections: list[StreamConnection]) -> None:
        """Abort these connections, some in each turn of the reactor."""
        for connection in connections[:ABORTED_PER_TURN]:
            try:
                connection.abort(AWAY)
            except Exception:
                self.log.failure("a stream could not be aborted")
        if rest := connections[ABORTED_PER_TURN:]:
            self.components.reactor.callLater(0, self._abort_some, rest)

    def give_up(self, why: str) -> None:
        """Stop, with status 1: this node cannot be a member, or cannot stay one."""
        if not self._closing:
            self.log.critical(event="cannot go on" if self._opened else "cannot start", detail=why)
            self.stop.fail()

    # --- the parts ---

    def _start_jobs(self) -> None:
        jobs = self.components.jobs
        self._closers.append(jobs.stop)
        jobs.start("queue sweep", 1, self.components.custody.expiry.sweep)
        jobs.start("repeated events", REPEATED_SECONDS, self.components.record.tell_repeated)
        self._closers.append(partial(self.components.record.tell_repeated, at_once=True))
        jobs.start("keep-alive", TICK, self.components.keepalive.turn)
        trust_files = self.components.running.trust_files
        jobs.start("trust files", trust_files.period, trust_files.look)
        jobs.start("backend check", BACKEND_LOOK_SECONDS, self.components.backends.check)
        self.components.own_certificates.tell_used()
        self.components.own_certificates.tell_endings()
        jobs.start("certificates", own_certificates.LOOK_SECONDS, self.components.own_certificates.look)
        jobs.start("secrets", secret_watch.LOOK_SECONDS, self.components.secret_watch.look)
        jobs.start("daily report", daily_report.WRITE_SECONDS, self.components.reports.turn)
        self._closers.append(self.components.reports.close)
        jobs.start("rediscovery", rediscovery.TICK, self.components.rediscovery.turn)
        if self._systemd.watchdog_interval is not None:
            jobs.start("watchdog", self._systemd.watchdog_interval, self._systemd.alive)

    def _start_reconfiguration(self) -> None:
        self.components.reconfiguration.read_ahead = read_console
        self.components.reconfiguration.open()
        self._closers.append(self.components.reconfiguration.close)

    def _build_console(self, certificate: Path | None) -> Any:
        """Build a console with this certificate. Without a console nothing of it is imported. Raises `UnusableCertificate`."""
        from s2sgw.console.history import SAMPLE_SECONDS
        from s2sgw.console.opening import build_console

        components = self.components
        console = build_console(
            lambda: components.running.config, self._api, components.threads, components.audit, SYSTEM_CLOCK.seconds, certificate,
        )
        if not self._samples:
            self._samples = True
            components.jobs.start("console history", SAMPLE_SECONDS, self._console.sample)
        return console

    def _open_admin(self) -> None:
        components = self.components
        api = replace(self._api, verbs={**self._api.verbs, "console token": self._console.token})
        root = Folder()
        add_resources(root, api, everybody)
        http = BoundedSite(root, components.reactor)
        self._closers.append(http.close)
        admin = AdminService(
            components.reactor, self.config.admin_socket, api.verbs, components.slices, http, self.config.admin.group,
            is_read_only,
        )
        admin.startService()
        self._closers.append(admin.stopService)

    def _api_services(self) -> APIServices:
        components = self.components
        verbs: dict[str, Verb] = {
            **components.verbs, "drain": self._drain, "log level": LogVerbs(self._lines, components.audit).level,
        }
        if components.cluster is not None:
            from s2sgw.composition.home_spread import cluster_verbs

            verbs = cluster_verbs(
                components.cluster, verbs, components.running.local_domains, components.slices, components.reactor,
                components.audit, components.record.live,
            )
        return APIServices(
            components.reactor, components.slices, verbs, verbs["watch"], MetricsPage(components.metrics), self.unready,
        )

    def unready(self) -> list[str]:
        """Return why the gateway takes no connections now, a sentence for each reason."""
        if self._closing:
            return [STOPPING]
        if self._node is not None and self._node.why_closed:
            return [self._node.why_closed]
        return [] if self._restored else ["it is starting"]

    async def _drain(self, arguments: Arguments) -> dict[str, object]:
        """Stop as SIGTERM does, after this answer is sent. Raises `VerbError` if the gateway is stopping."""
        if self.stop.made:
            raise VerbError(STOPPING)
        try:
            self.components.audit.note_or_log("drain", by=asked_by(arguments))
        except OSError as error:
            raise VerbError(f"nothing was done: the audit log cannot be written: {error}") from None
        self.log.info(event="draining", by=asked_by(arguments))
        numbers, custody = await self.components.views.count(), self.components.custody
        unsaved = await self.components.slices.run(number_without_disk(custody.queues)) if custody.services.spools else 0
        if not self.stop.make_later(ANSWERED):
            raise VerbError(STOPPING)
        return {"waiting": numbers.waiting, "kept": custody.services.spools, "unsaved": unsaved}

    def _open_all(self) -> None:
        """End the start: open the listeners, and accept connections when the spool was read.

        A node of a cluster restores the queues of each peer when it claims it. Some may be restored by now.
        """
        components = self.components
        self._open_listeners()
        if self._node is None:
            components.custody.restore.restore_all().addCallback(self._all_accept)
        else:
            self._all_accept(0)
        domains = [str(domain) for domain in self.config.gateway.domains]
        self.log.info(event="ready", domains=domains, listeners=[row["endpoint"] for row in components.views.listeners()])

    def _open_listeners(self) -> None:
        """Open every listener of the configuration. A reload may change them from then on."""
        components = self.components
        config = components.running.config  # a node of a cluster may have been reloaded before it joined
        wrong = self._listeners.prepare(config)
        for each in wrong:
            self.log.critical(event="cannot listen", endpoint=each.endpoint, detail=each.detail)
        if wrong:
            raise SystemExit(1)
        self._opened = True
        self._listeners.commit(config)
        self._closers += [self._console.close, self._stop_views]
        components.reconfiguration.listeners = self._listeners
        components.reconfiguration.adopters.append(self._close_stale_streams)

    def _stop_views(self) -> Deferred[Any]:
        return DeferredList(self._listeners.stop_views(), consumeErrors=True)

    def _close_stale_streams(self, _: Config) -> None:
        """Close the streams that bring stanzas from or to a domain that a reload took from their server, or gave up.

        What was sent on them by then is accepted.
        """
        components = self.components
        stale = [BringingStream(connection, owner.engine) for connection, owner in components.backends.stale_streams()]
        streams = components.streams_to_former_domains() if components.running.former_domains else []
        for closing in (self._close_bringing(stale, ()), self._close_bringing(*_columns(streams))):
            Deferred.fromCoroutine(closing).addErrback(self._not_in_order)

    async def _close_bringing(self, streams: Sequence[BringingStream], users: Sequence[UsedStream]) -> None:
        """Write nothing more on `streams`, and close them when nothing of ours is in flight, or some seconds later."""
        if not streams:
            return
        clock, ending = self.components.reactor, RECONFIGURED
        for stream in streams:
            stream.connection.retiring = True
        await wait_while(clock, partial(_are_busy, users), ACK_SECONDS)
        # the gateway goes on: look-ups, which are those of all peers, need not be over before the other side is told
        await close_streams(clock, lambda: False, streams, ending)

    def _federation_factory(self, listener: Listener) -> ServerFactory:
        """Return the factory for connections of a listener. If the listener has the PROXY protocol, it is read first."""
        side = self.components.federation.receiving
        if listener.zero_handshake:
            side = replace(side, zero_handshake=True)
        factory = self._stream_factory("federation", side, self.components.admission, listener.tls == "direct")
        if not listener.proxy_protocol:
            return factory
        refused = partial(self._refused, "federation")
        return ProxyFactory(factory, listener.trusted_proxies, self.components.reactor, refused)

    def _inner_factory(self, endpoint: str) -> ServerFactory:
        """Return the factory for connections of the server with this inner listener."""
        admission = backend_admission(self.config, self.components.reactor, self.components.record)
        leg = self.components.backends.leg_at(endpoint)
        return self._stream_factory("backend", leg.receiving, admission, direct_tls=False)

    def _stream_factory(self, leg: Leg, side: ReceivingLeg, admission: Admission, direct_tls: bool) -> ServerFactory:
        """Return the factory for connections of a leg. In a cluster those that begin in clear may be those of another node."""
        if self._node is None or direct_tls:
            return self._plain_factory(leg, side, admission, direct_tls)
        accept = partial(self.components.accepted.accept, side, direct_tls)
        return self._node.door.factory(leg, accept, admission, partial(self._refused, leg))

    def _plain_factory(self, leg: Leg, side: ReceivingLeg, admission: Admission, direct_tls: bool = False) -> ServerFactory:
        accept = partial(self.components.accepted.accept, side, direct_tls)
        return StreamFactory(accept, admission, partial(self._refused, leg), direct_tls=direct_tls)

    def _refused(self, leg: Leg, address: str, ending: Ending) -> None:
        """Record a connection that named no peer, and was refused or ended."""
        direction = direction_of(leg)
        self.components.record.refused(direction, leg, ("", ""), address, ending)

    def _listens(self, port: IListeningPort) -> None:
        self._listening.append(port)
        if not self._restored:
            port.stopReading()  # type: ignore[attr-defined]

    def _note_ports(self) -> None:
        """Note the ports that listen. A reload closed others: a port that is being closed is still connected."""
        self._listening = [
            each for each in self._listening if each.connected and not each.disconnecting  # type: ignore[attr-defined]
        ]
        self.components.own_ports.replace(getattr(each.getHost(), "port", 0) for each in self._listening)

    def _all_accept(self, queues: int) -> None:
        """Begin to accept: the queues in the spool are known, so new stanzas go after those. Until now, callers have waited."""
        self._restored = True
        for port in self._listening:
            if port.connected:  # type: ignore[attr-defined]  # a reload may have closed it
                port.startReading()  # type: ignore[attr-defined]
        # not before: what the spool has of former domains is known now
        self.components.jobs.start("former domains", former_domains.LOOK_SECONDS, self.components.former_domains.turn)
        self.components.backends.start()
        self._closers.append(self.components.backends.stop)
        if queues:
            self.log.info(event="restored", lanes=queues, stanzas=self.components.spool.count)
        self._systemd.ready(status_line(Numbers(waiting=self.components.spool.count)))
        self.components.jobs.start("systemd status", STATUS_SECONDS, self._show_status)

    async def _show_status(self) -> None:
        self._systemd.status(status_line(await self.components.views.count()))

    def close(self) -> Deferred[Any]:
        """Close gracefully: no new streams, then the open ones, each within its time limit; then the rest."""
        self._systemd.stopping()
        self._closing = self.components.reconfiguration.stopping = True
        ports, self._listening = self._listening, []
        closed = [maybeDeferred(port.stopListening) for port in ports]
        components = self.components
        links = [link.unbind for link in (*components.backends.links.values(), *components.backends.leaving)]
        shutdown = Shutdown(components.custody, components.reactor, components, links, in_engine=self._node is not None)
        draining = Deferred.fromCoroutine(self._shut_down(shutdown))
        draining.addErrback(self._not_in_order)
        everything: list[Deferred[Any]] = [*closed, draining]
        return DeferredList(everything, consumeErrors=True).addCallback(self._close_rest)

    async def _shut_down(self, shutdown: Shutdown) -> None:
        """Give up the peers of a cluster one by one, then stop, and then leave the cluster."""
        if self._node is not None:
            await self._node.drain()
        await shutdown.run()
        if self._node is not None:
            await self._node.leave()

    def _not_in_order(self, failure: Failure) -> None:
        self.log.failure("streams could not be closed gracefully", failure)

    def _close_rest(self, _: object) -> Deferred[Any]:
        self.components.admission.close()
        closers, self._closers = self._closers[::-1], []
        reactor = self.components.reactor
        late = partial(_not_closed, reactor)
        closed = [maybeDeferred(closer).addTimeout(CLOSE_SECONDS, reactor, late) for closer in closers]
        closed.append(_await_threads(reactor))
        return DeferredList(closed, consumeErrors=True)


def _not_closed(reactor: Any, _: object, seconds: float) -> None:
    """Go on: a file of the state directory is on a disk that does not answer."""
    Logger("s2sgw").critical(event="not closed in time", detail=f"a part of the gateway did not close within {seconds:.0f} s")
    leave_threads(reactor)


def _await_threads(reactor: Any) -> Deferred[None]:
    """Wait until all calls in other threads have returned. After a while go on: a file that one of them reads does not answer."""

    def busy() -> bool:
        return calls_under_way(reactor) > 0

    def ended(_: None) -> None:
        if number := calls_under_way(reactor):
            detail = f"{number} calls in other threads have not ended: a file does not answer"
            Logger("s2sgw").critical(event="not closed in time", detail=detail)
            leave_threads(reactor)

    return wait_while(reactor, busy, CLOSE_SECONDS).addCallback(ended)


def _are_busy(users: Sequence[UsedStream]) -> bool:
    return any(user.busy for user in users)


def _columns(rows: Sequence[tuple[BringingStream, UsedStream]]) -> tuple[list[BringingStream], list[UsedStream]]:
    return [stream for stream, _ in rows], [used for _, used in rows]


def read_console(config: Config) -> None:
    """Make what takes long of a console, if one is configured: imports, templates, a hash. It needs no reactor."""
    if config.console.listen is not None:
        from s2sgw.console import login, opening, rendering  # noqa: F401

        rendering.environment()
        login.hash_of_nobody()


def status_line(numbers: Numbers) -> str:
    """Return the line for `systemctl status`."""
    return f"{sum(numbers.streams.values())} streams, {numbers.waiting} stanzas waiting"
