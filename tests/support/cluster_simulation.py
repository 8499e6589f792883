"""Nodes of a cluster on simulated machines: one clock, an engine, messages that are late, lost or cut off, and processes that stop,
die and start again.

The pure machines (`Members`, `HomeTable`) are real. Each node's clock has its own zero and its own small error. After every event
the invariants are checked:

- no two nodes may write to the wires of one peer at one instant;
- a process that was stopped for longer than its lease may write nothing when it wakes;
- a node is declared dead only when it may not write, or its process is gone, and never while nothing disturbs it;
- the peers of a killed process have a new home within 5 seconds, if nothing else disturbs;
- when all disturbances are over, every node is a member and every peer with stanzas has a home.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal
from unittest import mock

from s2sgw.cluster import home_table
from s2sgw.cluster import members as membership
from s2sgw.cluster.engine import Conflict, EngineError, EngineGone, Entry, Fence, PeerLogs, Stored
from s2sgw.cluster.home_table import HomeTable, Waiter
from s2sgw.cluster.members import Members, MemberTimes
from s2sgw.cluster.node_records import HomeRecord, NodeRecord, Pulse, node_key
from s2sgw.xmpp.jid import Domain

TIMES = MemberTimes()
#: Names of what can be disturbed, and how: see `Simulation.disturb`.
Kind = Literal[
    "stop", "stop in a step", "kill", "machine", "cut engine", "cut pulses", "cut all", "slow", "late writes", "lag", "election", "drain",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "stop", "stop in a step", "kill", "machine", "cut engine", "cut pulses", "cut all", "slow", "late writes", "lag", "election", "drain",
)  # fmt: skip
#: Seconds at the end without disturbance, and between the death of a process and the new homes of its peers.
SETTLING = 35.0
NEW_HOME = 5.0
#: Seconds before a disturbance is noticed and after it is over, in which it may still have a consequence.
AFTERMATH = 7.0
#: Seconds in which "stop in a step" waits for a step.
ARMED = 10.0
PEERS = tuple(Domain.parse(f"p{number}.example") for number in range(4))
TICK, HOMES_TICK = 0.1, 0.25


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Disturbance:
    """`kind` happens to the node of number `node` at `at`, for `seconds`. `other`: a second node, where there is one."""

    kind: Kind
    node: int
    at: float
    seconds: float
    other: int = 0

    @property
    def until(self) -> float:
        return self.at + self.seconds + (ARMED if self.kind == "stop in a step" else 0.0)


@dataclass
class _Store:
    """The engine's content, with its past: a replica may be behind."""

    sequence: int = 0
    table: dict[str, list[tuple[float, Entry]]] = field(default_factory=dict)
    homes: dict[Domain, list[tuple[float, Stored]]] = field(default_factory=dict)

    def entry(self, key: str, at: float) -> Entry | None:
        return next((entry for when, entry in reversed(self.table.get(key, [])) if when <= at), None)

    def home(self, peer: Domain, at: float) -> Stored | None:
        return next((stored for when, stored in reversed(self.homes.get(peer, [])) if when <= at), None)

    def put(self, key: str, data: bytes, expected: int | None, now: float) -> Entry:
        entry = self.entry(key, now)
        if expected not in (None, entry.sequence if entry else 0):
            raise Conflict(key)
        self.sequence += 1
        new = Entry(key, self.sequence, data)
        self.table.setdefault(key, []).append((now, new))
        del self.table[key][:-40]
        return new

    def claim(self, peer: Domain, data: bytes, expected: int, now: float) -> Stored:
        home = self.home(peer, now)
        if expected != (home.sequence if home else 0):
            raise Conflict(str(peer))
        self.sequence += 1
        stored = Stored(self.sequence, {}, data)
        self.homes.setdefault(peer, []).append((now, stored))
        return stored


class _Node:
    """A process on a machine. `inbox`: what comes while it is stopped."""

    def __init__(self, simulation: Simulation, name: str, rng: random.Random) -> None:
        self.simulation = simulation
        self.name = name
        self.running = False
        self.dead: Literal["", "process", "machine"] = "process"
        self.life = 0
        self.offset = rng.uniform(-1000, 100_000)
        self.rate = 1 + rng.uniform(-2e-4, 2e-4)
        self.inbox: list[Callable[[], None]] = []
        self.held_back: list[Any] = []
        self.stop_in_step = 0.0
        self.armed_until = 0.0
        self.stopped_at = -100.0
        self.leaving = False
        self.permission = 0.0, 0
        self.told: dict[str, int] = {}
        self.members: Members
        self.homes: HomeTable
        self.waiting: set[Waiter] = set()

    @property
    def clock(self) -> float:
        return self.offset + self.simulation.now * self.rate

    @property
    def may_write(self) -> bool:
        return self.running and not self.dead and self.members.may_write(self.clock)

    def start(self) -> None:
        self.life += 1
        self.running, self.dead, self.leaving = True, "", False
        self.inbox.clear()
        self.held_back.clear()
        self.waiting.clear()
        self.told.clear()
        self.armed_until = 0.0
        self.permission = 0.0, 0
        identities = (f"{self.name}{self.life}-{number}" for number in count())
        self.members = Members(self.name, f"192.0.2.{ord(self.name) - 96}:5271", partial(next, identities), TIMES)
        self.homes = HomeTable(self.name, self.members)
        self.members.start()
        self.perform()
        self.simulation.tell(self)
        self.tick(self.life)
        self.homes_tick(self.life)

    def drain(self) -> None:
        self.members.drain()
        self.homes.drain(self.clock)

    def stop(self, seconds: float) -> None:
        self.running = False
        self.stopped_at = self.simulation.now + seconds

    def wake(self) -> None:
        if self.dead:
            return
        self.running, self.stopped_at = True, self.simulation.now
        self.simulation.check()
        held, self.held_back = self.held_back, []
        for effect in held:
            self.simulation.perform(self, effect)
        inbox, self.inbox = self.inbox, []
        for event in inbox:
            self.receive(self.life, event)

    def die(self, how: Literal["process", "machine"]) -> None:
        self.running, self.dead = False, how

    def receive(self, life: int, event: Callable[[], None]) -> None:
        """Take an event of this life of the process: now, or when it wakes."""
        if life != self.life or self.dead:
            return
        if not self.running:
            self.inbox.append(event)
            return
        event()
        self.perform()
        permission = self.members.lease_until, len(self.homes.owned)
        if permission != self.permission:  # no node may write more than before, otherwise
            self.permission = permission
            self.simulation.check()

    def tick(self, life: int) -> None:
        if life == self.life and not self.dead:
            if self.running:
                self.receive(life, lambda: self.members.tick(self.clock))
            self.simulation.after(TICK * self.simulation.rng.uniform(0.9, 1.3), partial(self.tick, life))

    def homes_tick(self, life: int) -> None:
        if life == self.life and not self.dead:
            if self.running:
                self.receive(life, lambda: self.homes.tick(self.clock, self.simulation.in_use))
            self.simulation.after(HOMES_TICK * self.simulation.rng.uniform(0.9, 1.3), partial(self.homes_tick, life))

    def perform(self) -> None:
        """Perform what the machines want. Both are asked until they want nothing more."""
        while effects := [*self.members.effects(), *self.homes.effects()]:
            for effect in effects:
                self._perform(effect)
            while self.homes.has_work:
                self.homes.work(self.clock)

    def _perform(self, effect: Any) -> None:
        if isinstance(effect, membership.SessionBegan):
            self.homes.session_began(effect.session, self.clock)
        elif isinstance(effect, membership.SessionEnded):
            self.homes.session_ended(self.clock)
        elif isinstance(effect, membership.OtherEnded):
            self.homes.other_ended(self.clock)
        elif isinstance(effect, home_table.HomesReleased):
            self.members.leave()
        elif isinstance(effect, membership.MembershipLeft):
            self.simulation.after(0, lambda: self.die("process"))
        elif isinstance(effect, home_table.Admit):
            self.waiting.discard(effect.waiter)
        else:
            step = isinstance(effect, (membership.WriteRecord, home_table.ClaimHome, home_table.ReleaseHome))
            if self.simulation.now < self.armed_until and step and self._decisive(effect):
                self.armed_until = 0.0
                self.simulation.stop(self, self.stop_in_step)
            if self.running:
                self.simulation.perform(self, effect)
            else:
                self.held_back.append(effect)

    def _decisive(self, effect: Any) -> bool:
        return not isinstance(effect, membership.WriteRecord) or effect.record.node != self.name


class Simulation:
    """`nodes` nodes, that start one after the other, under `disturbances`. `chance`: of delays and of what comes when."""

    def __init__(self, nodes: int, disturbances: Sequence[Disturbance], chance: int) -> None:
        self.rng = random.Random(chance)
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.store = _Store()
        self.nodes = [_Node(self, "abcde"[number], self.rng) for number in range(nodes)]
        self.disturbances = sorted(disturbances, key=lambda each: each.at)
        self._by_kind = {kind: [each for each in self.disturbances if each.kind == kind] for kind in KINDS}
        self.used: dict[Domain, float] = {}
        self._asks = {}
        self.buried: list[str] = []
        self.new_homes = 0
        for number, node in enumerate(self.nodes):
            self.after(number * 0.05, node.start)
        for each in self.disturbances:
            self.after(each.at, partial(self.disturb, each))
        self.end = max((each.until for each in self.disturbances), default=0.0) + SETTLING
        self._arrivals()

    def run(self) -> None:
        """Go on until everything has settled, and check that it has."""
        with ExitStack() as patches:
            for name, value in (("UNUSED", 5.0), ("QUIET", 2.0), ("PATIENCE", 12.0), ("SWEEP", 20.0)):
                patches.enter_context(mock.patch.object(home_table, name, value))
            for record in (NodeRecord, Pulse):  # each is read by every node
                patches.enter_context(mock.patch.object(record, "decode", lru_cache(200)(record.decode)))
            while self._heap and self._heap[0][0] <= self.end:
                self.now, _, event = heappop(self._heap)
                event()
            self.check_settled()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heappush(self._heap, (self.now + seconds, next(self._numbers), event))

    # --- disturbances ---

    def disturb(self, it: Disturbance) -> None:
        node = self.nodes[it.node % len(self.nodes)]
        if it.kind == "drain" and node.running and not node.dead:
            node.receive(node.life, node.drain)
            self.after(it.seconds, partial(self._restart, node, node.life))
        elif it.kind == "stop" and node.running:
            self.stop(node, it.seconds)
        elif it.kind == "stop in a step":
            node.stop_in_step, node.armed_until = it.seconds, self.now + ARMED
        elif it.kind in ("kill", "machine") and not node.dead:
            self._kill(node, it)

    def _restart(self, node: _Node, life: int) -> None:
        if node.life == life:
            node.die("process")
            node.start()

    def stop(self, node: _Node, seconds: float) -> None:
        """Stop the process of a node for so long."""
        node.stop(seconds)
        self.after(seconds, partial(self._wake, node, node.life, seconds))

    def _wake(self, node: _Node, life: int, seconds: float) -> None:
        if node.life == life and not node.dead and not node.running:
            if seconds > TIMES.lease + 0.1 and node.members.may_write(node.clock):
                raise Violation(f"{node.name} may write when it wakes after {seconds:.1f} s")
            node.wake()

    def _kill(self, node: _Node, it: Disturbance) -> None:
        owned = [peer for peer in PEERS if node.homes.owns(peer)] if node.may_write else []
        node.die("process" if it.kind == "kill" else "machine")
        self.after(it.seconds, node.start)
        if self._alone(it) and it.seconds > NEW_HOME and len(self.nodes) > 1:
            for peer in owned:
                self.after(NEW_HOME, partial(self._check_new_home, node, peer))

    def _alone(self, it: Disturbance) -> bool:
        """Return whether nothing else disturbs the nodes around `it`, and they are old enough to declare each other dead."""
        young = TIMES.bridge + TIMES.lease + AFTERMATH
        others = [each for each in self.disturbances if each is not it]
        return it.at > young and not any(each.at < it.at + NEW_HOME and each.until + young > it.at for each in others)

    def _active(self, *kinds: Kind) -> list[Disturbance]:
        return [each for kind in kinds for each in self._by_kind[kind] if each.at <= self.now < each.until]

    def _hit(self, each: Disturbance, *nodes: _Node) -> bool:
        return self.nodes[each.node % len(self.nodes)] in nodes

    def engine_cut(self, node: _Node) -> bool:
        return any(self._hit(each, node) for each in self._active("cut engine", "cut all"))

    def cut(self, one: _Node, other: _Node) -> bool:
        """Return whether no message passes between two nodes, past the engine's leaders."""
        if any(self._hit(each, one, other) for each in self._active("cut all")):
            return True
        pairs = [{each.node % len(self.nodes), each.other % len(self.nodes)} for each in self._active("cut pulses")]
        return {self.nodes.index(one), self.nodes.index(other)} in pairs

    def _delay(self, *nodes: _Node) -> float:
        slow = any(self._hit(each, *nodes) for each in self._active("slow"))
        return self.rng.uniform(0.0, 2.0) if slow and self.rng.random() < 0.5 else self.rng.uniform(0.0005, 0.02)

    def _replica_time(self, node: _Node) -> float:
        lags = any(self._hit(each, node) for each in self._active("lag"))
        return self.now - (self.rng.uniform(0.0, 6.0) if lags else self.rng.choice((0.0, 0.0, 0.0, 0.03)))

    # --- the world ---

    def _arrivals(self) -> None:
        """A peer comes to a node, at any time."""
        node, peer = self.rng.choice(self.nodes), self.rng.choice(PEERS)
        if node.running and not node.dead and self.now < self.end - 14:
            waiter = Waiter()
            node.waiting.add(waiter)
            self.used[peer] = self.now
            node.receive(node.life, lambda: node.homes.asked(peer, waiter, node.clock))
        self.after(self.rng.uniform(0.1, 3.0), self._arrivals)

    def in_use(self, peer: Domain) -> bool:
        return self.now - self.used.get(peer, -100.0) < 3.0

    def tell(self, node: _Node) -> None:
        """Tell a node the records that it has not been told, as a watch does."""
        for key, past in self.store.table.items():
            entry = past[-1][1]
            if node.told.get(key) != entry.sequence and not self.engine_cut(node) and not node.dead:
                node.told[key] = entry.sequence
                self._send(node, partial(self._changed, node, entry), self._delay(node))

    @staticmethod
    def _changed(node: _Node, entry: Entry) -> None:
        node.members.changed(entry, node.clock)

    def _send(self, node: _Node, event: Callable[[], None], delay: float) -> None:
        self.after(delay, partial(node.receive, node.life, event))

    # --- calls ---

    def perform(self, node: _Node, effect: Any) -> None:
        """Send a call of a node on its way."""
        name = type(effect).__name__
        perform = getattr(self, f"_{name}", None)
        if perform is not None:
            perform(node, effect)

    def _write(
        self, node: _Node, effect: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[EngineError], None],
        life: int | None = None,
    ) -> None:
        """Have an effect on the engine, as soon as it can be reached; a call of a process that has died may still arrive."""
        life = node.life if life is None else life

        def arrive() -> None:
            if self._active("election") or self.engine_cut(node):
                if life == node.life and not node.dead:
                    self.after(0.2, arrive)
                return
            try:
                answer = partial(done, effect())
            except EngineError as error:
                answer = partial(failed, error)
            self._give(node, life, answer)

        late = any(self._hit(each, node) for each in self._active("late writes"))
        self.after(self.rng.uniform(0.0, 9.0) if late else self._delay(node), arrive)

    def _give(self, node: _Node, life: int, answer: Callable[[], None]) -> None:
        """Bring an answer to a node, once the way is free: it asks again until then."""
        def give() -> None:
            if self.engine_cut(node):
                self.after(0.2, give)
            else:
                node.receive(life, answer)

        self.after(self._delay(node), give)

    def _read(self, node: _Node, effect: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[], None], leader: bool) -> None:
        def arrive() -> None:
            if self.engine_cut(node) or (leader and self._active("election")):
                self._send(node, failed, 1.0)
            else:
                self._give(node, life, partial(done, effect()))

        life = node.life
        self.after(self._delay(node), arrive)

    def _ReadRecord(self, node: _Node, call: membership.ReadRecord) -> None:
        self._read(
            node, lambda: self.store.entry(node_key(call.node), self.now),
            lambda entry: node.members.record_read(call, entry, node.clock),
            lambda: node.members.record_not_read(call, node.clock), leader=True,
        )  # fmt: skip

    def _ReadMembers(self, node: _Node, call: membership.ReadMembers) -> None:
        def effect() -> list[Entry]:
            at = self._replica_time(node)
            return [entry for key in self.store.table if (entry := self.store.entry(key, at)) is not None]

        self._read(
            node, effect, lambda entries: node.members.members_read(call, entries, node.clock),
            lambda: node.members.members_read(call, None, node.clock), leader=False,
        )  # fmt: skip

    def _WriteRecord(self, node: _Node, call: membership.WriteRecord) -> None:
        def effect() -> Entry:
            entry = self.store.put(node_key(call.record.node), call.record.encode(), call.expected, self.now)
            if call.record.node != node.name:
                self._check_burial(node, call.record)
            for each in self.nodes:
                self.tell(each)
            return entry

        self._write(
            node, effect, lambda entry: node.members.written(call, entry.sequence, node.clock),
            lambda error: node.members.not_written(call, isinstance(error, Conflict), node.clock),
        )  # fmt: skip

    def _ProbeListener(self, node: _Node, call: membership.ProbeListener) -> None:
        target = next(each for each in self.nodes if each.name == call.node)

        def arrive() -> None:
            silent = target.dead == "machine" or self.cut(node, target)
            refused = target.dead == "process" and not silent
            self._send(node, lambda: node.members.probed(call, refused, node.clock), 1.0 if silent else self._delay(node))

        self.after(self._delay(node, target), arrive)

    def _SendPulse(self, node: _Node, call: membership.SendPulse) -> None:
        for each in self.nodes:
            if not self.cut(node, each) and self.rng.random() > 0.02:
                self._send(each, partial(self._pulse, each, call.data), self._delay(node, each))

    @staticmethod
    def _pulse(node: _Node, data: bytes) -> None:
        node.members.pulse_heard(data, node.clock)

    def _ReadHome(self, node: _Node, call: home_table.ReadHome) -> None:
        self._read(
            node, lambda: self.store.home(call.peer, self._replica_time(node)),
            lambda stored: node.homes.home_read(call, stored, node.clock),
            lambda: node.homes.failed(call, EngineGone(""), node.clock), leader=False,
        )  # fmt: skip

    def _ClaimHome(self, node: _Node, call: home_table.ClaimHome) -> None:
        self._write(
            node, lambda: self.store.claim(call.peer, call.data, call.expected, self.now),
            lambda stored: node.homes.claimed(call, Fence(call.peer, stored.sequence), PeerLogs(stored, {}), node.clock),
            lambda error: node.homes.failed(call, error, node.clock),
        )  # fmt: skip

    def _ReleaseHome(self, node: _Node, call: home_table.ReleaseHome) -> None:
        self._write(
            node, lambda: self.store.claim(call.peer, call.data, call.expected, self.now),
            lambda stored: node.homes.released(call, node.clock), lambda error: node.homes.failed(call, error, node.clock),
        )  # fmt: skip

    def _TakePeer(self, node: _Node, call: home_table.TakePeer) -> None:
        self._send(node, lambda: node.homes.taken(call, None, node.clock), self.rng.uniform(0.0, 0.3))

    def _ClosePeer(self, node: _Node, call: home_table.ClosePeer) -> None:
        spooled = self.rng.random() < 0.9
        self._send(node, lambda: node.homes.closed(call, spooled, node.clock), self.rng.uniform(0.0, 0.5))

    def _AskToYield(self, node: _Node, call: home_table.AskToYield) -> None:
        home = next(each for each in self.nodes if each.name == call.home.node)
        waiter = Waiter()
        quiet = self.now - self.used.get(call.peer, 0.0) + self.rng.uniform(0.0, 3.0)
        self._asks[waiter] = node, node.life, call
        if not self.cut(node, home):
            self._send(home, lambda: home.homes.yield_asked(call.peer, waiter, quiet, home.clock), self._delay(node, home))
        self._send(node, lambda: node.homes.yield_answered(call, None, node.clock), 2.0)

    def _AnswerYield(self, home: _Node, answer: home_table.AnswerYield) -> None:
        node, life, call = self._asks.pop(answer.waiter)
        if life == node.life and not self.cut(node, home):
            self._send(node, lambda: node.homes.yield_answered(call, answer.yielded, node.clock), self._delay(node, home))

    def _ListPeers(self, node: _Node, call: home_table.ListPeers) -> None:
        self._read(
            node, lambda: dict.fromkeys(PEERS[:3], 3), lambda peers: node.homes.peers_listed(call, peers, node.clock),
            lambda: node.homes.peers_listed(call, None, node.clock), leader=False,
        )  # fmt: skip

    _asks: dict[Waiter, tuple[_Node, int, home_table.AskToYield]]

    # --- what must hold ---

    def check(self) -> None:
        """No two nodes may write to the wires of one peer."""
        writers = [node for node in self.nodes if node.may_write]
        if len(writers) > 1:
            for peer in PEERS:
                owners = [node.name for node in writers if node.homes.owns(peer)]
                if len(owners) > 1:
                    raise Violation(f"{owners} may write to {peer} at {self.now:.3f}")

    def _check_burial(self, by: _Node, record: NodeRecord) -> None:
        self.buried.append(record.identity)
        node = next(each for each in self.nodes if each.name == record.node)
        session = node.members.session if not node.dead else None
        if session is None or session.identity != record.identity:
            return
        if node.may_write:
            raise Violation(f"{by.name} declared {node.name} dead, which may write, at {self.now:.3f}")
        since = self.now - AFTERMATH - TIMES.lease
        if node.stopped_at < since and not any(each.at <= self.now and each.until > since and self._concerns(each, node) for each in self.disturbances):
            raise Violation(f"{by.name} declared {node.name} dead, which nothing disturbs, at {self.now:.3f}")

    def _concerns(self, it: Disturbance, node: _Node) -> bool:
        concerned = self._hit(it, node) or self.nodes[it.other % len(self.nodes)] is node
        return it.kind == "election" or concerned

    def _home_of(self, peer: Domain) -> list[str]:
        return [node.name for node in self.nodes if node.may_write and node.homes.owns(peer)]

    def _check_new_home(self, killed: _Node, peer: Domain) -> None:
        self.new_homes += 1
        if peer in PEERS[:3] and not self._home_of(peer):
            raise Violation(f"{peer} has no new home {NEW_HOME} s after the death of {killed.name} at {self.now - NEW_HOME:.3f}")

    def check_settled(self) -> None:
        """Every node is a member again, no call waits, and every peer with stanzas has a home, which its home record names."""
        for node in self.nodes:
            if not node.may_write and not node.homes._draining:
                raise Violation(f"{node.name} is no member at the end")
            if node.waiting and not node.dead:
                raise Violation(f"{len(node.waiting)} wait at {node.name} at the end")
        for peer in PEERS[:3]:
            stored = self.store.home(peer, self.now)
            owner = None if stored is None else HomeRecord.decode(stored.data).owner
            if owner is not None and not any(node.may_write and node.members.session == owner for node in self.nodes):
                raise Violation(f"the home of {peer} is {owner}, which is not alive")


def disturbances_of(rng: random.Random, at_most: int = 5) -> list[Disturbance]:
    """Return disturbances by chance."""
    found = []
    for _ in range(rng.randint(1, at_most)):
        kind = rng.choice(KINDS)
        seconds = rng.choice((0.3, 1.5, 3.2, 5.5, 8.0, 12.0, 20.0))
        found.append(Disturbance(kind, rng.randrange(5), rng.uniform(3.0, 40.0), seconds, rng.randrange(5)))
    return found


def storm_of(rng: random.Random) -> list[Disturbance]:
    """Return disturbances that come together, most of them to one node and its way to a second one."""
    at, node, other = rng.uniform(20.0, 26.0), rng.randrange(3), rng.randrange(3)
    kinds = rng.sample(KINDS, rng.randint(2, 4))
    return [
        Disturbance(
            kind, node if rng.random() < 0.7 else other, at + rng.uniform(0.0, 4.0), rng.choice((1.5, 4.0, 8.0, 14.0)), other,
        )
        for kind in kinds
    ]  # fmt: skip


#: Disturbances that bring a rule of `Members` to bear that chance seldom does. Nodes: 0 is disturbed, 1 is beside it.
SCENARIOS: dict[str, list[Disturbance]] = {
    "no heartbeat passes, and one of two nodes hears no pulse": [
        Disturbance("cut engine", 0, 24.0, 14.0), Disturbance("cut pulses", 0, 24.0, 14.0, 1),
    ],
    "a node is born while another has only the bridge": [
        Disturbance("kill", 1, 22.0, 4.0), Disturbance("cut engine", 0, 25.0, 13.0), Disturbance("cut pulses", 0, 25.0, 13.0, 1),
    ],
    "the bridge is longer than a new node is young": [
        Disturbance("kill", 1, 22.0, 4.0), Disturbance("cut engine", 0, 25.0, 32.0), Disturbance("cut pulses", 0, 25.0, 32.0, 1),
    ],
    "pulses pass again while a node is declared dead": [
        Disturbance("cut engine", 0, 24.0, 12.0), Disturbance("cut pulses", 0, 24.0, 3.6, 1), Disturbance("slow", 1, 26.5, 6.0),
    ],
    "the one that declares a node dead is stopped before it does": [
        Disturbance("cut engine", 0, 24.0, 8.0), Disturbance("cut pulses", 0, 24.0, 6.0, 1), Disturbance("stop in a step", 1, 24.5, 12.0),
        Disturbance("cut engine", 0, 34.0, 12.0), Disturbance("cut pulses", 0, 34.0, 12.0, 1),
    ],
    "a process starts again while its listener is looked at": [
        Disturbance("kill", 0, 24.0, 1.3), Disturbance("kill", 0, 30.0, 1.4), Disturbance("kill", 0, 36.0, 1.5),
    ],
    "a replica is behind while a node starts again": [
        Disturbance("lag", 1, 22.0, 20.0), Disturbance("lag", 2, 22.0, 20.0), Disturbance("slow", 1, 22.0, 20.0),
        Disturbance("kill", 0, 24.0, 0.3), Disturbance("kill", 0, 30.0, 2.5),
    ],
    "heartbeats are answered late, and then none": [
        Disturbance("slow", 0, 22.0, 14.0), Disturbance("cut engine", 0, 26.0, 8.0), Disturbance("cut pulses", 0, 22.0, 14.0, 1),
    ],
    "a node starts again and again, and the others learn it late": [
        Disturbance("slow", 1, 20.0, 22.0), Disturbance("slow", 2, 20.0, 22.0),
        *(Disturbance("kill", 0, 20.0 + 2 * number, 0.3) for number in range(10)),
    ],
    "a list of nodes is old, and one was born meanwhile": [
        Disturbance("kill", 1, 15.0, 5.0), Disturbance("lag", 0, 20.0, 5.2),
        Disturbance("cut engine", 0, 25.0, 16.0), Disturbance("cut pulses", 0, 25.0, 16.0, 1),
    ],
    "a dead node wakes, and looks into a living one": [
        Disturbance("stop", 1, 24.0, 8.0), Disturbance("cut pulses", 0, 23.0, 22.0, 1), Disturbance("late writes", 1, 31.0, 14.0),
        Disturbance("cut engine", 0, 30.0, 14.0),
    ],
    "a claim is answered after its session": [
        Disturbance("cut engine", 0, 24.0, 8.0), Disturbance("slow", 0, 22.0, 20.0), Disturbance("cut all", 0, 36.0, 6.0),
    ],
    "one dies that has declared another one dead, whose bridge needs it": [
        Disturbance("cut engine", 0, 24.0, 14.0), Disturbance("cut pulses", 0, 24.0, 3.6, 1), Disturbance("late writes", 1, 24.0, 14.0),
        Disturbance("kill", 1, 27.8, 20.0),
    ],
    "a process dies in an election": [Disturbance("election", 0, 24.0, 9.0), Disturbance("kill", 0, 26.0, 20.0)],
    "the engine is slow, and a node starts again, twice": [
        *(Disturbance("slow", node, 20.0, 14.0) for node in range(3)), Disturbance("kill", 0, 24.0, 0.3), Disturbance("kill", 0, 26.0, 1.5),
    ],
    "the engine has no majority, a machine starts again, and a node is stopped": [
        Disturbance("election", 0, 20.0, 20.0), Disturbance("machine", 0, 24.0, 1.5), Disturbance("stop", 1, 26.0, 5.5),
    ],
    "a node is stopped, and wakes": [Disturbance("stop", 0, 24.0, 8.0)],
    "a machine dies": [Disturbance("machine", 0, 40.0, 20.0)],
    "a process dies": [Disturbance("kill", 0, 40.0, 20.0)],
}  # fmt: skip
