"""The nodes that are alive, and the right of this one to send to other servers (docs/cluster.md).

A pure machine. Its inputs are events, each with the time of this node's monotonic clock. Its outputs are calls to make and
notices to give, which `Membership` takes with `effects`. A call is answered by the input that its class names, with the call.

What makes it safe that the peers of a dead node get a new home:

- The lease of a node lasts `lease` seconds after it *sent* a heartbeat that the engine acknowledged, or a pulse that every node
  echoes that could declare it dead.
- A node declares another dead only when it has heard no heartbeat and no pulse of it for longer than `lease`, by compare-and-set
  on the record that it read before. From then on it echoes no pulse of that session.
- It does so only while it holds a lease by heartbeats, so no session that is itself dead can do it.
- A session younger than `bridge` + `lease` does not, because older sessions may not know of it yet. They know every session that
  was born before the last heartbeat for which they have read the list of nodes. Their bridge ends `bridge` after that heartbeat.
- A node whose listener refuses a connection, after its record was read, has no process. It is declared dead at once.
- A node that has no process need not echo, if its listener refused while its last echo was younger than `lease`. It had heard
  this node so late that it cannot have declared it dead before its own end. So the bridge of the others outlasts its death.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, NamedTuple

from s2sgw.cluster.engine import Entry
from s2sgw.cluster.node_records import NodeRecord, NodeSession, Pulse, UnreadableRecord, node_key
from s2sgw.xmpp.host_port import HostPort, canonical, ip_address

#: The most bytes of a pulse: more than a thousand nodes need.
PULSE_BYTES = 65536

#: The state of a session. "silent": not heard for a while. "unknown": what this node knows is older than the session.
SessionState = Literal["own", "alive", "silent", "over", "unknown"]


@dataclass(frozen=True, slots=True)
class MemberTimes:
    """Seconds. `beat`: between two heartbeats, and two pulses. `silence`: after it, a node is looked into.

    `margin`: added to `lease` before a node is declared dead. `retreat`: from the end of the lease until streams are closed.
    """

    beat: float = 0.5
    lease: float = 3.0
    bridge: float = 15.0
    silence: float = 1.2
    margin: float = 0.3
    retreat: float = 2.0


# --- outputs: calls ---


@dataclass(frozen=True, slots=True, eq=False)
class ReadRecord:
    """Read the record of a node from the replica that decides. Answer: `record_read` or `record_not_read`."""

    node: str


@dataclass(frozen=True, slots=True, eq=False)
class ReadMembers:
    """Read the records of all nodes. `sequence` and `sent` are those of the heartbeat. Answer: `members_read`."""

    sequence: int
    sent: float


@dataclass(frozen=True, slots=True, eq=False)
class WriteRecord:
    """Write the record of a node if the sequence of the last one is `expected`. Answer: `written` or `not_written`."""

    record: NodeRecord
    expected: int
    sent: float


@dataclass(frozen=True, slots=True, eq=False)
class ProbeListener:
    """Connect to the listener of a node, which has this session. Answer: `probed`."""

    node: str
    listener: str
    identity: str


@dataclass(frozen=True, slots=True, eq=False)
class SendPulse:
    """Send these bytes to all nodes. There is no answer."""

    data: bytes


# --- outputs: notices ---


@dataclass(frozen=True, slots=True)
class SessionBegan:
    """This node is a member, with a lease."""

    session: NodeSession


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session of this node is over: other nodes own its peers. All streams and queues must be given up at once."""

    session: NodeSession


@dataclass(frozen=True, slots=True)
class LeaseOver:
    """Nothing may be written to a wire, until `LeaseRegained`."""


@dataclass(frozen=True, slots=True)
class LeaseRegained:
    """Streams may go on. Listeners may open again."""


@dataclass(frozen=True, slots=True)
class StreamsMustEnd:
    """The lease was not regained in time: streams and listeners are closed, so that peers go to other nodes."""


@dataclass(frozen=True, slots=True)
class OtherEnded:
    """The session of another node is over."""

    node: str


@dataclass(frozen=True, slots=True)
class NameTaken:
    """A living node has the name of this one, and another listener. This node waits."""

    listener: str


@dataclass(frozen=True, slots=True)
class MembershipLeft:
    """This node has ended its session in order."""


MemberCall = ReadRecord | ReadMembers | WriteRecord | ProbeListener | SendPulse
MemberNotice = SessionBegan | SessionEnded | LeaseOver | LeaseRegained | StreamsMustEnd | OtherEnded | NameTaken | MembershipLeft
MemberEffect = MemberCall | MemberNotice


class OtherNode(NamedTuple):
    """Another node that was not declared dead. `state`: "alive" or "silent"."""

    node: str
    listener: str
    state: SessionState


@dataclass(slots=True)
class _Other:
    """Another node. `heard`: when a heartbeat or pulse of its session was last heard; `pulse`: the number of the last pulse."""

    record: NodeRecord
    sequence: int
    heard: float
    pulse: int = 0
    #: the call that is under way to find out whether it is dead, or to declare it dead
    call: ReadRecord | ProbeListener | WriteRecord | None = None
    #: its record was read, its listener did not refuse, and nothing was heard since the reading
    waited_for: bool = False
    #: nothing was heard since the last reading of its record
    unheard: bool = False
    retry_at: float = -inf
    #: the look at its listener that is under way for the bridge, and when the next one may begin
    probe: ProbeListener | None = None
    probe_at: float = -inf

    @property
    def session(self) -> NodeSession:
        return self.record.session(self.sequence)

    @property
    def being_declared_dead(self) -> bool:
        return isinstance(self.call, WriteRecord)


class Members:
    """The membership of `node`, whose cluster listener is at `listener` and is open. `identities` makes names of sessions."""

    def __init__(
        self, node: str, listener: str, identities: Callable[[], str], times: MemberTimes | None = None, settings: str = "",
    ) -> None:
        self.node = node
        self._listener = listener
        #: where each server behind the gateway connects to this node (`NodeRecord`): the others are told by the next heartbeat
        self.inner: tuple[tuple[str, str], ...] = ()
        self._identities = identities
        self._times = times or MemberTimes()
        self._settings = settings
        self._effects: list[MemberEffect] = []
        self._others: dict[str, _Other] = {}
        # the session of this node
        self._session: NodeSession | None = None
        self._sequence = 0
        self._beat = 0
        self._next_beat = -inf
        self._write: WriteRecord | None = None
        self._reading: ReadRecord | None = None
        self._must_read = False
        self._occupant: tuple[int, float] | None = None
        self._may_bury_at = inf
        self._draining = False
        self._leaving = self._left = False
        # the lease
        self._acknowledged = -inf
        self._members: ReadMembers | None = None
        self._members_again: ReadMembers | None = None
        self._bridged_from = -inf
        self._required: frozenset[str] = frozenset()
        #: sessions whose process is gone, and which have not declared this one dead
        self._gone: set[str] = set()
        self._pulse = 0
        self._pulses: dict[int, float] = {}
        self._echoed: dict[str, float] = {}
        self._until = -inf
        self._over_since: float | None = None
        self._retreated = False

    # --- what others ask ---

    def effects(self) -> list[MemberEffect]:
        """Return the outputs since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def may_write(self, now: float) -> bool:
        """Return whether this node may send to other servers. Asked at each write: the process may have been stopped."""
        return now < self._until

    @property
    def lease_until(self) -> float:
        """Return when the lease ends, as it is known now."""
        return self._until

    @property
    def heartbeat_at(self) -> float:
        """Return when the last heartbeat was sent that the engine has acknowledged; minus infinity: none was in this session."""
        return self._acknowledged

    @property
    def session(self) -> NodeSession | None:
        return self._session

    def others(self, now: float) -> list[OtherNode]:
        """Return the other nodes that were not declared dead, by name."""
        return [
            OtherNode(node, other.record.listener, self.state_of(other.session, now))
            for node, other in sorted(self._others.items()) if other.record.alive
        ]

    def state_of(self, session: NodeSession, now: float) -> SessionState:
        """Return what is known of a session."""
        if session.node == self.node:
            return self._own_state_of(session)
        other = self._others.get(session.node)
        if other is None or other.sequence < session.birth:
            return "unknown"
        if not other.record.alive or other.record.identity != session.identity:
            return "over"
        return "silent" if now - other.heard >= self._times.silence else "alive"

    def _own_state_of(self, session: NodeSession) -> SessionState:
        if self._session is None or session.birth > self._session.birth:
            return "unknown"
        return "own" if session == self._session else "over"

    def live_nodes(self, now: float) -> list[str]:
        """Return the nodes that can take a peer: alive, heard of late and not draining."""
        found = [
            node for node, other in self._others.items()
            if other.record.alive and not other.record.draining and now - other.heard < self._times.silence
        ]  # fmt: skip
        if self._session is not None and not self._draining and self.may_write(now):
            found.append(self.node)
        return sorted(found)

    def session_of(self, node: str) -> NodeSession | None:
        """Return the session of another living node."""
        other = self._others.get(node)
        return other.session if other is not None and other.record.alive else None

    def listener_of(self, node: str) -> str | None:
        """Return where the listener of another living node is."""
        other = self._others.get(node)
        return other.record.listener if other is not None and other.record.alive else None

    def inner_listeners(self, server: str) -> dict[str, str]:
        """Return where the server of this name connects to each other living node."""
        records = {node: other.record for node, other in self._others.items() if other.record.alive}
        return {node: place for node, record in records.items() for name, place in record.inner if name == server}

    def listeners(self) -> dict[str, str]:
        """Return where the listeners of all other living nodes are."""
        return {node: other.record.listener for node, other in self._others.items() if other.record.alive}

    def differing(self) -> list[str]:
        """Return the living nodes whose settings are not those of this node."""
        records = [other.record for other in self._others.values()]
        return sorted(record.node for record in records if record.alive and record.settings != self._settings)

    # --- commands ---

    def start(self) -> None:
        """Join. The listener of this node is open."""
        self._must_read = True
        self._read_own()

    def drain(self) -> None:
        """Want no more peers. The next heartbeat tells it to the other nodes."""
        self._draining = True

    def leave(self) -> None:
        """End the session in order. The homes of this node were released. From now on this node writes to no wire."""
        self._leaving = True
        self._until = -inf

    def tick(self, now: float) -> None:
        """Do what is due. Called several times in each `beat`."""
        if self._leaving and self._session is None and self._write is None:
            self._leave_now()
        if self._left:
            return
        if self._session is not None and now >= self._next_beat:
            self._send_pulse(now)
            self._next_beat = now + self._times.beat
        self._write_own(now)
        if self._must_read:
            self._read_own()
        if self._members_again is not None:
            self._read_members(self._members_again.sequence, self._members_again.sent)
        for other in self._others.values():
            self._look_into(other, now)
        self._judge_lease(now)

    # --- the session of this node ---

    def _read_own(self) -> None:
        if self._reading is None:
            self._must_read = False
            self._reading = ReadRecord(self.node)
            self._effects.append(self._reading)

    def _own_read(self, entry: Entry | None, now: float) -> None:
        self._reading = None
        if self._session is not None:
            self._compare(entry)
        elif self._write is None and not self._leaving:
            self._join(entry, now)

    def _join(self, entry: Entry | None, now: float) -> None:
        """Begin a session, unless the record is of a living node at another place. The same place: this node has the port now."""
        record, times = _record(entry), self._times
        elsewhere = record is None or (record.alive and not (record.listener == self._listener and self._proves(self._listener)))
        if entry is not None and entry.data is not None and elsewhere:
            if self._occupant is None or self._occupant[0] != entry.sequence:
                if self._occupant is None:
                    self._effects.append(NameTaken(record.listener if record else "an unreadable record"))
                self._occupant = entry.sequence, now
            if record is None or now < self._occupant[1] + times.bridge + times.lease + times.margin:
                self._must_read = True
                return
        self._occupant = None
        born = NodeRecord(
            self.node, self._identities(), self._listener, draining=self._draining, settings=self._settings, inner=self.inner,
        )
        self._put(born, entry.sequence if entry is not None else 0, now)

    def _compare(self, entry: Entry | None) -> None:
        """Find out from the own record, after a conflict or a notice, whether this session is over."""
        assert self._session is not None
        record = _record(entry)
        if entry is None or entry.sequence < self._sequence:
            self._must_read = True
        elif record is not None and record.alive and record.identity == self._session.identity:
            self._sequence, self._beat = entry.sequence, record.beat
        elif entry.sequence > self._sequence:
            self._lose()

    def _lose(self) -> None:
        """This session is over: begin another."""
        assert self._session is not None
        self._effects.append(SessionEnded(self._session))
        self._session = self._write = self._members = self._members_again = None
        self._acknowledged = self._bridged_from = self._until = -inf
        self._may_bury_at = inf
        self._required = frozenset()
        self._gone.clear()
        self._pulses.clear()
        self._echoed.clear()
        self._over_since, self._retreated = None, False
        for other in self._others.values():
            other.probe = None
            if not other.being_declared_dead:
                other.call, other.waited_for = None, False
        if self._leaving:
            self._leave_now()
        else:
            self._must_read = True

    def _leave_now(self) -> None:
        if not self._left:
            self._session, self._left = None, True
            self._effects.append(MembershipLeft())

    def _write_own(self, now: float) -> None:
        if self._session is None or self._write is not None or self._reading is not None or self._must_read:
            return
        session = self._session
        record = NodeRecord(
            self.node, session.identity, self._listener, session.birth, self._beat + 1,
            alive=not self._leaving, draining=self._draining, settings=self._settings, inner=self.inner,
        )  # fmt: skip
        if self._leaving or now >= self._acknowledged + self._times.beat:
            self._put(record, self._sequence, now)

    def _put(self, record: NodeRecord, expected: int, now: float) -> None:
        self._write = WriteRecord(record, expected, now)
        self._effects.append(self._write)

    def written(self, call: WriteRecord, sequence: int, now: float) -> None:
        """The record was written."""
        if call.record.node != self.node:
            self._declared_dead(call, sequence, now)
        elif call is self._write:
            self._write = None
            self._own_written(call, sequence, now)
        self._judge_lease(now)

    def _own_written(self, call: WriteRecord, sequence: int, now: float) -> None:
        times, record = self._times, call.record
        self._sequence, self._beat, self._acknowledged = sequence, record.beat, call.sent
        if not record.alive:
            self._leave_now()
            return
        if self._session is None:
            self._session = record.session(sequence)
            self._may_bury_at = now + times.bridge + times.lease
            self._next_beat = now
            self._effects.append(SessionBegan(self._session))
        self._read_members(sequence, call.sent)
        self._renew()

    def not_written(self, call: WriteRecord, conflict: bool, now: float) -> None:
        """The record was not written: another one is there (`conflict`), or the engine refuses it."""
        if call.record.node != self.node:
            self._not_declared_dead(call, now)
        elif call is self._write:
            self._write = None
            self._must_read = conflict or self._session is None
        self._judge_lease(now)

    def record_read(self, call: ReadRecord, entry: Entry | None, now: float) -> None:
        """The record of a node, or of this one, was read."""
        if call is self._reading:
            self._own_read(entry, now)
        else:
            self._other_read(call, entry, now)
        self._judge_lease(now)

    def record_not_read(self, call: ReadRecord, now: float) -> None:
        """The engine did not answer."""
        if call is self._reading:
            self._reading, self._must_read = None, True
        elif (other := self._others.get(call.node)) is not None and other.call is call:
            other.call, other.retry_at = None, now + self._times.beat

    # --- the lease ---

    def _read_members(self, sequence: int, sent: float) -> None:
        self._members_again = None
        if self._members is None:
            self._members = ReadMembers(sequence, sent)
            self._effects.append(self._members)

    def members_read(self, call: ReadMembers, entries: Sequence[Entry] | None, now: float) -> None:
        """The records of all nodes were read, or could not be read (None)."""
        if call is not self._members:
            return
        self._members = None
        for entry in entries or ():
            self.changed(entry, now)
        if self._session is not None and entries is not None:
            self._confirm(call, entries)
        self._renew()
        self._judge_lease(now)

    def _confirm(self, call: ReadMembers, entries: Sequence[Entry]) -> None:
        """Note the sessions that could declare this one dead, if the answer has all of them.

        An answer that holds the heartbeat has every session that was born before it; one that does not is asked for again. If a
        session was born or died after the heartbeat, the answer tells nothing, and the next heartbeat is waited for.
        """
        found = [(entry, _record(entry)) for entry in entries if entry.data is not None]
        if not any(entry.key == node_key(self.node) and entry.sequence >= call.sequence for entry, _ in found):
            self._members_again = call
            return
        others = [(entry, record) for entry, record in found if entry.key != node_key(self.node)]
        required = set()
        for entry, record in others:
            if record is None or record.session(entry.sequence).birth > call.sequence:
                return
            if record.alive:
                required.update({record.identity} - self._gone)
            elif entry.sequence > call.sequence:
                return
        self._bridged_from, self._required = call.sent, frozenset(required)

    def _renew(self) -> None:
        """Compute when the lease ends: by the last heartbeat, or by the bridge."""
        if self._session is None or self._leaving:
            self._until = -inf
            return
        times = self._times
        self._until = self._acknowledged + times.lease
        if self._required:
            echoed = min(self._echoed.get(identity, -inf) for identity in self._required)
            self._until = max(self._until, min(self._bridged_from + times.bridge, echoed + times.lease))

    def _judge_lease(self, now: float) -> None:
        """Give the notices of the lease."""
        if self._session is None or self._leaving:
            return
        if now < self._until:
            if self._over_since is not None:
                self._effects.append(LeaseRegained())
            self._over_since, self._retreated = None, False
        elif self._over_since is None:
            self._over_since = now
            self._effects.append(LeaseOver())
        elif not self._retreated and now >= self._over_since + self._times.retreat:
            self._retreated = True
            self._effects.append(StreamsMustEnd())

    # --- pulses ---

    def _send_pulse(self, now: float) -> None:
        assert self._session is not None
        self._pulse += 1
        self._pulses = {number: sent for number, sent in self._pulses.items() if sent > now - self._times.lease}
        self._pulses[self._pulse] = now
        heard = {
            other.record.identity: other.pulse for other in self._others.values()
            if other.pulse and other.record.alive and not other.being_declared_dead
        }  # fmt: skip
        self._effects.append(SendPulse(Pulse(self.node, self._session.identity, self._pulse, heard).encode()))

    def pulse_heard(self, data: bytes, now: float) -> None:
        """A pulse of any node came, this one included."""
        if len(data) > PULSE_BYTES:
            return
        try:
            pulse = Pulse.decode(data)
        except UnreadableRecord:
            return
        other = self._others.get(pulse.node)
        if other is None or not other.record.alive or other.record.identity != pulse.identity or pulse.number <= other.pulse:
            return
        other.pulse = pulse.number
        self._heard(other, now)
        sent = self._pulses.get(pulse.heard.get(self._session.identity, 0)) if self._session is not None else None
        if sent is not None:
            self._echoed[pulse.identity] = max(sent, self._echoed.get(pulse.identity, -inf))
            self._renew()
        self._judge_lease(now)

    # --- other nodes ---

    def changed(self, entry: Entry, now: float) -> None:
        """A record of a node was read or has changed. It may be old."""
        record = _record(entry)
        if entry.key == node_key(self.node):
            if self._session is not None and entry.sequence > self._sequence:
                over = record is None or not record.alive or record.identity != self._session.identity
                self._must_read = self._must_read or over
            return
        if record is None or entry.key != node_key(record.node):
            return
        known = self._others.get(record.node)
        if known is None:
            self._others[record.node] = _Other(record, entry.sequence, now)
        elif entry.sequence > known.sequence:
            self._learn(known, record, entry.sequence, now)

    def _learn(self, other: _Other, record: NodeRecord, sequence: int, now: float) -> None:
        ended = other.record.alive and not (record.alive and record.identity == other.record.identity)
        if record.identity != other.record.identity:
            self._echoed.pop(other.record.identity, None)
            other.pulse = 0
        other.record, other.sequence = record, sequence
        if record.alive:
            self._heard(other, now)
        if ended:
            self._effects.append(OtherEnded(record.node))

    @staticmethod
    def _heard(other: _Other, now: float) -> None:
        other.heard = now
        other.waited_for = other.unheard = False

    # --- burials ---

    def _beats(self, now: float) -> bool:
        """Return whether this node holds a lease by heartbeats alone."""
        return self._session is not None and not self._leaving and now < self._acknowledged + self._times.lease

    def _look_into(self, other: _Other, now: float) -> None:
        self._look_without_engine(other, now)
        if not other.record.alive or other.call is not None or not self._beats(now) or now < other.retry_at:
            return
        if other.waited_for:
            if now >= max(other.heard + self._times.lease + self._times.margin, self._may_bury_at):
                self._declare_dead(other, now)
        elif now - other.heard >= self._times.silence:
            other.call = ReadRecord(other.record.node)
            self._effects.append(other.call)

    def _look_without_engine(self, other: _Other, now: float) -> None:
        """Find out whether a silent node has a process, while no heartbeat is acknowledged and the bridge needs its echo."""
        times, identity = self._times, other.record.identity
        needed = identity in self._required and now - self._acknowledged >= 2 * times.beat and self._echo_counts(identity, now)
        if needed and now - other.heard >= times.silence and other.probe is None and now >= other.probe_at:
            other.probe_at = now + times.beat
            other.probe = ProbeListener(other.record.node, other.record.listener, identity)
            self._effects.append(other.probe)

    def _other_read(self, call: ReadRecord, entry: Entry | None, now: float) -> None:
        other = self._others.get(call.node)
        if other is None or other.call is not call:
            return
        other.call, other.retry_at = None, now + self._times.beat
        if entry is None or entry.sequence < other.sequence:
            return
        self.changed(entry, now)
        if other.record.alive and entry.sequence == other.sequence:
            other.unheard = True
            other.call = ProbeListener(call.node, other.record.listener, other.record.identity)
            self._effects.append(other.call)

    def probed(self, call: ProbeListener, refused: bool, now: float) -> None:
        """The listener refused the connection, so that no process has it, or did not refuse it."""
        other = self._others.get(call.node)
        proof = refused and self._proves(call.listener)
        if other is not None and other.probe is call:
            other.probe = None
            if proof:
                self._need_no_echo(call.identity, now)
        if other is None or other.call is not call:
            return
        other.call = None
        if other.unheard and proof and self._beats(now):
            self._declare_dead(other, now)
        elif other.unheard and not proof:
            other.waited_for = True

    def _need_no_echo(self, identity: str, now: float) -> None:
        """Count on the bridge without this session, whose process is gone. A node alone has no bridge."""
        if len(self._required) > 1 and self._echo_counts(identity, now):
            self._gone.add(identity)
            self._required -= self._gone
            self._renew()

    def _echo_counts(self, identity: str, now: float) -> bool:
        return now < self._echoed.get(identity, -inf) + self._times.lease

    def _proves(self, listener: str) -> bool:
        """Return whether a port that is refused, or is this node's own, shows that no other process has it.

        A loopback address is of one machine only if all nodes are there.
        """
        address = _parsed(listener)
        if not address.is_loopback:
            return is_of_one_machine(address)
        listeners = [self._listener, *(other.record.listener for other in self._others.values() if other.record.alive)]
        return all(_parsed(each).is_loopback for each in listeners)

    def _declare_dead(self, other: _Other, now: float) -> None:
        other.waited_for = False
        dead = replace(other.record, alive=False, birth=other.session.birth)
        other.call = WriteRecord(dead, other.sequence, now)
        self._effects.append(other.call)

    def _declared_dead(self, call: WriteRecord, sequence: int, now: float) -> None:
        other = self._others.get(call.record.node)
        if other is not None:
            if other.call is call:
                other.call = None
            self.changed(Entry(node_key(call.record.node), sequence, call.record.encode()), now)

    def _not_declared_dead(self, call: WriteRecord, now: float) -> None:
        """It has beaten meanwhile, or the engine refuses: begin again, and be slow."""
        other = self._others.get(call.record.node)
        if other is not None and other.call is call:
            other.call, other.retry_at = None, now + self._times.beat


def is_of_one_machine(address: HostPort) -> bool:
    """Return whether one process alone can have this address, so that a port that is refused, or free, proves something.

    False for a name, and for 0.0.0.0 and "::", which are this machine on every machine.
    """
    found = ip_address(canonical(address.host)) if address.is_address else None
    return found is not None and not found.is_unspecified


def _parsed(listener: str) -> HostPort:
    """Return the address of a listener (host:port); one that is of no machine if there is none in it."""
    try:
        return HostPort.parse(listener, 0)
    except ValueError:
        return HostPort("", 0)


def _record(entry: Entry | None) -> NodeRecord | None:
    """Return the record of an entry, or None if there is none that can be read."""
    if entry is None or entry.data is None:
        return None
    try:
        return NodeRecord.decode(entry.data)
    except UnreadableRecord:
        return None
