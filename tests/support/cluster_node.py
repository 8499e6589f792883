"""A node of a cluster on the engine in memory: membership and homes, with the gateway's streams and queues as a test says."""

from __future__ import annotations

from itertools import count

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from s2sgw.cluster.engine import Fence, PeerLogs
from s2sgw.cluster.home_table import HomeTable
from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.members import MemberNotice, Members
from s2sgw.cluster.membership import Membership
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.turn_clock import TurnClock


class Probe:
    """`dead`: the listeners whose process is gone."""

    def __init__(self) -> None:
        self.dead: set[str] = set()

    async def refused(self, listener: str) -> bool:
        return listener in self.dead


class Custody:
    """The streams and queues of peers. `ending` and `safe` are the answers."""

    def __init__(self) -> None:
        self.used: set[Domain] = set()
        self.seconds = float("inf")
        self.taken: list[tuple[Fence, PeerLogs]] = []
        self.closed: list[Domain] = []
        self.dropped: list[Domain] = []
        self.ending: Ending | None = None
        self.safe = True
        self.error: Exception | None = None

    def in_use(self, peer: Domain) -> bool:
        return peer in self.used

    def quiet(self, peer: Domain) -> float:
        return self.seconds

    async def take(self, fence: Fence, logs: PeerLogs) -> Ending | None:
        if self.error is not None:
            raise self.error
        self.taken.append((fence, logs))
        return self.ending

    async def close(self, peer: Domain) -> bool:
        if self.error is not None:
            raise self.error
        self.closed.append(peer)
        return self.safe

    def drop(self, peer: Domain) -> None:
        self.dropped.append(peer)


class Node:
    """The node `name`."""

    def __init__(self, name: str, store: MemoryStore, clock: Clock, probe: Probe) -> None:
        self.name = name
        self.clock = clock
        self.engine = MemoryEngine(store)
        self.listener = f"192.0.2.{ord(name) - 96}:5271"
        numbers = count(1)
        self.members = Members(name, self.listener, lambda: f"{name}{next(numbers)}")
        self.table = HomeTable(name, self.members)
        self.custody = Custody()
        self.homes = ClusterHomes(self.table, self.members, self.engine, self.custody, clock)
        self.notices: list[str] = []
        self.membership = Membership(self.members, self.engine, probe, self, clock)

    def start(self) -> None:
        self.engine.answer(self.name, self.homes.answer)
        self.homes.start()
        self.membership.start()

    def noticed(self, notice: MemberNotice) -> None:
        self.notices.append(type(notice).__name__)
        self.homes.noticed(notice)

    def claim(self, peer: Domain) -> list[Ending | None]:
        """Return where the answer will be."""
        answers: list[Ending | None] = []
        Deferred.fromCoroutine(self.homes.claim(peer)).addCallback(answers.append)
        return answers

    def die(self) -> None:
        """End the process: nothing more is done or heard."""
        self.membership.stop()
        self.homes.stop()
        self.engine.cut()

    @property
    def may_write(self) -> bool:
        return self.membership.may_write()


class Nodes:
    """Nodes that share a store and a clock. All have joined, and are old enough to declare each other dead."""

    def __init__(self, names: str = "abc", age: float = 20.0) -> None:
        self.clock = TurnClock()
        self.store = MemoryStore(self.clock.seconds)
        self.probe = Probe()
        self.nodes = {name: Node(name, self.store, self.clock, self.probe) for name in names}
        for node in self.nodes.values():
            node.start()
        self.pass_time(age)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)

    def die(self, name: str) -> None:
        """End the process of a node, and its listener."""
        self.nodes[name].die()
        self.probe.dead.add(self.nodes[name].listener)

    def owners(self, peer: Domain) -> list[str]:
        return [name for name, node in self.nodes.items() if node.table.owns(peer) and node.may_write]


