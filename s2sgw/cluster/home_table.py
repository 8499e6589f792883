"""The homes of peers: claimed, given up and taken over (docs/cluster.md).

The home of a peer is the node that serves all its streams and queues. A pure machine: its inputs are events, its outputs are
calls and notices, which `ClusterHomes` takes with `effects`. A call is answered by the input that its class names, with the call.

A home record is replaced by compare-and-set, and only if its session is over or it was released. So a peer has two homes at no
time: a session is over only after its lease has ended, and a home is released after its streams have closed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from s2sgw.cluster.engine import Conflict, EngineError, EngineFull, Fence, PeerLogs, Stored
from s2sgw.cluster.members import SessionState
from s2sgw.cluster.new_homes import NewHomes
from s2sgw.cluster.node_records import HomeRecord, NodeSession, UnreadableRecord
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

#: Seconds until a home that could not be claimed is looked at again, and until an admission that still waits is refused.
RECHECK = 0.25
PATIENCE = 30.0
#: Seconds without an open stream and without a stanza, after which a home is released; and without a sign of life of any of the
#: peer's streams, after which another node that asks gets it.
UNUSED = 60.0
QUIET = 10.0
#: Nodes that may wait for one peer while it is given up.
ASKERS = 16
#: Homes that are taken over, and homes that are given up, at one time.
TAKEN_AT_ONCE = 64
RELEASED_AT_ONCE = 16
#: Seconds after a session has begun or ended, at which this node looks for peers that have stanzas and no home. The views of the
#: nodes may differ at first. Later it looks every `SWEEP` seconds.
SWEEPS = (0.0, 2.0, 10.0)
SWEEP = 300.0
#: Peers that are looked at in one turn of the reactor; peers whose next call is made in one; and peers that are dropped in one.
LOOKED_AT = 1000
CALLED_AT_ONCE = 100
DROPPED_AT_ONCE = 50
#: Seconds after which a peer is claimed again whose home this node has lost.
LOST_AGAIN = 2.0


def _next(names: OrderedDict[Domain, None]) -> list[Domain]:
    """Return some of the names: in turn, so that each is looked at."""
    some = list(islice(names, LOOKED_AT))
    for name in some:
        names.move_to_end(name)
    return some


def chosen_node(peer: Domain, nodes: Iterable[str]) -> str | None:
    """Return the node that takes `peer` over, of the living `nodes`: by rendezvous hashing, so that each gets its share."""
    weighed = [(hashlib.sha256(f"{node} {peer.ascii}".encode()).digest(), node) for node in nodes]
    return max(weighed)[1] if weighed else None


class SessionView(Protocol):
    """The facts that this node has about the sessions of nodes (`Members`)."""

    def state_of(self, session: NodeSession, now: float) -> SessionState: ...

    def live_nodes(self, now: float) -> list[str]: ...


class Waiter:
    """One who waits for the answer to a question."""


# --- outputs: calls ---


@dataclass(frozen=True, slots=True, eq=False)
class ReadHome:
    """Read the home record of a peer. Answer: `home_read` or `failed`."""

    peer: Domain


@dataclass(frozen=True, slots=True, eq=False)
class ClaimHome:
    """Write the home record. Answer: `claimed` or `failed`."""

    peer: Domain
    owner: NodeSession
    expected: int

    @property
    def data(self) -> bytes:
        return HomeRecord(self.owner).encode()


@dataclass(frozen=True, slots=True, eq=False)
class AskToYield:
    """Ask the home of a peer to give it up. Answer: `yield_answered`."""

    peer: Domain
    home: NodeSession


@dataclass(frozen=True, slots=True, eq=False)
class TakePeer:
    """Restore the queues of a peer, which this node owns now. Answer: `taken`."""

    peer: Domain
    fence: Fence
    logs: PeerLogs


@dataclass(frozen=True, slots=True, eq=False)
class ClosePeer:
    """Close the streams of a peer in order, and spool what is in memory. Answer: `closed`."""

    peer: Domain


@dataclass(frozen=True, slots=True, eq=False)
class ReleaseHome:
    """Write that the peer has no home. Answer: `released` or `failed`."""

    peer: Domain
    expected: int

    @property
    def data(self) -> bytes:
        return HomeRecord(None).encode()


@dataclass(frozen=True, slots=True, eq=False)
class ListPeers:
    """List the peers that have records in the engine. Answer: `peers_listed`."""


# --- outputs: notices ---


@dataclass(frozen=True, slots=True)
class DropPeer:
    """The peer has another home, or none: forget its streams and queues at once, and write nothing more."""

    peer: Domain


@dataclass(frozen=True, slots=True)
class Admit:
    """Answer one who asked: stanzas of the peer may enter here (None), or why not."""

    waiter: Waiter
    ending: Ending | None


@dataclass(frozen=True, slots=True)
class AnswerYield:
    """Answer a node that asked for a peer: whether it may claim it now."""

    waiter: Waiter
    yielded: bool


@dataclass(frozen=True, slots=True)
class HomesReleased:
    """After `drain`: this node owns no peer."""


HomeCall = ReadHome | ClaimHome | AskToYield | TakePeer | ClosePeer | ReleaseHome | ListPeers
HomeEffect = HomeCall | DropPeer | Admit | AnswerYield | HomesReleased


@dataclass(slots=True)
class _Peer:
    """A peer that this node owns, or may come to own. `fence`: this node is the home, by this home record."""

    name: Domain
    fence: Fence | None = None
    #: its queues were restored, so that stanzas may enter
    open: bool = False
    call: HomeCall | None = None
    waiters: list[tuple[Waiter, float]] = field(default_factory=list)
    #: nodes that asked for the peer while it is given up
    askers: list[Waiter] = field(default_factory=list)
    #: it has stanzas, and this node should take it over
    takeover: bool = False
    retry_at: float | None = None
    #: it was read a second time at once; a replica that is behind must not be asked in a circle
    read_again: bool = False
    #: its first home record would be one too many: it is read again, since the replica that was read may be behind
    one_too_many: bool = False
    #: the sequence of the own home record that is still to be released
    unreleased: int | None = None
    unused_since: float | None = None

    @property
    def wanted(self) -> bool:
        return bool(self.waiters) or self.takeover

    @property
    def idle(self) -> bool:
        nothing = self.fence is None and self.call is None and self.unreleased is None
        return nothing and not self.wanted and not self.askers


class HomeTable:
    """The homes that the node `node` owns, claims and gives up."""

    def __init__(self, node: str, sessions: SessionView, new_homes: NewHomes | None = None) -> None:
        self.node = node
        self._sessions = sessions
        #: the bound of new home records
        self.new_homes = new_homes or NewHomes()
        self._session: NodeSession | None = None
        self._effects: list[HomeEffect] = []
        self._peers: dict[Domain, _Peer] = {}
        #: peers whose admission waits, or whose call is to be made again
        self._pending: OrderedDict[Domain, None] = OrderedDict()
        #: the peers of this node, in the order in which their use is looked at
        self._owned: OrderedDict[Domain, None] = OrderedDict()
        self._closing: set[Domain] = set()
        self._takeovers: OrderedDict[Domain, None] = OrderedDict()
        self._taking: set[Domain] = set()
        self._listing: ListPeers | None = None
        #: what is left for the next turns: peers that were listed, peers to go on with, and peers of a session that has ended
        self._listed: Iterator[tuple[Domain, int]] | None = None
        self._due: deque[Domain] = deque()
        self._ended: deque[_Peer] = deque()
        #: the session that begins when the peers of the last one were dropped
        self._next_session: NodeSession | None = None
        self._sweeps: list[float] = []
        self._draining = False
        self._drained = False
        #: peers that were taken over with their stanzas since the start
        self.takeovers = 0

    def effects(self) -> list[HomeEffect]:
        """Return the outputs since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def owns(self, peer: Domain) -> bool:
        """Return whether this node is the home of `peer`, so that it may write to its streams while the lease holds."""
        state = self._peers.get(peer)
        return state is not None and state.fence is not None

    def open(self, peer: Domain) -> bool:
        """Return whether stanzas of `peer` may enter here at once."""
        state = self._peers.get(peer)
        return state is not None and state.open

    def fence(self, peer: Domain) -> Fence | None:
        """Return the right to write the records of `peer`, if this node is its home."""
        state = self._peers.get(peer)
        return None if state is None else state.fence

    @property
    def owned(self) -> Collection[Domain]:
        """Return the peers whose home this node is."""
        return self._owned.keys()

    # --- long work ---

    @property
    def dropping(self) -> bool:
        """Return whether peers of a session that has ended are still to be dropped. No session begins before."""
        return bool(self._ended)

    @property
    def has_work(self) -> bool:
        """Return whether something is left that was too much for one turn of the reactor: call `work` in the next."""
        return bool(self._ended or self._due) or self._listed is not None

    def work(self, now: float) -> None:
        """Do a part of what is left."""
        if self._ended:
            self._drop_some(now)
        elif self._due:
            self._go_on_with_some(now)
        elif self._listed is not None:
            self._look_at_listed(now)

    def _go_on_with_all(self, now: float) -> None:
        """Go on with all peers that wait, some in each turn."""
        self._due = deque(self._pending)
        self._go_on_with_some(now)

    def _go_on_with_some(self, now: float) -> None:
        for _ in range(min(len(self._due), CALLED_AT_ONCE)):
            peer = self._peers.get(self._due.popleft())
            if peer is None:
                continue
            if self._draining and peer.unreleased is None:
                self._admit(peer, Ending(Cause.SHUTDOWN))
                self._forget_if_idle(peer)
            else:
                self._refuse_late(peer, now)
                self._ask_no_more(peer, now)
                self._proceed(peer, now)

    # --- sessions ---

    def session_began(self, session: NodeSession, now: float) -> None:
        """This node is a member. It claims peers when those of its last session were dropped."""
        self._next_session = session
        if not self._ended:
            self._begin_session(now)

    def _begin_session(self, now: float) -> None:
        self._session, self._next_session = self._next_session, None
        self._sweeps = [now + after for after in SWEEPS]
        self._go_on_with_all(now)

    def session_ended(self, now: float) -> None:
        """The session of this node is over. It owns nothing, and calls of the old session have no answer any more."""
        self._session = self._next_session = None
        self._takeovers.clear()
        self._taking.clear()
        self._due.clear()
        self._listing = self._listed = None
        self._owned, self._closing, self._pending = OrderedDict(), set(), OrderedDict()
        peers, self._peers = self._peers, {}
        self._ended.extend(peers.values())
        self._drop_some(now)

    def _drop_some(self, now: float) -> None:
        """Drop some peers of a session that has ended. Admissions wait for the next session."""
        for _ in range(min(len(self._ended), DROPPED_AT_ONCE)):
            old = self._ended.popleft()
            if old.fence is not None:
                self._effects.append(DropPeer(old.name))
            self._answer_askers(old, True)
            if old.waiters and self._draining:
                self._effects += [Admit(waiter, Ending(Cause.SHUTDOWN)) for waiter, _ in old.waiters]
            elif old.waiters:
                peer = self._peers.setdefault(old.name, _Peer(old.name))
                peer.waiters = [*old.waiters, *peer.waiters]
                self._pending[old.name] = None
        if not self._ended and self._next_session is not None:
            self._begin_session(now)

    def other_ended(self, now: float) -> None:
        """The session of another node is over: its peers need a home."""
        self._sweeps = [now + after for after in SWEEPS]
        self._go_on_with_all(now)

    def lost(self, peer: Domain, now: float) -> None:
        """The engine has refused a write of `peer`: another node is its home, although this session is not over.

        Or the queues of the peer have failed here. It is claimed again then, for it may have stanzas.
        """
        state = self._peers.get(peer)
        if state is not None and state.fence is not None:
            state.fence, state.open, state.call = None, False, None
            self._owned.pop(peer, None)
            self._closing.discard(peer)
            self._effects.append(DropPeer(peer))
            self._answer_askers(state, True)
            if not self._draining:
                state.takeover, state.retry_at = True, now + LOST_AGAIN
                self._taking.add(peer)
                self._pending[peer] = None
            self._proceed(state, now)

    # --- admission ---

    def asked(self, peer: Domain, waiter: Waiter, now: float) -> None:
        """Stanzas of `peer` are to enter here. `Admit` answers."""
        if self._draining:
            self._effects.append(Admit(waiter, Ending(Cause.SHUTDOWN)))
            return
        state = self._peers.setdefault(peer, _Peer(peer))
        state.waiters.append((waiter, now))
        self._pending[peer] = None
        self._proceed(state, now)

    def _proceed(self, peer: _Peer, now: float) -> None:
        """Take the next step for a peer, if no call is under way."""
        if peer.call is not None:
            return
        if peer.open:
            self._admit(peer, None)
        elif self._session is None:
            return
        elif peer.unreleased is not None:
            self._call(peer, ReleaseHome(peer.name, peer.unreleased))
        elif peer.wanted and (peer.retry_at is None or now >= peer.retry_at):
            self._call(peer, ReadHome(peer.name))
        self._forget_if_idle(peer)

    def _call(self, peer: _Peer, call: HomeCall) -> None:
        peer.call, peer.retry_at = call, None
        self._effects.append(call)

    def _answered(self, call: HomeCall) -> _Peer | None:
        """Return the peer of a call that is answered, or None if the answer is of no use any more."""
        peer = None if isinstance(call, ListPeers) else self._peers.get(call.peer)
        if peer is None or peer.call is not call:
            return None
        peer.call = None
        return peer

    def _admit(self, peer: _Peer, ending: Ending | None) -> None:
        """Answer all that wait."""
        self._effects += [Admit(waiter, ending) for waiter, _ in peer.waiters]
        peer.waiters.clear()
        peer.read_again = peer.one_too_many = False
        self._end_takeover(peer)
        self._pending.pop(peer.name, None)

    def _end_takeover(self, peer: _Peer) -> None:
        peer.takeover = False
        self._taking.discard(peer.name)

    def _forget_if_idle(self, peer: _Peer) -> None:
        if peer.idle:
            self._peers.pop(peer.name, None)
            self._pending.pop(peer.name, None)
            self._taking.discard(peer.name)

    def _retry(self, peer: _Peer, now: float) -> None:
        peer.retry_at = now + RECHECK
        self._pending[peer.name] = None

    def _read_again(self, peer: _Peer, now: float) -> None:
        """Read the home record again: at once the first time, and then after a while."""
        if peer.read_again:
            self._retry(peer, now)
        else:
            peer.read_again = True
            self._proceed(peer, now)

    def home_read(self, call: ReadHome, stored: Stored | None, now: float) -> None:
        """The home record was read. It may be old: a claim on an old one is refused."""
        peer = self._answered(call)
        if peer is not None and self._session is not None and peer.wanted:
            try:
                owner = None if stored is None else HomeRecord.decode(stored.data).owner
            except UnreadableRecord as error:
                self._admit(peer, Ending(Cause.INTERNAL, f"the home record of the peer: {error}"))
            else:
                self._decide(peer, owner, 0 if stored is None else stored.sequence, now)
        if peer is not None:
            self._forget_if_idle(peer)

    def _decide(self, peer: _Peer, owner: NodeSession | None, sequence: int, now: float) -> None:
        assert self._session is not None
        state = "over" if owner is None else self._sessions.state_of(owner, now)
        if state in ("over", "own"):
            if sequence or peer.takeover or self.new_homes.take(peer.name, now):
                self._call(peer, ClaimHome(peer.name, self._session, sequence))
            elif peer.one_too_many:
                self.new_homes.refused += len(peer.waiters)
                self._admit(peer, Ending(Cause.TOO_MANY_DOMAINS, f"the registered domain of {peer.name} has too many new ones"))
            else:
                peer.one_too_many = True
                self._retry(peer, now)
        elif state == "alive" and owner is not None:
            self._end_takeover(peer)
            if peer.waiters:
                self._call(peer, AskToYield(peer.name, owner))
        else:
            self._retry(peer, now)

    def _ask_no_more(self, peer: _Peer, now: float) -> None:
        """Give up the question to a home whose session is over: a node that has ended does not answer."""
        if isinstance(peer.call, AskToYield) and self._sessions.state_of(peer.call.home, now) == "over":
            peer.call = None

    def claimed(self, call: ClaimHome, fence: Fence, logs: PeerLogs, now: float) -> None:
        """This node is the home."""
        peer = self._answered(call)
        if peer is not None:
            peer.fence, peer.unused_since = fence, None
            self._owned[peer.name] = None
            self._call(peer, TakePeer(peer.name, fence, logs))

    def taken(self, call: TakePeer, ending: Ending | None, now: float) -> None:
        """The queues of the peer were restored, or cannot be (`ending`): then the home is released again."""
        peer = self._answered(call)
        if peer is None:
            return
        if ending is None:
            self.takeovers += peer.takeover
            peer.open = True
            self._proceed(peer, now)
        else:
            self._admit(peer, ending)
            self._release(peer, now)

    def yield_answered(self, call: AskToYield, yielded: bool | None, now: float) -> None:
        """The home has given the peer up, or keeps it, or does not answer (None)."""
        peer = self._answered(call)
        if peer is None:
            return
        if yielded is None:
            self._retry(peer, now)
        elif yielded:
            self._read_again(peer, now)
        else:
            self._admit(peer, Ending(Cause.OTHER_NODE, f"{peer.name} is served by the node {call.home.node}"))
        self._forget_if_idle(peer)

    def failed(self, call: ReadHome | ClaimHome | ReleaseHome, error: EngineError, now: float) -> None:
        """A call had no effect."""
        peer = self._answered(call)
        if peer is None:
            return
        if isinstance(call, ClaimHome) and not call.expected:
            self.new_homes.give_back(peer.name, now)
        if isinstance(call, ReleaseHome) and isinstance(error, Conflict):
            self._after_release(peer, now)
        elif isinstance(call, ClaimHome) and isinstance(error, EngineFull):
            self._admit(peer, Ending(Cause.SPOOL_UNREADABLE, "the engine of the cluster is full"))
        elif isinstance(error, Conflict):
            self._read_again(peer, now)
        else:
            self._retry(peer, now)
        self._forget_if_idle(peer)

    # --- giving up ---

    def yield_asked(self, peer: Domain, waiter: Waiter, quiet: float, now: float) -> None:
        """Another node asks for `peer`. No stream of the peer gave a sign of life for `quiet` seconds. `AnswerYield` answers."""
        state = self._peers.get(peer)
        if state is None or (state.fence is None and state.unreleased is None):
            self._effects.append(AnswerYield(waiter, state is None or not isinstance(state.call, ClaimHome)))
        elif len(state.askers) < ASKERS and (isinstance(state.call, ClosePeer) or state.unreleased is not None):
            state.askers.append(waiter)
        elif state.open and (quiet >= QUIET or self._draining):
            state.askers.append(waiter)
            self._close(state)
        else:
            self._effects.append(AnswerYield(waiter, False))

    def _close(self, peer: _Peer) -> None:
        peer.open = False
        self._closing.add(peer.name)
        self._call(peer, ClosePeer(peer.name))

    def closed(self, call: ClosePeer, spooled: bool, now: float) -> None:
        """The streams of the peer are closed and its stanzas are safe, or could not be spooled: then this node stays its home."""
        peer = self._answered(call)
        if peer is None:
            return
        if spooled:
            self._release(peer, now)
        else:
            peer.open, peer.unused_since = True, None
            self._closing.discard(peer.name)
            self._answer_askers(peer, False)
            self._proceed(peer, now)

    def _release(self, peer: _Peer, now: float) -> None:
        """Own the peer no more, from this moment, and then write it."""
        assert peer.fence is not None
        peer.unreleased, peer.fence, peer.open = peer.fence.sequence, None, False
        self._owned.pop(peer.name, None)
        self._proceed(peer, now)

    def released(self, call: ReleaseHome, now: float) -> None:
        """The home record says so."""
        peer = self._answered(call)
        if peer is not None:
            self._after_release(peer, now)
            self._forget_if_idle(peer)

    def _after_release(self, peer: _Peer, now: float) -> None:
        peer.unreleased = None
        self._closing.discard(peer.name)
        self._answer_askers(peer, True)
        if peer.waiters:
            self._retry(peer, now)

    def _answer_askers(self, peer: _Peer, yielded: bool) -> None:
        self._effects += [AnswerYield(waiter, yielded) for waiter in peer.askers]
        peer.askers.clear()

    def drain(self, now: float) -> None:
        """Give up every peer, and take no other. `HomesReleased` tells when it is done."""
        self._draining = True
        self._takeovers.clear()
        self._go_on_with_all(now)
        self._drain()

    def _drain(self) -> None:
        for name in _next(self._owned):
            if len(self._closing) >= RELEASED_AT_ONCE:
                break
            if self._peers[name].open:
                self._close(self._peers[name])
        if not self._peers and not self._ended and not self._drained:
            self._drained = True
            self._effects.append(HomesReleased())

    # --- what is due ---

    def tick(self, now: float, in_use: Callable[[Domain], bool]) -> None:
        """Do what is due. `in_use`: whether a stream of a peer is open, or a stanza of it is held."""
        if not self._due:
            self._go_on_with_all(now)
        if self._draining:
            self._drain()
        elif self._session is not None:
            self._release_unused(now, in_use)
            self._sweep(now)
            self._take_over(now)

    def _refuse_late(self, peer: _Peer, now: float) -> None:
        late = [waiter for waiter, since in peer.waiters if now - since >= PATIENCE]
        if late:
            self._effects += [Admit(waiter, Ending(Cause.NO_NODE)) for waiter in late]
            peer.waiters = [row for row in peer.waiters if now - row[1] < PATIENCE]

    def _release_unused(self, now: float, in_use: Callable[[Domain], bool]) -> None:
        for name in _next(self._owned):
            peer = self._peers[name]
            if not peer.open or in_use(name):
                peer.unused_since = None
            elif peer.unused_since is None:
                peer.unused_since = now
            elif now - peer.unused_since >= UNUSED:
                self._close(peer)

    # --- takeover ---

    def _sweep(self, now: float) -> None:
        if self._listing is None and self._sweeps and now >= self._sweeps[0]:
            self._sweeps = [at for at in self._sweeps if at > now] or [now + SWEEP]
            self._listing = ListPeers()
            self._effects.append(self._listing)

    def peers_listed(self, call: ListPeers, peers: Mapping[Domain, int] | None, now: float) -> None:
        """The engine has records of these peers, so many of each; None: it did not answer."""
        if call is not self._listing:
            return
        if peers is None:
            self._listing = None
            self._sweeps.insert(0, now + RECHECK)
        else:
            self._listed = iter(peers.items())
            self._look_at_listed(now)

    def _look_at_listed(self, now: float) -> None:
        """Choose those of the peers that were listed that this node takes over: some in each turn."""
        assert self._listed is not None
        live = self._sessions.live_nodes(now)
        some = list(islice(self._listed, LOOKED_AT))
        for name, records in some:
            known = records < 2 or name in self._takeovers or name in self._taking or self.owns(name)
            if not known and chosen_node(name, live) == self.node:
                self._takeovers[name] = None
        if len(some) < LOOKED_AT:
            self._listing = self._listed = None
        self._take_over(now)

    def _take_over(self, now: float) -> None:
        while self._takeovers and len(self._taking) < TAKEN_AT_ONCE and not self._draining:
            name, _ = self._takeovers.popitem(last=False)
            peer = self._peers.setdefault(name, _Peer(name))
            peer.takeover = True
            self._taking.add(name)
            self._pending[name] = None
            self._proceed(peer, now)
