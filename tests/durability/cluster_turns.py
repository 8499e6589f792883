"""`python -m tests.durability.cluster_turns --peers 20000`: the longest turn of a node with that many peers.

The homes and the spool are real, on the engine in memory. Each line is one event: the turns of the reactor that it takes, and the
longest of them in milliseconds of CPU. Python's collector of cycles is off: the gateway has its own rules for it.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from time import thread_time
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.cluster.engine import Fence
from s2sgw.cluster.home_table import HomeTable, Waiter
from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.members import OtherEnded, SessionBegan, SessionEnded, SessionState
from s2sgw.cluster.node_records import HomeRecord, NodeSession
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.spool.interface import Spooled
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza
from tests.support.cluster_node import Custody
from tests.support.memory_engine import MemoryEngine, MemoryStore
from tests.support.turn_clock import TurnClock

#: The most milliseconds of CPU of one turn.
MOST = 50.0
LOCAL = Domain.parse("local.example")
OWN = NodeSession("a", "a1", 1)


class Sessions:
    """This node is alone with two others, which are alive."""

    def state_of(self, session: NodeSession, now: float) -> SessionState:
        return "own" if session == OWN else "over"

    def live_nodes(self, now: float) -> list[str]:
        return ["a", "b", "c"]

    def listener_of(self, node: str) -> str | None:
        return None

    def may_write(self, now: float) -> bool:
        return True


class Turns:
    """Measures. `longest`: the longest turn of any event."""

    def __init__(self) -> None:
        self.clock = TurnClock()
        self.longest = 0.0

    def measure(self, name: str, event: Callable[[], Any], over: Callable[[], bool]) -> None:
        """Do `event`, and then turn after turn until it is over."""
        number, longest = 0, self._seconds(event)
        while not over():
            number += 1
            longest = max(longest, self._seconds(self.clock.turn))
        self.longest = max(self.longest, longest)
        print(f"{name:46} {number:6} turns, the longest {longest * 1000:7.1f} ms")

    def _seconds(self, act: Callable[[], Any]) -> float:
        begin = thread_time()
        act()
        return thread_time() - begin


def measure_homes(turns: Turns, peers: list[Domain]) -> None:
    """Measure the homes: a session that begins and ends, and one of another node that ends."""
    store, custody = MemoryStore(), Custody()
    table = HomeTable("a", Sessions())
    homes = ClusterHomes(table, Sessions(), MemoryEngine(store), custody, turns.clock)
    for peer in peers:
        store.claim(peer, HomeRecord(NodeSession("b", "b1", 1)).encode(), 0)
        table.asked(peer, Waiter(), 0.0)
    begin = SessionBegan(OWN)
    turns.measure("a session begins, and all peers are claimed", lambda: homes.noticed(begin), lambda: len(table.owned) == len(peers))
    table.effects()
    turns.measure("a tick", lambda: table.tick(1.0, custody.in_use), lambda: not table.has_work)
    listed = dict.fromkeys((Domain.parse(f"other-{peer}") for peer in peers), 2)
    turns.measure("another node ends", lambda: homes.noticed(OtherEnded("b")), lambda: not table.has_work)
    table.effects()
    table.tick(turns.clock.seconds() + 1.0, custody.in_use)
    call = next(each for each in table.effects() if type(each).__name__ == "ListPeers")
    turns.measure("peers with stanzas are listed", lambda: table.peers_listed(call, listed, 1.0), lambda: not works(table))  # type: ignore[arg-type]
    table.effects()
    ended = SessionEnded(OWN)
    turns.measure("the session ends, and all peers are dropped", lambda: homes.noticed(ended), lambda: not homes.dropping)
    if len(custody.dropped) != len(peers):
        raise AssertionError(f"{len(custody.dropped)} peers were dropped")


def works(table: HomeTable) -> bool:
    """Do a part of the work; return whether there is more. It stands for the homes, whose turns are counted."""
    table.work(1.0)
    return table.has_work


def measure_spool(turns: Turns, peers: list[Domain]) -> None:
    """Measure the spool: each peer has a stanza that has expired, and a removal that is not written."""
    store = MemoryStore()
    engine = MemoryEngine(store)

    def deliver(call: Callable[[], None]) -> None:
        turns.clock.callLater(0, call)

    spool = JetStreamSpool(
        engine, 1 << 40, deliver, turns.clock, session="a", wall=lambda: 1e9, peer_of=lambda pair: pair.recipient,
    )
    answers: list[Any] = []
    for peer in peers:
        claimed: list[tuple[Fence, Any]] = []
        Deferred.fromCoroutine(engine.claim(peer, b"", 0)).addCallback(claimed.append)
        spool.restored(*claimed[0])
    for peer in peers:
        pair = Pair(LOCAL, peer)
        rows = [Spooled(pair, position, Stanza("message", b"<message/>", "", ""), 1.0, 2.0) for position in (1, 2)]
        spool.append(rows, answers.append)
    while len(answers) < len(peers):
        turns.clock.turn()
    for peer in peers:
        spool.remove(Pair(LOCAL, peer), 1)
    for name, event in (
        ("the spool is asked for its lanes", spool.queues), ("the spool is asked for what has expired", lambda done: spool.expired(100.0, 100, done)),
    ):
        answers.clear()
        turns.measure(name, lambda event=event: event(answers.append), lambda: bool(answers))  # type: ignore[misc]
    answers.clear()
    turns.measure("the spool is closed", lambda: spool.close(lambda: answers.append(None)), lambda: bool(answers))


def main() -> int:
    """Measure; return the status of the program."""
    parser = argparse.ArgumentParser(description="the longest turn of a node of a cluster with many peers")
    parser.add_argument("--peers", type=int, default=20_000)
    peers = [Domain.parse(f"p{number}.example") for number in range(parser.parse_args().peers)]
    turns = Turns()
    gc.disable()
    measure_homes(turns, peers)
    measure_spool(turns, peers)
    return int(turns.longest * 1000 > MOST)


if __name__ == "__main__":
    sys.exit(main())
