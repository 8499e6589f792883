"""The membership of this node on an engine: performs what `Members` decides (docs/cluster.md).

The clock is the reactor's, which is monotonic. A machine that is suspended, or whose virtual clock is stopped, does not see that
time has passed. Such a node writes until its next heartbeat is refused. What is stored is protected by the fences.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.error import ConnectionRefusedError as TwistedConnectionRefused
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.cluster.engine import ClusterEngine, Conflict, EngineError, Entry, Watch
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.members import (
    MemberEffect,
    MemberNotice,
    Members,
    ProbeListener,
    ReadMembers,
    ReadRecord,
    SendPulse,
    WriteRecord,
    is_of_one_machine,
)
from s2sgw.cluster.node_records import NODES, node_key
from s2sgw.xmpp.host_port import HostPort

#: Seconds between two looks at what is due. The lease itself is compared with the clock at each write.
TICK = 0.1
#: Seconds after which a listener that does not answer is taken as one that does not refuse.
PROBE_SECONDS = 1.0


class MembershipUser(Protocol):
    """Acts on what happens to the membership."""

    def noticed(self, notice: MemberNotice) -> None:
        """Take a notice of `s2sgw.cluster.members`. Called on the reactor's thread; may call the membership."""


class ListenerProbe(Protocol):
    """Finds out whether a listener has a process."""

    async def refused(self, listener: str) -> bool:
        """Return whether a connection to the listener (host:port) is refused. False in every other case."""


class TCPProbe:
    """The `ListenerProbe` by a TCP connection, which is closed at once. A listener without an IP address is never refused.

    It connects from the address `source`, by which the other nodes know this one; "": the system chooses.
    """

    def __init__(self, reactor: Any, source: str = "") -> None:
        self._reactor = reactor
        self._source = source

    async def refused(self, listener: str) -> bool:
        """Return whether a connection is refused within `PROBE_SECONDS`."""
        try:
            address = HostPort.parse(listener, 0)
        except ValueError:
            return False
        if not is_of_one_machine(address):
            return False
        endpoint_type = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
        same_family = bool(self._source) and (":" in self._source) == (":" in address.host)
        bind = (self._source, 0) if same_family else None
        endpoint = endpoint_type(self._reactor, address.host, address.port, timeout=PROBE_SECONDS, bindAddress=bind)
        try:
            await endpoint.connect(Factory.forProtocol(_Probe))
        except TwistedConnectionRefused:
            return True
        except ConnectError:
            pass
        return False


class _Probe(TwistedProtocol):
    """Closes its connection."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class Membership:
    """Drives `members` on `engine`. `user` gets the notices, in order."""

    log = Logger("s2sgw")

    def __init__(
        self, members: Members, engine: ClusterEngine, probe: ListenerProbe, user: MembershipUser, clock: IReactorTime,
    ) -> None:
        self.members = members
        self.failures = Failures()
        self._engine = engine
        self._probe = probe
        self._user = user
        self._clock = clock
        self._performing = False
        self._watch: Watch | None = None
        self._calls: set[Deferred[None]] = set()
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock

    def start(self) -> None:
        """Join. The cluster listener of this node is open."""
        self._engine.on_pulse(self._pulse_heard)
        self._watch = self._engine.watch(NODES, self._changed)
        self.members.start()
        self._loop.start(TICK)

    def stop(self) -> None:
        """Do nothing more. The lease ends by itself; `Members.leave` ends it in order."""
        if self._loop.running:
            self._loop.stop()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        for call in list(self._calls):
            call.cancel()

    def may_write(self) -> bool:
        """Return whether this node may send to other servers now. It is asked at each write."""
        return self.members.may_write(self._clock.seconds())

    def leave(self) -> None:
        """End the session in order. `MembershipLeft` is noticed when the other nodes know."""
        self.members.leave()
        self._perform()

    # --- events ---

    def _tick(self) -> None:
        try:
            self.members.tick(self._clock.seconds())
        except Exception:
            self.failures.note("the membership could not be looked at")
        self._perform()

    def _changed(self, entry: Entry) -> None:
        self.members.changed(entry, self._clock.seconds())
        self._perform()

    def _pulse_heard(self, data: bytes) -> None:
        if self._loop.running:
            self.members.pulse_heard(data, self._clock.seconds())
            self._perform()

    # --- effects ---

    def _perform(self) -> None:
        """Perform what is wanted, in order. What an answer wants meanwhile is performed behind it."""
        if self._performing:
            return
        self._performing = True
        try:
            while effects := self.members.effects():
                for effect in effects:
                    self._perform_one(effect)
        finally:
            self._performing = False

    def _perform_one(self, effect: MemberEffect) -> None:
        match effect:
            case ReadRecord():
                self._begin(self._read_record(effect))
            case ReadMembers():
                self._begin(self._read_members(effect))
            case WriteRecord():
                self._begin(self._write_record(effect))
            case ProbeListener():
                self._begin(self._probe_listener(effect))
            case SendPulse():
                self._engine.pulse(effect.data)
            case _:
                self._notice(effect)

    def _notice(self, notice: MemberNotice) -> None:
        try:
            self._user.noticed(notice)
        except Exception:
            self.log.failure("a change of the membership could not be followed: {notice}", notice=notice)

    def _begin(self, call: Coroutine[Deferred[Any], Any, None]) -> None:
        running = Deferred.fromCoroutine(call)
        self._calls.add(running)
        running.addErrback(self._failed)
        running.addBoth(self._ended, running)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("a call to the engine of the cluster failed", failure)

    def _ended(self, _: object, running: Deferred[None]) -> None:
        self._calls.discard(running)
        self._perform()

    async def _read_record(self, call: ReadRecord) -> None:
        try:
            entry = await self._engine.get(node_key(call.node))
        except Exception as error:
            self._check_error(error)
            self.members.record_not_read(call, self._clock.seconds())
        else:
            self.members.record_read(call, entry, self._clock.seconds())

    async def _read_members(self, call: ReadMembers) -> None:
        entries: Sequence[Entry] | None
        try:
            entries = await self._engine.entries(NODES)
        except Exception as error:
            self._check_error(error)
            entries = None
        self.members.members_read(call, entries, self._clock.seconds())

    async def _write_record(self, call: WriteRecord) -> None:
        try:
            sequence = await self._engine.put(node_key(call.record.node), call.record.encode(), call.expected)
        except Exception as error:
            self._check_error(error)
            unknown = not isinstance(error, EngineError)  # the record may have been written, so it is read
            self.members.not_written(call, unknown or isinstance(error, Conflict), self._clock.seconds())
        else:
            self.members.written(call, sequence, self._clock.seconds())

    async def _probe_listener(self, call: ProbeListener) -> None:
        try:
            refused = await self._probe.refused(call.listener)
        except Exception as error:
            self._check_error(error)
            refused = False
        self.members.probed(call, refused, self._clock.seconds())

    def _check_error(self, error: Exception) -> None:
        """Note a fault of the program. Its call is answered all the same, because what is not answered is never done again."""
        if isinstance(error, CancelledError):
            raise error
        if not isinstance(error, EngineError):
            self.failures.note("a call to the engine of the cluster failed", Failure(error))
