"""The rules of homes, one at a time. What follows from them together is in `tests/properties/test_cluster.py`."""

from __future__ import annotations

from typing import TypeVar

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster import home_table
from s2sgw.cluster.engine import Conflict, EngineFull, EngineGone, Fence, PeerLogs, Stored
from s2sgw.cluster.home_table import (
    Admit,
    AnswerYield,
    AskToYield,
    ClaimHome,
    ClosePeer,
    DropPeer,
    HomeEffect,
    HomesReleased,
    HomeTable,
    ListPeers,
    ReadHome,
    ReleaseHome,
    TakePeer,
    Waiter,
    chosen_node,
)
from s2sgw.cluster.members import SessionState
from s2sgw.cluster.new_homes import NewHomes
from s2sgw.cluster.node_records import HomeRecord, NodeSession
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

_E = TypeVar("_E")
P, Q = Domain.parse("p.example"), Domain.parse("q.example")
OWN, OTHER = NodeSession("a", "a1", 5), NodeSession("b", "b1", 3)


class Sessions:
    """The states of sessions, set by the test."""

    def __init__(self) -> None:
        self.states: dict[NodeSession, SessionState] = {OWN: "own", OTHER: "alive"}
        self.nodes = ["a", "b"]

    def state_of(self, session: NodeSession, now: float) -> SessionState:
        return self.states.get(session, "unknown")

    def live_nodes(self, now: float) -> list[str]:
        return self.nodes


class HomeTableTests(SynchronousTestCase):
    """One node, `a`."""

    def setUp(self) -> None:
        self.sessions = Sessions()
        self.table = HomeTable("a", self.sessions)
        self.now = 0.0
        self.outputs: list[HomeEffect] = []
        self.used: set[Domain] = set()
        self.table.session_began(OWN, self.now)

    def take(self, kind: type[_E]) -> _E:
        """Return the first output of a kind that was not taken yet."""
        self.outputs += self.table.effects()
        effect = next(effect for effect in self.outputs if isinstance(effect, kind))
        self.outputs.remove(effect)
        return effect

    def rest(self) -> list[str]:
        """Return the names of the outputs that were not taken, and forget them."""
        outputs, self.outputs = [*self.outputs, *self.table.effects()], []
        return [type(effect).__name__ for effect in outputs]

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.table.tick(self.now, self.used.__contains__)

    def ask(self, peer: Domain = P) -> Waiter:
        waiter = Waiter()
        self.table.asked(peer, waiter, self.now)
        return waiter

    def read(self, owner: NodeSession | None, sequence: int = 7) -> None:
        """Answer the next reading."""
        stored = Stored(sequence, {}, HomeRecord(owner).encode()) if sequence else None
        self.table.home_read(self.take(ReadHome), stored, self.now)

    def claim(self, sequence: int = 8) -> ClaimHome:
        """Let the next claim succeed, and its queues be restored."""
        call = self.take(ClaimHome)
        self.table.claimed(call, Fence(call.peer, sequence), PeerLogs(None, {}), self.now)
        self.table.taken(self.take(TakePeer), None, self.now)
        return call

    def own(self, peer: Domain = P) -> None:
        self.ask(peer)
        self.read(None, 0)
        self.claim()
        self.rest()

    def first_listing(self) -> ListPeers:
        self.tick()
        return self.take(ListPeers)

    def ending(self) -> Ending | None:
        return self.take(Admit).ending

    # --- admission ---

    def test_new_sub_domains(self) -> None:
        """Too many new sub-domains are refused, after a second look. A peer that has a home record or stanzas is not."""
        self.table = HomeTable("a", self.sessions, NewHomes(2))
        self.table.session_began(OWN, self.now)
        self.table.peers_listed(self.first_listing(), {}, self.now)
        names = [Domain.parse(f"d{number}.p.example") for number in range(4)]
        for name in names[:2]:
            self.own(name)
        self.ask(names[2])
        self.read(None, 0)
        self.assertEqual(([], 0), (self.rest(), self.table.new_homes.refused))
        self.tick(home_table.RECHECK)
        self.read(None, 0)
        ending = self.ending()
        self.assertEqual(ending and (ending.cause, ending.detail), (
            Cause.TOO_MANY_DOMAINS, "the registered domain of d2.p.example has too many new ones",
        ))  # fmt: skip
        self.assertEqual(([], 1), (self.rest(), self.table.new_homes.refused))
        self.ask(names[2])
        self.read(None, 0)
        self.tick(home_table.RECHECK)
        self.read(None, 9)  # the first replica was behind
        self.claim()
        self.assertEqual(None, self.ending())
        self.own(Q)
        self.table.other_ended(self.now)
        self.tick()
        self.table.peers_listed(self.take(ListPeers), {names[3]: 2}, self.now)
        if chosen_node(names[3], self.sessions.nodes) == "b":
            self.sessions.nodes = ["a"]
            self.tick(home_table.SWEEPS[1])
            self.table.peers_listed(self.take(ListPeers), {names[3]: 2}, self.now)
        self.read(None, 0)
        self.claim()
        self.assertTrue(self.table.open(names[3]))

    def test_new_sub_domain_not_claimed(self) -> None:
        """A claim without effect counts for nothing, and neither does one on a record that is there."""
        self.table = HomeTable("a", self.sessions, NewHomes(1))
        self.table.session_began(OWN, self.now)
        self.ask()
        for error in (Conflict("other"), EngineGone("gone")):
            self.read(None, 0)
            self.table.failed(self.take(ClaimHome), error, self.now)
            self.tick(home_table.RECHECK)
        self.read(None, 7)
        self.table.failed(self.take(ClaimHome), EngineFull("full"), self.now)
        self.rest()
        self.own(P)
        self.ask(Domain.parse("sub.p.example"))
        self.read(None, 0)
        self.assertEqual([], self.rest())

    def test_free(self) -> None:
        """A peer without a home, one that was released, and one of a dead session are claimed on the record that was read."""
        self.sessions.states[OTHER] = "over"
        for owner, sequence in ((None, 0), (None, 7), (OTHER, 7), (OWN, 7)):
            table = self.table
            waiter = self.ask()
            self.read(owner, sequence)
            self.assertFalse(table.owns(P))
            call = self.claim()
            self.assertEqual((call.expected, call.owner, HomeRecord.decode(call.data)), (sequence, OWN, HomeRecord(OWN)))
            self.assertEqual(self.take(Admit), Admit(waiter, None))
            self.assertEqual((table.owns(P), table.open(P), table.fence(P), list(table.owned)), (True, True, Fence(P, 8), [P]))
            self.setUp()
            self.sessions.states[OTHER] = "over"

    def test_restored_before_admitted(self) -> None:
        """Stanzas enter only behind those that are restored."""
        self.ask()
        self.read(None, 0)
        self.table.claimed(self.take(ClaimHome), Fence(P, 8), PeerLogs(None, {}), self.now)
        self.ask()
        self.assertFalse(self.table.open(P))
        self.assertNotIn("Admit", self.rest())

    def test_together(self) -> None:
        """All that ask at one time get the answer of one claim."""
        waiters = [self.ask(), self.ask(), self.ask()]
        self.read(None, 0)
        self.claim()
        self.assertEqual([self.take(Admit).waiter for _ in waiters], waiters)
        self.assertEqual(self.rest(), [])

    def test_lost_race(self) -> None:
        """A claim that another node has won is read again, and the winner is asked."""
        self.ask()
        self.read(None, 0)
        self.table.failed(self.take(ClaimHome), Conflict(""), self.now)
        self.read(OTHER)
        call = self.take(AskToYield)
        self.assertEqual(call.home, OTHER)
        self.table.yield_answered(call, False, self.now)
        ending = self.ending()
        self.assertEqual(ending and ending.cause, Cause.OTHER_NODE)
        self.assertFalse(ending and ending.refuses_peer)

    def test_yielded(self) -> None:
        """A peer that its home gives up is claimed."""
        self.ask()
        self.read(OTHER)
        self.table.yield_answered(self.take(AskToYield), True, self.now)
        self.read(None, 9)
        self.assertEqual(self.claim().expected, 9)
        self.assertIsNone(self.ending())

    def test_home_does_not_answer(self) -> None:
        """It is read again a little later."""
        self.ask()
        self.read(OTHER)
        self.table.yield_answered(self.take(AskToYield), None, self.now)
        self.tick(0.1)
        self.assertNotIn("ReadHome", self.rest())
        self.tick(home_table.RECHECK)
        self.take(ReadHome)

    def test_home_ends_without_an_answer(self) -> None:
        """A question to a node that ends is given up at once. An answer that comes all the same is of no use."""
        self.ask()
        self.read(OTHER)
        call = self.take(AskToYield)
        self.tick()
        self.assertNotIn("ReadHome", self.rest())
        self.sessions.states[OTHER] = "over"
        self.table.other_ended(self.now)
        self.table.yield_answered(call, False, self.now)
        self.read(OTHER)
        self.claim()
        self.assertIsNone(self.ending())

    def test_silent_home(self) -> None:
        """A silent home is waited for, until it is declared dead or is heard again."""
        for state in ("silent", "unknown"):
            self.setUp()
            self.sessions.states[OTHER] = state
            self.ask()
            for _ in range(5):
                self.read(OTHER)
                self.assertEqual([name for name in self.rest() if name != "ListPeers"], [])
                self.tick(home_table.RECHECK)
            self.sessions.states[OTHER] = "over"
            self.read(OTHER)
            self.claim()
            self.assertIsNone(self.ending())

    def test_patience(self) -> None:
        """No admission waits for ever."""
        self.sessions.states[OTHER] = "silent"
        self.ask()
        self.read(OTHER)
        self.tick(home_table.PATIENCE - 1)
        self.read(OTHER)
        self.tick(1)
        ending = self.ending()
        self.assertEqual(ending and ending.cause, Cause.NO_NODE)

    def test_late_answer(self) -> None:
        """If no call waits any more, nothing is claimed."""
        self.ask()
        call = self.take(ReadHome)
        self.tick(home_table.PATIENCE)
        self.table.home_read(call, None, self.now)
        self.assertNotIn("ClaimHome", self.rest())

    def test_engine_fails(self) -> None:
        """A full engine is an answer; one that is away is waited for; a record that cannot be read is an answer."""
        self.ask()
        self.read(None, 0)
        self.table.failed(self.take(ClaimHome), EngineFull(""), self.now)
        self.assertIsNotNone(self.ending())
        self.ask()
        self.table.failed(self.take(ReadHome), EngineGone(""), self.now)
        self.tick(home_table.RECHECK)
        self.table.home_read(self.take(ReadHome), Stored(3, {}, b"?"), self.now)
        ending = self.ending()
        self.assertEqual(ending and ending.cause, Cause.INTERNAL)

    def test_queues_cannot_be_restored(self) -> None:
        """The home is released again, with the reason for those who wait."""
        self.ask()
        self.read(None, 0)
        self.table.claimed(self.take(ClaimHome), Fence(P, 8), PeerLogs(None, {}), self.now)
        self.table.taken(self.take(TakePeer), Ending(Cause.INTERNAL, "newer"), self.now)
        self.assertEqual(self.ending(), Ending(Cause.INTERNAL, "newer"))
        call = self.take(ReleaseHome)
        self.assertEqual((call.expected, HomeRecord.decode(call.data)), (8, HomeRecord(None)))

    # --- sessions ---

    def test_session_ends(self) -> None:
        """Everything is dropped, answers of the old session are of no use, and admissions wait for the new session."""
        self.own()
        waiter = self.ask(Q)
        self.read(None, 0)
        call = self.take(ClaimHome)
        self.table.session_ended(self.now)
        self.assertEqual(self.take(DropPeer).peer, P)
        self.assertFalse(self.table.owns(P))
        self.table.claimed(call, Fence(Q, 9), PeerLogs(None, {}), self.now)
        self.assertFalse(self.table.owns(Q))
        self.assertEqual([name for name in self.rest() if name != "ListPeers"], [])
        new = NodeSession("a", "a2", 20)
        self.sessions.states = {new: "own", OWN: "over"}
        self.table.session_began(new, self.now)
        self.read(OWN, 9)
        self.assertEqual(self.claim(10).owner, new)
        self.assertEqual(self.take(Admit).waiter, waiter)

    def test_home_is_lost(self) -> None:
        """A write that the engine refuses as old ends the ownership of this peer alone. It is looked at again: if it is free, it is claimed."""
        self.own(P)
        self.own(Q)
        self.table.lost(P, self.now)
        self.assertEqual(self.take(DropPeer).peer, P)
        self.assertEqual(list(self.table.owned), [Q])
        self.tick(home_table.LOST_AGAIN - 0.1)
        self.assertNotIn("ReadHome", self.rest())
        self.tick(0.2)
        self.read(OTHER)
        self.assertEqual((self.rest(), list(self.table.owned)), ([], [Q]))
        self.table.lost(Q, self.now)
        self.tick(home_table.LOST_AGAIN)
        self.read(OWN)
        self.claim()
        self.assertEqual(list(self.table.owned), [Q])
        self.table.drain(self.now)
        self.table.lost(Q, self.now)
        self.rest()
        self.tick(home_table.LOST_AGAIN)
        self.assertNotIn("ReadHome", self.rest())

    def owned_names(self, number: int) -> list[Domain]:
        names = [Domain.parse(f"p{each}.example") for each in range(number)]
        for name in names:
            self.own(name)
        return names

    def dropped(self) -> list[Domain]:
        return [effect.peer for effect in self.table.effects() if isinstance(effect, DropPeer)]

    def test_session_ends_with_many_peers(self) -> None:
        """They are dropped some in each turn, and nothing is claimed before all are. Admissions of any time are kept."""
        self.patch(home_table, "DROPPED_AT_ONCE", 3)
        names = self.owned_names(7)
        early = self.ask(Q)
        self.take(ReadHome)
        self.table.session_ended(self.now)
        self.assertEqual(([], True, True), ([name for name in names if self.table.owns(name)], self.table.dropping, self.table.has_work))
        late, again = self.ask(Q), self.ask(names[6])
        new = NodeSession("a", "a2", 20)
        self.sessions.states = {new: "own", OWN: "over"}
        self.table.session_began(new, self.now)
        self.tick(1.0)
        found = [self.dropped()]
        self.table.work(self.now)
        found.append(self.dropped())
        self.assertEqual((names[:6], True), ([*found[0], *found[1]], self.table.dropping))
        self.table.work(self.now)
        self.assertEqual((False, False), (self.table.dropping, self.table.has_work))
        self.outputs = self.table.effects()
        self.assertEqual(names[6], self.take(DropPeer).peer)
        for _ in range(2):
            self.read(OWN, 9)
            self.claim(10)
        self.assertEqual({early, late, again}, {self.take(Admit).waiter for _ in range(3)})
        self.assertEqual(2, len(self.table.owned))

    def test_session_ends_twice(self) -> None:
        """A session that ends before the peers of the last one are dropped claims nothing."""
        self.patch(home_table, "DROPPED_AT_ONCE", 2)
        names = self.owned_names(5)
        self.table.session_ended(self.now)
        self.table.session_began(NodeSession("a", "a2", 20), self.now)
        self.table.session_ended(self.now)
        while self.table.has_work:
            self.table.work(self.now)
        self.assertEqual(names, self.dropped())
        self.ask(Q)
        self.tick(1.0)
        self.assertEqual([], self.rest())

    def test_drained_while_peers_are_dropped(self) -> None:
        """Admissions that wait are refused, and the homes count as released when all peers were dropped."""
        self.patch(home_table, "DROPPED_AT_ONCE", 1)
        self.owned_names(2)
        waiter = self.ask(Q)
        self.take(ReadHome)
        self.table.session_ended(self.now)
        self.table.drain(self.now)
        self.tick()
        self.assertNotIn("HomesReleased", self.rest())
        while self.table.has_work:
            self.table.work(self.now)
        self.outputs += self.table.effects()
        self.assertEqual((waiter, Cause.SHUTDOWN), ((admit := self.take(Admit)).waiter, admit.ending and admit.ending.cause))
        self.tick()
        self.assertEqual(["DropPeer", "HomesReleased"], self.rest())

    def test_many_wait(self) -> None:
        """Of many peers that wait, some are gone on with in each turn when a session begins or another node ends, and at a drain."""
        self.patch(home_table, "CALLED_AT_ONCE", 2)
        self.table.session_ended(self.now)
        names = [Domain.parse(f"p{each}.example") for each in range(5)]
        waiters = [self.ask(name) for name in names]
        self.table.session_began(OWN, self.now)
        numbers = [len(self.table.effects())]
        while self.table.has_work:
            self.table.work(self.now)
            numbers.append(len(self.table.effects()))
        self.assertEqual([2, 2, 1], numbers)
        self.table.drain(self.now)
        numbers = [len(self.table.effects())]
        while self.table.has_work:
            self.table.work(self.now)
            numbers.append(len(self.table.effects()))
        self.assertEqual(([2, 2, 1], 5), (numbers, len(waiters)))

    def test_many_wait_in_a_tick(self) -> None:
        """After a tick some are looked at in each turn. The waiters of one peer are refused together."""
        self.patch(home_table, "CALLED_AT_ONCE", 2)
        self.table.session_ended(self.now)
        names = [Domain.parse(f"p{each}.example") for each in range(4)]
        for name in names:
            self.ask(name)
            self.ask(name)
        self.now += home_table.PATIENCE / 2
        late = self.ask(names[0])
        self.now += home_table.PATIENCE / 2
        refused = []
        for step in (self.tick, lambda: self.table.work(self.now)):
            step()
            refused.append([effect.waiter for effect in self.table.effects() if isinstance(effect, Admit)])
        self.assertEqual(([4, 4], False), ([len(each) for each in refused], late in {*refused[0], *refused[1]}))

    # --- giving up ---

    def test_yield(self) -> None:
        """A peer whose streams are silent is given up: closed, released, and then the other node is told."""
        self.own()
        waiter = Waiter()
        self.table.yield_asked(P, waiter, home_table.QUIET, self.now)
        call = self.take(ClosePeer)
        self.assertTrue(self.table.owns(P))
        self.assertFalse(self.table.open(P))
        self.table.closed(call, True, self.now)
        self.assertFalse(self.table.owns(P))
        self.assertEqual(self.rest(), ["ReleaseHome"])
        self.setUp()
        self.own()
        self.table.yield_asked(P, waiter, home_table.QUIET, self.now)
        self.table.closed(self.take(ClosePeer), True, self.now)
        self.table.released(self.take(ReleaseHome), self.now)
        self.assertEqual(self.take(AnswerYield), AnswerYield(waiter, True))

    def test_session_ends_while_it_is_given_up(self) -> None:
        """A node that waits for the peer is answered: the peer is free."""
        self.own()
        waiter = Waiter()
        self.table.yield_asked(P, waiter, home_table.QUIET, self.now)
        self.take(ClosePeer)
        self.table.session_ended(self.now)
        self.assertEqual(AnswerYield(waiter, True), self.take(AnswerYield))

    def test_askers_are_bounded(self) -> None:
        """While a close takes long, a limited number of nodes wait for it; the others are refused."""
        self.own()
        for _ in range(home_table.ASKERS + 1):
            self.table.yield_asked(P, Waiter(), home_table.QUIET, self.now)
        self.take(ClosePeer)
        self.assertFalse(self.take(AnswerYield).yielded)
        self.assertEqual(self.rest(), [])

    def test_keeps(self) -> None:
        """A peer with signs of life, one that is being claimed, and one whose stanzas cannot be spooled are kept."""
        self.own()
        self.table.yield_asked(P, Waiter(), home_table.QUIET - 1, self.now)
        self.assertFalse(self.take(AnswerYield).yielded)
        self.ask(Q)
        self.read(None, 0)
        self.table.yield_asked(Q, Waiter(), 1e9, self.now)
        self.assertFalse(self.take(AnswerYield).yielded)
        self.table.yield_asked(P, Waiter(), 1e9, self.now)
        waiter = self.ask(P)
        self.table.closed(self.take(ClosePeer), False, self.now)
        self.assertFalse(self.take(AnswerYield).yielded)
        self.assertEqual(self.take(Admit), Admit(waiter, None))
        self.assertTrue(self.table.open(P))

    def test_yields_what_it_does_not_own(self) -> None:
        """The answer is yes at once."""
        self.table.yield_asked(P, Waiter(), 0.0, self.now)
        self.assertTrue(self.take(AnswerYield).yielded)

    def test_admission_while_it_is_given_up(self) -> None:
        """It waits for the release, and then claims as any node."""
        self.own()
        self.table.yield_asked(P, Waiter(), home_table.QUIET, self.now)
        self.ask()
        self.table.closed(self.take(ClosePeer), True, self.now)
        self.table.released(self.take(ReleaseHome), self.now)
        self.tick(home_table.RECHECK)
        self.read(OTHER, 12)
        self.take(AskToYield)

    def test_release_that_fails(self) -> None:
        """It is made again, and the peer is owned at no time; a conflict means that another node has it."""
        for error, answered in ((EngineGone(""), False), (Conflict(""), True)):
            self.setUp()
            self.own()
            self.table.yield_asked(P, Waiter(), home_table.QUIET, self.now)
            self.table.closed(self.take(ClosePeer), True, self.now)
            self.table.failed(self.take(ReleaseHome), error, self.now)
            self.assertFalse(self.table.owns(P))
            self.tick(home_table.RECHECK)
            outputs = self.rest()
            self.assertEqual(("ReleaseHome" in outputs, "AnswerYield" in outputs), (not answered, answered))

    def test_unused(self) -> None:
        """A home is released after a minute without use, and not a moment before."""
        self.own()
        self.used.add(P)
        self.tick(100.0)
        self.used.clear()
        self.tick(1.0)
        self.tick(home_table.UNUSED - 1)
        self.assertNotIn("ClosePeer", self.rest())
        self.used.add(P)
        self.tick(2.0)
        self.used.clear()
        self.tick(1.0)
        self.tick(home_table.UNUSED)
        self.table.closed(self.take(ClosePeer), True, self.now)
        self.table.released(self.take(ReleaseHome), self.now)
        self.assertEqual(list(self.table.owned), [])

    def test_drain(self) -> None:
        """Every peer is given up, few at a time; who asks is refused; a close that fails is made again."""
        peers = [Domain.parse(f"p{number}.example") for number in range(home_table.RELEASED_AT_ONCE + 1)]
        for peer in peers:
            self.own(peer)
        self.ask(Q)
        self.table.drain(self.now)
        self.assertEqual([each for each in (self.ending(),) if each is None or each.cause != Cause.SHUTDOWN], [])
        self.ask(Q)
        ending = self.ending()
        self.assertEqual(ending and ending.cause, Cause.SHUTDOWN)
        self.table.home_read(self.take(ReadHome), None, self.now)
        first = self.take(ClosePeer)
        self.table.closed(first, False, self.now)
        for _ in range(40):
            self.tick(0.25)
            self.outputs += self.table.effects()
            calls = [effect for effect in self.outputs if isinstance(effect, ClosePeer)]
            self.assertLessEqual(len(calls), home_table.RELEASED_AT_ONCE)
            for call in calls:
                self.outputs.remove(call)
                self.table.closed(call, True, self.now)
                self.table.released(self.take(ReleaseHome), self.now)
        self.take(HomesReleased)
        self.assertEqual((list(self.table.owned), self.rest().count("HomesReleased")), ([], 0))

    def test_asked_in_a_drain(self) -> None:
        """A peer that another node asks for is given up before its turn, with signs of life too."""
        peers = [Domain.parse(f"p{number}.example") for number in range(home_table.RELEASED_AT_ONCE + 1)]
        for peer in peers:
            self.own(peer)
        self.table.drain(self.now)
        self.rest()
        (last,) = [peer for peer in peers if self.table.open(peer)]
        waiter = Waiter()
        self.table.yield_asked(last, waiter, 0.0, self.now)
        self.table.closed(self.take(ClosePeer), True, self.now)
        self.table.released(self.take(ReleaseHome), self.now)
        self.assertEqual(self.take(AnswerYield), AnswerYield(waiter, True))

    def test_drain_with_a_release_that_fails(self) -> None:
        """A release that the engine does not answer is made again in a drain, too."""
        self.own()
        self.table.drain(self.now)
        self.table.closed(self.take(ClosePeer), True, self.now)
        self.table.failed(self.take(ReleaseHome), EngineGone("no"), self.now)
        self.tick(home_table.RECHECK)
        self.table.released(self.take(ReleaseHome), self.now)
        self.tick()
        self.assertEqual(["HomesReleased"], self.rest())

    # --- takeover ---

    def test_many_listed(self) -> None:
        """Of many peers some are looked at in each turn. No other listing begins meanwhile, and each is taken once."""
        self.patch(home_table, "LOOKED_AT", 3)
        self.sessions.nodes = ["a"]
        self.tick()
        names = [Domain.parse(f"p{each}.example") for each in range(8)]
        self.table.peers_listed(self.take(ListPeers), {**dict.fromkeys(names, 2), P: 1}, self.now)
        numbers = [sum(isinstance(effect, ReadHome) for effect in self.table.effects())]
        self.tick(home_table.SWEEPS[1])
        self.assertEqual([], self.rest())
        while self.table.has_work:
            self.table.work(self.now)
            numbers.append(sum(isinstance(effect, ReadHome) for effect in self.table.effects()))
        self.assertEqual([3, 3, 2, 0], numbers)
        self.tick()
        self.table.peers_listed(self.take(ListPeers), dict.fromkeys(names, 2), self.now)
        while self.table.has_work:
            self.table.work(self.now)
        self.assertEqual([], self.rest())

    def listed(self, *peers: Domain, records: int = 2) -> None:
        self.table.peers_listed(self.take(ListPeers), dict.fromkeys(peers, records), self.now)

    def mine(self, number: int) -> list[Domain]:
        """Return peers that fall to this node."""
        names = (Domain.parse(f"x{each}.example") for each in range(10_000))
        return [name for name, _ in zip((name for name in names if chosen_node(name, ["a", "b"]) == "a"), range(number), strict=False)]

    def test_takeover(self) -> None:
        """Peers that have stanzas and fall to this node are claimed; others, and those with a home alone, are left."""
        self.tick()
        mine = self.mine(2)
        others = [Domain.parse(f"y{each}.example") for each in range(20)]
        others = [name for name in others if chosen_node(name, ["a", "b"]) == "b"]
        self.listed(mine[0], *others)
        self.sessions.states[OTHER] = "over"
        self.read(OTHER)
        self.assertEqual(self.claim().peer, mine[0])
        self.assertEqual(self.rest(), [])
        self.own()
        self.assertEqual(self.table.takeovers, 1)
        self.table.other_ended(self.now)
        self.tick()
        self.listed(mine[1], records=1)
        self.assertEqual(self.rest(), [])

    def test_home_lives(self) -> None:
        """A peer whose home is alive is left to it, and the home is not asked."""
        self.tick()
        self.listed(*self.mine(1))
        self.read(OTHER)
        self.assertEqual(self.rest(), [])

    def test_takeovers_are_bounded(self) -> None:
        """Only so many are under way at one time, and all are made."""
        self.tick()
        mine = self.mine(home_table.TAKEN_AT_ONCE + 5)
        self.listed(*mine)
        self.outputs += self.table.effects()
        self.assertEqual(len([effect for effect in self.outputs if isinstance(effect, ReadHome)]), home_table.TAKEN_AT_ONCE)
        for _ in mine:
            self.read(None, 0)
            self.claim()
            self.tick()
        self.assertEqual(set(self.table.owned), set(mine))

    def test_looks_again(self) -> None:
        """The peers are listed at a birth and at each death, a little later, and seldom after that; at once if it fails."""
        self.tick()
        self.table.peers_listed(self.take(ListPeers), None, self.now)
        times = []
        while self.now < home_table.SWEEP * 2.5:
            self.tick(0.25)
            if "ListPeers" in [type(effect).__name__ for effect in self.table.effects()]:
                times.append(self.now)
                self.table.peers_listed(self.table._listing, {}, self.now)  # type: ignore[arg-type]
        self.assertEqual(times, [0.25, 2.0, 10.0, 10.0 + home_table.SWEEP, 10.0 + 2 * home_table.SWEEP])

    def test_rendezvous(self) -> None:
        """Each node gets a like share, and a node that goes moves no peer of the others."""
        peers = [Domain.parse(f"x{each}.example") for each in range(600)]
        before = [chosen_node(peer, ["a", "b", "c"]) for peer in peers]
        self.assertTrue(all(150 < before.count(node) < 250 for node in "abc"))
        after = [chosen_node(peer, ["a", "c"]) for peer in peers]
        self.assertEqual([now for was, now in zip(before, after, strict=True) if was != "b" and was != now], [])
        self.assertIsNone(chosen_node(P, []))
