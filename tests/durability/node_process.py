"""A node of a cluster without a gateway: it owns peers on real servers, and writes a line for each write to a wire that it may make.

    python -m tests.durability.node_process NAME PORT FILE URL…
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from s2sgw.cluster.engine import Fenced, LaneRecord
from s2sgw.cluster.home_table import HomeTable
from s2sgw.cluster.homes import ClusterHomes
from s2sgw.cluster.jetstream import JetStreamEngine
from s2sgw.cluster.members import MemberNotice, Members
from s2sgw.cluster.membership import Membership, TCPProbe
from s2sgw.runtime.monotonic_clock import use_monotonic_clock
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.cluster_node import Custody

LOCAL = Domain.parse("local.example")
PEERS = tuple(Domain.parse(f"peer{number}.example") for number in range(12))
NAMES = "abc"
#: Seconds between two writes to the wire of a peer, and between two attempts to get one's share of the peers.
WRITE, CLAIM = 0.02, 1.0


class NodeProcess:
    """The node `name`, whose listener is at `port`. It asks for every third peer, and takes over what it must."""

    def __init__(self, name: str, port: int, file: Path, urls: list[str], loop: asyncio.AbstractEventLoop, reactor: Any) -> None:
        self._name = name
        self._port = port
        self._out = file.open("a", buffering=1, encoding="utf-8")
        self._reactor = reactor
        self._engine = JetStreamEngine(urls, loop, record_bytes=100_000, shard_bytes=16 << 20)
        members = Members(name, f"127.0.0.1:{port}", partial(secrets.token_hex, 8))
        custody = Custody()
        custody.used = set(PEERS)
        clock: IReactorTime = reactor
        self._table = HomeTable(name, members)
        self._homes = ClusterHomes(self._table, members, self._engine, custody, clock)
        self._membership = Membership(members, self._engine, TCPProbe(reactor), self, clock)
        self._stored: set[Domain] = set()
        self._loops = [LoopingCall(self._write), LoopingCall(self._claim)]

    async def start(self) -> None:
        await self._engine.open(30)
        self._reactor.listenTCP(self._port, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self._engine.answer(self._name, self._homes.answer)
        self._homes.start()
        self._membership.start()
        for loop, seconds in zip(self._loops, (WRITE, CLAIM), strict=True):
            loop.start(seconds)

    def noticed(self, notice: MemberNotice) -> None:
        self._tell("notice", type(notice).__name__)
        self._homes.noticed(notice)

    def _tell(self, *words: str) -> None:
        self._out.write(" ".join((f"{time.monotonic():.4f}", self._name, *words)) + "\n")

    def _write(self) -> None:
        written = [peer for peer in PEERS if self._table.open(peer) and self._membership.may_write()]
        if written:
            self._tell("wrote", *(peer.ascii for peer in written))
        for peer in written:
            if peer not in self._stored:
                self._stored.add(peer)
                Deferred.fromCoroutine(self._store(peer)).addErrback(self._not_stored, peer)

    async def _store(self, peer: Domain) -> None:
        """Store something, so that the peer is taken over when this node dies."""
        fence = self._table.fence(peer)
        if fence is not None:
            await self._engine.append(fence, [LaneRecord(Pair(LOCAL, peer), {}, b"stanza")], secrets.token_hex(8))

    def _not_stored(self, failure: Failure, peer: Domain) -> None:
        failure.trap(Fenced)
        self._homes.lost(peer)

    def _claim(self) -> None:
        for peer in PEERS[NAMES.index(self._name) :: len(NAMES)]:
            Deferred.fromCoroutine(self._homes.claim(peer))


def main() -> None:
    """Run until the process is killed."""
    name, port, file, *urls = sys.argv[1:]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    node = NodeProcess(name, int(port), Path(file), urls, loop, reactor)
    Deferred.fromCoroutine(node.start()).addErrback(Failure.printTraceback)
    reactor.run()


if __name__ == "__main__":
    main()
