"""Tests of a pair's ingress: admission, then the filter, then the queue; and of stanzas that wait meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from math import inf
from types import SimpleNamespace
from typing import Any
from weakref import ref

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.ingress import pair_ingress as entry_module
from s2sgw.ingress.pair_ingress import (
    HELD_BYTES_OF_ENDED,
    LOOK_SECONDS,
    PASSED_AT_ONCE,
    QUIET_LOOKS,
    READ_ON_SECONDS,
    HeldBytes,
    PairIngress,
)
from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from s2sgw.queue.bounce import BOUNCED_AT_ONCE
from s2sgw.queue.entries import OVERHEAD
from s2sgw.reporting.record import EventRecord, Leg
from s2sgw.stream.events import Refusal
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Kind, Stanza
from tests.support.custody import Receipt, custody_of, ingress_services

HERE, PEER, OTHER = (Domain.parse(name) for name in ("here.example", "peer.example", "other.example"))
IN, OUT, OTHERS = Pair(PEER, HERE), Pair(HERE, PEER), Pair(OTHER, HERE)


class Connection:
    """A connection as an ingress uses it."""

    peer_address, shared = "192.0.2.1:5269", False
    has_unread_input = False
    last_received = 0.0

    def __init__(self) -> None:
        self.holders: set[object] = set()

    @property
    def read_since(self) -> float:
        return inf if self.holders else 0.0

    def pause(self, holder: object) -> None:
        self.holders.add(holder)

    def resume(self, holder: object) -> None:
        self.holders.discard(holder)

    def fail(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)

    def wind_down(self, ending: Ending) -> None:
        raise AssertionError(ending)


class Keeping:
    """A next hop that keeps its stanzas."""

    state, ready, slow, acknowledges, last_cause = "ready", True, False, False, Cause.CLOSED

    def __init__(self, kept: list[str]) -> None:
        self._kept = kept

    def send(self, data: Sequence[bytes]) -> bool:
        self._kept += [each.decode() for each in data]
        return self.slow

    def request_delivery(self) -> None: ...

    def retry_now(self, urged: bool = False) -> None: ...

    def stop(self, cause: Cause) -> None: ...

    def dispose(self) -> None: ...


def stanza(id: str, kind: Kind = "message", type: str | None = None, payloads: tuple[str, ...] = ()) -> Stanza:
    return Stanza(kind, id.encode(), "u@here.example", "u@peer.example", type, id, payloads)


class EntryTestCase(SynchronousTestCase):
    """An ingress over real queues, with a policy and an admission that the test sets."""

    def made(self, leg: Leg = "federation", pair: Pair = IN, **policy: Any) -> PairIngress:
        self.clock = Clock()
        self.kept: dict[Pair, list[str]] = {}
        self.record = EventRecord(self.clock, Logger())
        self.steps: list[Callable[[], None]] = []
        self.custody = custody_of(self.clock, self.record, lambda domain: domain == HERE, self.next_hop, soon=self.steps.append)
        self.queues = self.custody.queues
        self.peers = PeerPolicies({"default": PeerObject(**policy)})
        self.connection = Connection()
        self.waiting = HeldBytes()
        self.admissions: list[Deferred[Ending | None]] = []
        self.senders = {IN.sender}
        self.ingress_services = ingress_services(self.custody, self.peers)
        return PairIngress(self.ingress_services, self.connection, leg, pair, self, self.senders, self.waiting)

    def step(self) -> None:
        """Run one turn of the reactor, in which everything due is done."""
        steps, self.steps[:] = list(self.steps), []
        for each in steps:
            each()

    def next_hop(self, queue: DeliveryQueue) -> Any:
        return Keeping(self.kept.setdefault(queue.pair, []))

    def admit(self, pair: Pair) -> Deferred[Ending | None]:
        self.admissions.append(Deferred())
        return self.admissions[-1]

    def admitted(self, **policy: Any) -> PairIngress:
        """Return an ingress whose pair is admitted, by its first stanza."""
        entry = self.made(**policy)
        entry.accept([stanza("first")])
        self.admissions.pop().callback(None)
        self.kept[IN].clear()
        return entry

    def passed(self, pair: Pair = IN) -> str:
        return " ".join(self.kept.get(pair, []))


class AdmissionTests(EntryTestCase):
    """No stanza of a pair reaches a queue before the pair is admitted."""

    def test_waits(self) -> None:
        """The first stanzas wait and the stream is paused. Then all pass in order, and later ones need no further question."""
        entry = self.made()
        entry.accept([stanza("a"), stanza("b")])
        entry.accept([stanza("c")])
        self.assertEqual(("", {entry}, True), (self.passed(), self.connection.holders, self.ingress_services.admitting))
        self.admissions.pop().callback(None)
        self.assertEqual(("a b c", set(), False), (self.passed(), self.connection.holders, self.ingress_services.admitting))
        entry.accept([stanza("d")])
        self.assertEqual(("a b c d", []), (self.passed(), self.admissions))

    def test_refused(self) -> None:
        """The stanzas of a refused pair are bounced and recorded. The next stanza asks for admission again."""
        entry = self.made("backend", OUT)
        entry.accept([stanza("a", "iq", "get"), stanza("b", "iq", "result")])
        self.admissions.pop().callback(Ending(Cause.NOT_ALLOWED, "no"))
        self.assertEqual("", self.passed(OUT))
        self.assertEqual(1, len(self.kept[IN]))
        self.assertIn("policy-violation", self.passed(IN))
        (refused,) = self.record.list("peer.example")
        self.assertEqual(("outbound", "backend", "here.example"), (refused.direction, refused.leg, refused.local))
        self.assertEqual(set(), self.connection.holders)
        entry.accept([stanza("c")])
        self.admissions.pop().callback(Ending(Cause.NOT_ALLOWED, "no"))
        self.assertEqual((IN,), entry._entered)  # not once for each refusal
        entry.accept([stanza("d")])
        self.assertEqual(1, len(self.admissions))

    def test_broken(self) -> None:
        """An internal error refuses the pair; it does not admit it."""
        entry = self.made()
        entry.accept([stanza("a")])
        self.admissions.pop().errback(RuntimeError("x"))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual("", self.passed())
        self.assertEqual(Cause.INTERNAL, self.record.list()[0].ending.cause)

    def test_after_the_end(self) -> None:
        """R16: stanzas received before the end are passed on after it, and pause no stream."""
        entry = self.made()
        entry.accept([stanza("a")])
        entry.close()
        self.admissions.pop().callback(None)
        self.assertEqual("a", self.passed())

    def test_never_admitted(self) -> None:
        """A stream that ends before its pair is admitted makes no queue."""
        entry = self.made()
        entry.close()
        self.assertEqual([], list(self.queues))

    def test_reconsidered(self) -> None:
        """A changed policy is asked again, and its filter replaces the old one."""
        entry = self.admitted()
        self.peers.adopt(PeerPolicies({"default": PeerObject(kinds=("iq",))}))
        entry.accept([stanza("a")])
        entry.reconsider()
        entry.accept([stanza("b"), stanza("c", "iq", "get")])
        self.assertEqual("a", self.passed())
        self.admissions.pop().callback(None)
        self.assertEqual("a c", self.passed())

    def test_reconsidered_meanwhile(self) -> None:
        """An answer that was requested under the old policy does not count."""
        entry = self.made()
        entry.accept([stanza("a")])
        entry.reconsider()
        self.admissions.pop().callback(None)
        self.assertEqual("", self.passed())
        self.admissions.pop().callback(None)
        self.assertEqual("a", self.passed())


class HomeTests(EntryTestCase):
    """Pairs whose home is another node, or becomes one."""

    def elsewhere(self, claim: Callable[[Domain], Awaitable[Ending | None]]) -> tuple[PairIngress, Receipt, list[Refusal]]:
        """Return an ingress with a stanza whose policy has admitted it, its receipt, and the errors that the stream ends with."""
        entry, receipt, errors = self.made(), Receipt(1), list[Refusal]()
        self.patch(self.ingress_services, "homes", SimpleNamespace(claim=claim))
        self.patch(self.connection, "fail", errors.append)
        entry.accept([stanza("a")], receipt)
        self.admissions.pop().callback(None)
        return entry, receipt, errors

    def assert_given_up(self, entry: PairIngress, receipt: Receipt) -> None:
        later = Receipt(1)
        entry.accept([stanza("b")], later)
        entry.reconsider()
        self.clock.advance(100)
        self.assertEqual(("", [], [], 0), (self.passed(), self.admissions, self.clock.getDelayedCalls(), len(self.ingress_services.lines)))
        self.assertTrue(receipt.abandoned and later.abandoned)
        self.assertFalse(self.ingress_services.admitting)

    def test_another_node(self) -> None:
        """The stream ends with an error. Its stanzas, and later ones, enter no queue and are not acknowledged."""
        async def claim(peer: Domain) -> Ending | None:
            return Ending(Cause.OTHER_NODE)

        entry, receipt, errors = self.elsewhere(claim)
        self.assertEqual([StreamCondition.CONFLICT], [each.condition for each in errors])
        self.assert_given_up(entry, receipt)

    def test_home_that_cannot_be_asked_for(self) -> None:
        """An error of ours in the question for the home ends the stream. It does not admit the pair."""
        async def claim(peer: Domain) -> Ending | None:
            raise RuntimeError("broken")

        entry, receipt, errors = self.elsewhere(claim)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual([StreamCondition.INTERNAL_SERVER_ERROR], [each.condition for each in errors])
        self.assert_given_up(entry, receipt)

    def test_given_up_meanwhile(self) -> None:
        """If another node gets the pair while this one asks for its home, the answer admits nothing."""
        answer: Deferred[Ending | None] = Deferred()

        async def claim(peer: Domain) -> Ending | None:
            return await answer

        entry, receipt, errors = self.elsewhere(claim)
        self.ingress_services.lines.leave(entry)
        entry.abandon()
        answer.callback(None)
        self.assertEqual([], errors)
        self.assert_given_up(entry, receipt)


class GivenBackTests(EntryTestCase):
    """Stanzas of a pair that another node has, of a server that does not send them again."""

    def given_back(self, cause: Cause = Cause.OTHER_NODE) -> PairIngress:
        """Return an ingress whose pair another node has, for this reason."""
        async def claim(peer: Domain) -> Ending | None:
            return Ending(cause)

        entry = self.made()
        self.given: list[tuple[str, Cause]] = []
        self.told: list[object] = []
        self.patch(self.ingress_services, "homes", SimpleNamespace(claim=claim))
        self.patch(self.ingress_services, "returned", self)
        self.patch(self.connection, "fail", self.told.append)
        self.patch(self.connection, "wind_down", self.told.append)
        return entry

    def give_back(self, pair: Pair, stanzas: Sequence[Stanza], cause: Cause) -> None:
        self.assertEqual(IN, pair)
        self.given += [(each.id or "", cause) for each in stanzas]

    def test_another_node(self) -> None:
        """The stream gets a closing tag, and is read on. Its stanzas are given back until it ends: after a while, with an error."""
        entry = self.given_back()
        entry.accept([stanza("a")])
        self.assertEqual({entry}, self.connection.holders)
        self.admissions.pop().callback(None)
        self.assertEqual(([Ending(Cause.OTHER_NODE)], set()), (self.told, self.connection.holders))
        entry.accept([stanza("b"), stanza("c")])
        self.assertEqual([(name, Cause.OTHER_NODE) for name in "abc"], self.given)
        self.clock.advance(entry_module.CLOSING_TAG_SECONDS)
        self.assertEqual([StreamCondition.CONFLICT], [each.condition for each in self.told[1:] if isinstance(each, Refusal)])

    def test_no_node(self) -> None:
        """If no node can have the pair now, the stream ends with an error. What was read is given back, for that reason."""
        entry = self.given_back(Cause.NO_NODE)
        entry.accept([stanza("a")])
        self.admissions.pop().callback(None)
        self.assertEqual([StreamCondition.RESOURCE_CONSTRAINT], [each.condition for each in self.told if isinstance(each, Refusal)])
        self.assertEqual(([("a", Cause.NO_NODE)], 1), (self.given, len(self.told)))

    def test_closed_in_time(self) -> None:
        """A stream that ends in time gets no error."""
        entry = self.given_back()
        entry.accept([stanza("a")])
        self.admissions.pop().callback(None)
        entry.close()
        self.assertEqual(([], [("a", Cause.OTHER_NODE)]), (self.clock.getDelayedCalls(), self.given))

    def test_given_up(self) -> None:
        """Stanzas that wait when another node gets the pair are given back, and so are later ones. Those that are sent again are not."""
        entry = self.given_back()
        entry.accept([stanza("a")])
        entry.accept([stanza("b")], Receipt(1))
        self.ingress_services.lines.leave(entry)
        entry.abandon()
        entry.accept([stanza("c")])
        entry.accept([stanza("d")], Receipt(1))
        self.assertEqual([(name, Cause.OTHER_NODE) for name in "ac"], self.given)


class FoundQueueTests(EntryTestCase):
    """The queue is looked up once, as long as it exists."""

    def test_forgotten(self) -> None:
        """A queue that was forgotten meanwhile gets nothing more: the stanzas go to its successor."""
        entry = self.admitted()
        former = self.queues.queue(IN)
        entry.accept([stanza("a")])
        self.queues.forget(IN)
        self.assertTrue(former.forgotten)
        entry.accept([stanza("b")])
        self.assertEqual("a b", self.passed())
        self.assertIs(self.queues.find(IN), entry._queue())
        self.assertIsNot(former, entry._queue())

    def test_leaves_memory(self) -> None:
        """The stream does not keep a forgotten queue in memory."""
        entry = self.admitted()
        entry.accept([stanza("a")])
        former = ref(self.queues.queue(IN))
        self.queues.forget(IN)
        gc.collect()
        self.assertIsNone(former())

    def test_rest(self) -> None:
        """On a long-lived stream, a pair that was idle is admitted anew, also if no other pair has sent since."""
        self.made()
        ingress = StreamIngress(self.ingress_services, self.connection, None, "federation", self, self.senders)  # type: ignore[arg-type]
        ingress.stanzas(IN, [stanza("a")])
        self.admissions.pop().callback(None)
        ingress.forget_resting(self.clock.seconds() + 1)
        ingress.stanzas(IN, [stanza("b")])
        self.assertEqual(("a", 1), (self.passed(), len(self.admissions)))
        self.admissions.pop().callback(None)
        ingress.stanzas(IN, [stanza("c")])
        self.assertEqual("a b c", self.passed())


class ReloadTests(EntryTestCase):
    """Tests of a reload while waiting stanzas are passed on in steps."""

    def test_order_of_two_streams(self) -> None:
        """The answer comes at once. No stanza of the next stream overtakes those of the first."""
        first = self.made()
        second = PairIngress(
            self.ingress_services, Connection(), "federation", IN, self, self.senders, HeldBytes(),
        )
        for name in "abcde":
            first.accept([stanza(name)] * (PASSED_AT_ONCE - 1))
        second.accept([stanza("z")])
        self.admissions.pop().callback(None)
        first.reconsider()
        second.reconsider()
        self.patch(self, "admit", lambda pair: succeed(None))
        while self.steps:
            self.step()
        self.clock.pump([LOOK_SECONDS] * 2 * QUIET_LOOKS)
        self.assertEqual("".join(self.kept[IN]), "".join(name * (PASSED_AT_ONCE - 1) for name in "abcde") + "z")
        self.assertEqual((self.connection.holders, len(self.ingress_services.lines)), (set(), 0))


class SeveralStreamsTests(EntryTestCase):
    """R35: tests of a server that uses another stream while stanzas of the one before wait."""

    def another(self) -> PairIngress:
        """Return an ingress of the same pair on another stream."""
        return PairIngress(self.ingress_services, Connection(), "federation", IN, self, self.senders, HeldBytes())

    def test_in_order(self) -> None:
        """The first stream's stanzas go first, although it has ended. The next stream asks for admission again."""
        first = self.made()
        first.accept([stanza("a"), stanza("b")])
        second = self.another()
        second.accept([stanza("c")])
        first.close()
        second.accept([stanza("d")])
        self.assertEqual(("", 1, {second}), (self.passed(), len(self.admissions), second._connection.holders))  # type: ignore[attr-defined]
        self.admissions.pop().callback(None)
        self.assertEqual(("a b", 1), (self.passed(), len(self.admissions)))
        self.admissions.pop().callback(None)
        self.assertEqual(("a b c d", set()), (self.passed(), second._connection.holders))  # type: ignore[attr-defined]
        second.accept([stanza("e")])
        self.assertEqual(("a b c d e", 0), (self.passed(), len(self.ingress_services.lines)))

    def test_refused(self) -> None:
        """The first stream's stanzas are refused. The second stream is not forgotten, nor is one that has ended meanwhile."""
        first = self.made()
        first.accept([stanza("a")])
        second, third = self.another(), self.another()
        second.accept([stanza("b")])
        third.accept([stanza("c")])
        second.close()
        for number in range(3):
            self.assertEqual(1, len(self.admissions))
            self.admissions.pop().callback(Ending(Cause.DNS_UNREACHABLE) if number == 0 else None)
            self.clock.pump([LOOK_SECONDS] * QUIET_LOOKS)
        self.assertEqual(("b c", 0), (self.passed(), len(self.ingress_services.lines)))

    def test_admitted(self) -> None:
        """A stream whose pair is admitted does not wait for later ones. If its rate makes it wait, admission is not asked for twice."""
        first = self.admitted(limits={"stanzas_per_second": 10})
        second = self.another()
        second.accept([stanza("z")])
        first.accept([stanza(str(number)) for number in range(100)])
        first.accept([stanza("a")])
        self.clock.advance(60)
        self.clock.pump([LOOK_SECONDS] * QUIET_LOOKS)
        self.assertEqual((101, "a", 1), (len(self.kept[IN]), self.kept[IN][-1], len(self.admissions)))
        self.admissions.pop().callback(None)
        self.clock.pump([LOOK_SECONDS] * QUIET_LOOKS)
        self.assertEqual(("z", 0, False), (self.kept[IN][-1], len(self.ingress_services.lines), self.ingress_services.admitting))

    def test_many(self) -> None:
        """Many streams that have ended continue one after the other, however many they are."""
        first = self.made()
        first.accept([stanza("0")])
        others = [self.another() for _ in range(2000)]
        self.admit = lambda pair: succeed(None)  # type: ignore[method-assign]
        for number, other in enumerate(others, 1):
            other.accept([stanza(str(number))])
            other.close()
        first.close()
        self.admissions.pop().callback(None)
        self.assertEqual([str(number) for number in range(2001)], self.kept[IN])


class ReadOnTests(EntryTestCase):
    """R35: a stream that was held brings what is still unread before later stanzas of another stream are passed on."""

    def setUp(self) -> None:
        self.first = self.made()
        self.first.accept([stanza("a")])
        self.second = PairIngress(self.ingress_services, Connection(), "federation", IN, self, self.senders, HeldBytes())

    def look(self, number: int = QUIET_LOOKS) -> None:
        """Let the time pass in which the first stream is looked at so many times."""
        self.clock.pump([LOOK_SECONDS] * number)

    def admit_first(self) -> None:
        self.admissions.pop().callback(None)

    def read(self, name: str) -> None:
        """Read this stanza on the first stream."""
        self.connection.last_received = self.clock.seconds()
        self.first.accept([stanza(name)])

    def assert_second_goes(self, passed: str) -> None:
        """The second stream asks for its admission now, and its stanza z follows those that have `passed`."""
        self.admissions.pop().callback(None)
        self.assertEqual(passed + " z", self.passed())
        self.look()
        self.assertEqual((0, []), (len(self.ingress_services.lines), self.clock.getDelayedCalls()))

    def test_another_waits(self) -> None:
        """Stanzas that come on the first stream are passed on before the second stream goes on. It does so when the first is quiet."""
        self.second.accept([stanza("z")])
        self.admit_first()
        self.look(QUIET_LOOKS - 1)
        self.read("b")
        self.look(QUIET_LOOKS)
        self.assertEqual(("a b", []), (self.passed(), self.admissions))
        self.look(1)
        self.assert_second_goes("a b")

    def test_another_comes(self) -> None:
        """The same holds for a second stream that begins after a long hold of the first has ended."""
        self.clock.advance(1)
        self.admit_first()
        self.second.accept([stanza("z")])
        self.read("b")
        self.assertEqual(("a b", []), (self.passed(), self.admissions))
        self.look(QUIET_LOOKS + 1)
        self.assert_second_goes("a b")

    def test_unread(self) -> None:
        """Input that waits for its turn counts, also if another holds the stream."""
        self.second.accept([stanza("z")])
        self.admit_first()
        self.connection.has_unread_input = True
        self.look(20)
        self.assertEqual([], self.admissions)
        self.connection.has_unread_input = False
        self.look()
        self.assert_second_goes("a")

    def stop_by_queue(self) -> None:
        """Let the queue of the pair stop the first stream."""
        self.admit_first()
        self.patch(Keeping, "slow", True)
        self.read("b")
        self.assertEqual({self.queues.queue(IN)}, self.connection.holders)
        self.connection.has_unread_input = True

    def test_stopped_by_the_queue(self) -> None:
        """Input that is unread on a stream that a slow next hop stops is read before a new stream of the pair goes on."""
        self.stop_by_queue()
        self.second.accept([stanza("z")])
        self.look(10)
        self.assertEqual(([], True), (self.admissions, self.ingress_services.admitting))
        self.patch(Keeping, "slow", False)
        self.queues.queue(IN).relieve()
        self.read("c")
        self.connection.has_unread_input = False
        self.look(QUIET_LOOKS - 1)
        self.assertEqual(("a b c", []), (self.passed(), self.admissions))
        self.look(1)
        self.assert_second_goes("a b c")
        self.assertFalse(self.ingress_services.admitting)

    def test_stopped_by_the_queue_for_long(self) -> None:
        """The new stream waits no longer than two seconds for this, and only at first."""
        self.stop_by_queue()
        self.second.accept([stanza("z")])
        self.second.close()
        self.look(201)
        self.assert_second_goes("a b")
        self.second.reconsider()
        self.second.accept([stanza("y")])
        self.assertEqual(1, len(self.admissions))

    def test_stopped_by_the_queue_and_many_wait(self) -> None:
        """The new streams of a pair do not wait one after the other for this."""
        self.stop_by_queue()
        self.second.accept([stanza("z")])
        third = PairIngress(self.ingress_services, Connection(), "federation", IN, self, self.senders, HeldBytes())
        third.accept([stanza("y")])
        self.look(201)
        self.admit_first()
        self.look()
        self.admissions.pop().callback(None)
        self.assertEqual("a b z y", self.passed())

    def test_stopped_by_the_queue_and_given_up(self) -> None:
        """A new stream whose pair another node gets meanwhile asks for nothing."""
        self.stop_by_queue()
        self.second.accept([stanza("z")], Receipt(1))
        self.ingress_services.lines.leave(self.second)
        self.second.abandon()
        self.look(201)
        self.assertEqual(([], False), (self.admissions, self.ingress_services.admitting))

    def test_ends(self) -> None:
        """The second stream goes on at once when the first has ended."""
        self.second.accept([stanza("z")])
        self.admit_first()
        self.first.close()
        self.assert_second_goes("a")

    def test_never_quiet(self) -> None:
        """The second stream waits no longer than two seconds for a first one that always brings more, also if that is held again."""
        self.second.accept([stanza("z")])
        self.admit_first()
        self.connection.has_unread_input = True
        self.clock.pump([LOOK_SECONDS] * 150)
        self.first.reconsider()
        self.first.accept([stanza("b")])
        self.clock.advance(READ_ON_SECONDS)
        self.assertEqual(("a", 1), (self.passed(), len(self.admissions)))
        self.admit_first()
        self.assert_second_goes("a b")

    def test_never_quiet_and_not_held(self) -> None:
        """The same holds for a first stream that is not held again."""
        self.second.accept([stanza("z")])
        self.admit_first()
        self.connection.has_unread_input = True
        self.look(199)
        self.assertEqual([], self.admissions)
        self.look(2)
        self.assert_second_goes("a")

    def test_not_held(self) -> None:
        """A stream that was read all the time, since it has other senders too, leaves no timer."""
        self.made()
        self.senders.add(OTHER)
        entry = PairIngress(self.ingress_services, self.connection, "federation", IN, self, self.senders, HeldBytes())
        entry.accept([stanza("a")])
        self.clock.advance(1)
        self.admit_first()
        self.assertEqual(("a", 0, []), (self.passed(), len(self.ingress_services.lines), self.clock.getDelayedCalls()))

    def test_held_a_second_time(self) -> None:
        """A stream that has left the line, and is held again later, has its time again."""
        self.clock.advance(1)
        self.admit_first()
        self.look()
        self.clock.advance(READ_ON_SECONDS)
        self.first.reconsider()
        self.first.accept([stanza("b")])
        self.clock.advance(1)
        self.admit_first()
        self.second.accept([stanza("z")])
        self.read("c")
        self.assertEqual(("a b c", []), (self.passed(), self.admissions))
        self.look(QUIET_LOOKS + 1)
        self.assert_second_goes("a b c")

    def test_held_again(self) -> None:
        """Stanzas of the first stream that must wait again stay in front. A slow peer's do too."""
        self.second.accept([stanza("z")])
        self.admit_first()
        self.look(1)
        self.first.reconsider()
        self.first.accept([stanza("b")])
        self.look(100)
        self.admit_first()
        self.look()
        self.assert_second_goes("a b")

    def test_given_up(self) -> None:
        """Nothing is looked at any more when another node has the pair."""
        self.second.accept([stanza("z")])
        self.admit_first()
        self.ingress_services.lines.leave(self.first)
        self.first.abandon()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_no_hold(self) -> None:
        """A stream that is admitted at once leaves no timer."""
        self.admit_first()
        self.assertEqual((0, []), (len(self.ingress_services.lines), self.clock.getDelayedCalls()))


class OtherPairTests(EntryTestCase):
    """R35: a stream that is held because of another pair brings what is unread of this one before a newer stream does."""

    def setUp(self) -> None:
        self.made()
        self.newer_connection = Connection()
        for connection in (self.connection, self.newer_connection):
            self.ingress_services.sources.add(OTHERS, connection)
        self.connection.pause("the queue of another pair")
        self.connection.has_unread_input = True
        self.older = self.on(self.connection)
        self.newer = self.on(self.newer_connection)
        self.newer.accept([stanza("z")])

    def on(self, connection: Connection) -> PairIngress:
        """Return the ingress of the pair on this stream."""
        return PairIngress(self.ingress_services, connection, "federation", OTHERS, self, {OTHER}, HeldBytes())

    def look(self, number: int = QUIET_LOOKS) -> None:
        """Let the time pass in which the older stream is looked at so many times."""
        self.clock.pump([LOOK_SECONDS] * number)

    def read(self, name: str) -> None:
        """Go on with the older stream, and read this stanza on it, its last one."""
        self.connection.resume("the queue of another pair")
        self.connection.has_unread_input = False
        self.connection.last_received = self.clock.seconds()
        self.older.accept([stanza(name)])

    def assert_over(self, passed: str) -> None:
        """The newer stream asks for its admission now, and its stanza z follows those that have `passed`."""
        self.admissions.pop().callback(None)
        self.assertEqual(f"{passed} z".strip(), self.passed(OTHERS))
        self.look()
        self.assertEqual((0, [], False), (len(self.ingress_services.lines), self.clock.getDelayedCalls(), self.ingress_services.admitting))

    def test_first_stanza(self) -> None:
        """The first stanza of the pair on the older stream asks for its admission, and goes first. The newer stream waits for it."""
        self.look(10)
        self.assertEqual(([], {self.newer}), (self.admissions, self.newer_connection.holders))
        self.read("b")
        self.assertEqual(1, len(self.admissions))
        self.look(2 * QUIET_LOOKS)
        self.assertEqual(1, len(self.admissions))
        self.admissions.pop().callback(None)
        self.assertEqual(("b", []), (self.passed(OTHERS), self.admissions))
        self.look()
        self.assert_over("b")

    def test_admitted(self) -> None:
        """The same holds if the pair was admitted on the older stream before."""
        self.newer.close()
        self.look(201)
        self.admissions.pop().callback(None)
        self.older.accept([stanza("a")])
        self.admissions.pop().callback(None)
        self.look()
        third = self.on(third_connection := Connection())
        self.ingress_services.sources.add(OTHERS, third_connection)
        self.connection.pause("the queue of another pair")
        self.connection.has_unread_input = True
        third.accept([stanza("y")])
        self.look(10)
        self.assertEqual([], self.admissions)
        self.read("b")
        self.look()
        self.admissions.pop().callback(None)
        self.assertEqual("z a b y", self.passed(OTHERS))

    def test_bounded(self) -> None:
        """The newer stream waits no longer than two seconds for this, and the older one does not wait for the newer."""
        self.newer_connection.has_unread_input = True
        self.look(198)
        self.assertEqual([], self.admissions)
        self.look(4)
        self.newer_connection.has_unread_input = False
        self.assert_over("")

    def test_several_older_ones(self) -> None:
        """Stanzas of the second stream go before those of the third, which waits for it, also if the first one is in the line."""
        self.newer.abandon()
        self.ingress_services.lines.leave(self.newer)
        third = self.on(third_connection := Connection())
        self.ingress_services.sources.add(OTHERS, third_connection)
        self.newer_connection.has_unread_input = True
        third.accept([stanza("z")])
        self.read("a")
        self.newer_connection.has_unread_input = False
        self.on(self.newer_connection).accept([stanza("b")])
        for _ in range(3):
            self.look(2 * QUIET_LOOKS)
            self.admissions.pop().callback(None)
        self.assertEqual("a b z", self.passed(OTHERS))

    def test_bounded_while_more_comes(self) -> None:
        """The first stanza waits no longer if more stanzas come on its stream meanwhile."""
        self.look(190)
        self.read("b")
        self.connection.has_unread_input = True
        self.admissions.pop().callback(None)
        self.look(150)
        self.newer.accept([stanza("y")])
        self.look(60)
        self.assertEqual(1, len(self.admissions))

    def test_ended(self) -> None:
        """The stanzas of a stream that has ended wait for older ones too, but only if they are few: otherwise they fill the memory."""
        for size, waits in ((HELD_BYTES_OF_ENDED - 2 * OVERHEAD - 1, True), (HELD_BYTES_OF_ENDED, False)):
            self.setUp()
            self.newer.accept([Stanza("message", b"y" * size, "u@here.example", "u@peer.example")])
            self.look(10)
            self.assertEqual([], self.admissions)
            self.newer.close()
            self.look(1)
            self.assertEqual(waits, not self.admissions)

    def test_nothing_unread(self) -> None:
        """Without unread input on older streams, nothing is waited for."""
        self.look(201)
        self.admissions.clear()
        self.connection.has_unread_input = False
        third = self.on(third_connection := Connection())
        self.ingress_services.sources.add(OTHERS, third_connection)
        self.newer.abandon()
        self.ingress_services.lines.leave(self.newer)
        third.accept([stanza("y")])
        self.assertEqual(1, len(self.admissions))

    def test_the_older_one_first(self) -> None:
        """A stream does not wait for what is unread on newer ones."""
        self.newer.abandon()
        self.ingress_services.lines.leave(self.newer)
        self.newer_connection.has_unread_input = True
        self.older.accept([stanza("b")])
        self.assertEqual(1, len(self.admissions))

    def test_ends(self) -> None:
        """An older stream that has ended is waited for no more."""
        self.ingress_services.sources.discard(OTHERS, self.connection)
        self.connection.has_unread_input = False
        self.look()
        self.assert_over("")


class RateTests(EntryTestCase):
    """Tests of a peer that is slowed."""

    def slowed(self, **limits: Any) -> PairIngress:
        entry = self.admitted(limits={"stanzas_per_second": 10, **limits})
        self.clock.advance(10)
        return entry

    def test_slow(self) -> None:
        """Stanzas over the rate pass. The next ones wait until the debt is paid, and the stream is not read meanwhile."""
        entry = self.slowed()
        entry.accept([stanza(str(number)) for number in range(25)])
        self.assertEqual(25, len(self.kept[IN]))
        entry.accept([stanza("a")])
        entry.accept([stanza("b")])
        self.assertEqual((25, {entry}), (len(self.kept[IN]), self.connection.holders))
        self.clock.advance(0.49)
        self.assertEqual(25, len(self.kept[IN]))
        self.clock.advance(0.02)
        self.assertEqual((26, {entry}), (len(self.kept[IN]), self.connection.holders))
        self.clock.advance(0.1)
        self.assertEqual((27, set()), (len(self.kept[IN]), self.connection.holders))
        self.assertEqual(["a", "b"], self.kept[IN][-2:])

    def test_own_pings(self) -> None:
        """R41: the answer to the gateway's own ping does not wait behind stanzas that are over the rate."""
        entry = self.slowed()
        answered: list[str] = []
        self.queues.queue(IN).replies.expect("secret", lambda: answered.append("yes"))
        entry.accept([stanza(str(number)) for number in range(25)])
        entry.accept([stanza("a")])
        entry.accept([stanza("secret", "iq", "result")])
        self.assertEqual((["yes"], 25), (answered, len(self.kept[IN])))

    def test_slow_again(self) -> None:
        """Each waiting run pays for the one before it. The order stays."""
        entry = self.slowed()
        entry.accept([stanza(str(number)) for number in range(21)])
        entry.accept([stanza("a")] * 10)
        entry.accept([stanza("b")])
        self.clock.advance(0.11)
        self.assertEqual(31, len(self.kept[IN]))
        self.assertEqual({entry}, self.connection.holders)
        self.clock.advance(1)
        self.assertEqual((32, set()), (len(self.kept[IN]), self.connection.holders))

    def test_the_whole_link(self) -> None:
        """If other peers send on the stream, it is read until too much waits."""
        entry = self.slowed()
        self.senders.add(OTHERS.sender)
        entry.accept([stanza(str(number)) for number in range(25)])
        entry.accept([stanza("a")])
        self.assertEqual(set(), self.connection.holders)
        self.patch(entry_module, "HELD_BYTES", 5)
        entry.accept([stanza("b" * 5)])
        self.assertEqual({entry}, self.connection.holders)
        self.clock.advance(10)
        self.assertEqual(set(), self.connection.holders)
        entry.accept([stanza(str(number)) for number in range(25)])
        entry.accept([stanza("c")])
        self.assertEqual((set(), OVERHEAD + 1), (self.connection.holders, self.waiting.bytes))

    def test_the_whole_link_in_all(self) -> None:
        """The total of all pairs that wait on a stream is bounded too. The stream is read again once the pair over the limit has gone on."""
        first = self.made()
        self.senders.add(OTHERS.sender)
        second = PairIngress(self.ingress_services, self.connection, "federation", OTHERS, self, (IN.sender, OTHERS.sender), self.waiting)
        self.patch(entry_module, "HELD_BYTES_OF_STREAM", 3 * OVERHEAD + 10)
        first.accept([stanza("a"), stanza("b")])
        second.accept([stanza("c")])
        self.assertEqual((set(), 3 * OVERHEAD + 3), (self.connection.holders, self.waiting.bytes))
        second.accept([stanza("d")])
        self.assertEqual({second}, self.connection.holders)
        self.admissions[1].callback(Ending(Cause.NOT_ALLOWED))
        self.assertEqual((set(), 2 * OVERHEAD + 2), (self.connection.holders, self.waiting.bytes))
        self.admissions[0].callback(None)
        self.assertEqual((0, "a b"), (self.waiting.bytes, self.passed()))

    def test_the_end(self) -> None:
        """R16: stanzas that wait when the stream ends are passed on at once."""
        entry = self.slowed()
        entry.accept([stanza(str(number)) for number in range(25)])
        entry.accept([stanza("a")])
        entry.close()
        self.assertEqual(26, len(self.kept[IN]))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_refuse(self) -> None:
        """`excess = "refuse"`: excess stanzas are bounced with resource-constraint, and no stanza waits."""
        entry = self.slowed(excess="refuse")
        entry.accept([stanza(str(number)) for number in range(25)])
        self.assertEqual((20, 5, set()), (len(self.kept[IN]), len(self.kept[OUT]), self.connection.holders))
        self.assertIn("resource-constraint", self.kept[OUT][0])

    def test_two_streams_of_one_peer(self) -> None:
        """The rate applies to the peer, not to one stream."""
        first = self.slowed()
        second = PairIngress(first._services, self.connection, "federation", IN, self, (IN.sender,), self.waiting)
        second.accept([stanza(str(number)) for number in range(30)])
        self.admissions.pop().callback(None)
        first.accept([stanza("a")])
        self.assertEqual(30, len(self.kept[IN]))
        self.clock.advance(1.1)
        self.assertEqual(31, len(self.kept[IN]))


class StepTests(EntryTestCase):
    """Tests of many stanzas that waited for the same answer and are processed in steps."""

    def waiting_runs(self, *sizes: int) -> list[str]:
        """Make runs of this many stanzas each wait for admission, each run with an upstream acknowledgement. Return all ids."""
        self.entry, self.settled = self.made(), 0
        numbers = iter(range(sum(sizes)))
        names = [[str(number) for number in islice(numbers, size)] for size in sizes]
        for run in names:
            self.entry.accept([stanza(name) for name in run], Receipt(len(run), self.count))
        return [name for run in names for name in run]

    def count(self) -> None:
        self.settled += 1

    def test_refused(self) -> None:
        """Each step bounces some, in order. A stop waits for the last. For later stanzas admission is asked again."""
        names = self.waiting_runs(BOUNCED_AT_ONCE + 1, 2)
        self.admissions.pop().callback(Ending(Cause.NOT_ALLOWED, "no"))
        self.entry.accept([stanza("late")])
        for number, settled in ((BOUNCED_AT_ONCE, 0), (BOUNCED_AT_ONCE + 3, 2)):
            bounced = [each.split("id='")[1].split("'")[0] for each in self.kept[OUT]]
            self.assertEqual((bounced, self.settled), (names[:number], settled))
            self.assertTrue(self.ingress_services.admitting)
            self.assertEqual(self.connection.holders, {self.entry})
            self.assertEqual(self.admissions, [])
            self.step()
        self.admissions.pop().callback(None)
        self.assertEqual((self.passed(), self.connection.holders, self.ingress_services.admitting), ("late", set(), False))

    def test_passed_on(self) -> None:
        """Each step passes some on, in order. Stanzas that arrive meanwhile follow them."""
        names = self.waiting_runs(PASSED_AT_ONCE, 1, PASSED_AT_ONCE)
        self.admissions.pop().callback(None)
        self.assertEqual(self.passed(), " ".join(names[:PASSED_AT_ONCE]))
        self.entry.accept([stanza("late")])
        self.assertEqual(self.connection.holders, {self.entry})
        self.step()
        self.assertEqual(self.passed(), " ".join(names))
        self.step()
        self.assertEqual((self.passed(), self.connection.holders), (" ".join([*names, "late"]), set()))
        self.assertFalse(self.ingress_services.admitting)

    def test_after_the_end(self) -> None:
        """The steps continue when the stream has ended, and do not use it."""
        names = self.waiting_runs(PASSED_AT_ONCE, 1)
        self.admissions.pop().callback(None)
        self.entry.close()
        self.step()
        self.assertEqual(self.passed(), " ".join(names))

    def test_queue_that_fails(self) -> None:
        """A run that its queue does not accept is not settled. The others are passed on, and the stream continues."""
        self.fails(False, True, False)
        self.assertEqual((self.passed(), self.settled), ("0 2", 2))

    def test_last_run_that_fails(self) -> None:
        """The stream continues if the last run is the one that its queue does not accept."""
        self.fails(False, False, True)
        self.assertEqual((self.passed(), self.settled), ("0 1", 2))

    def fails(self, *runs_fail: bool) -> None:
        """Pass on runs of one stanza each, of which these fail."""
        self.waiting_runs(1, 1, 1)
        accept, runs = DeliveryQueue.accept, iter(runs_fail)

        def failing(queue: DeliveryQueue, *given: Any) -> None:
            if next(runs):
                raise OSError("no memory")
            accept(queue, *given)

        self.patch(DeliveryQueue, "accept", failing)
        self.admissions.pop().callback(None)
        self.step()
        self.assertEqual((self.connection.holders, len(self.ingress_services.lines)), (set(), 0))
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))


class UnreachableDNSTests(EntryTestCase):
    """R2: the peer cannot be looked up at the moment, after a reload or on a new stream."""

    ready = True

    def next_hop(self, queue: DeliveryQueue) -> Any:
        hop = super().next_hop(queue)
        hop.ready = self.ready
        return hop

    def test_open_stream(self) -> None:
        """Stanzas use a stream that is open; without one they are refused, as is every pair for a final reason."""
        for ready, cause, passed in (
            (True, Cause.DNS_UNREACHABLE, "a b"), (True, Cause.RESOLVER_BUSY, "a b"), (True, Cause.NO_SUCH_DOMAIN, ""),
            (True, Cause.NOT_ALLOWED, ""), (False, Cause.DNS_UNREACHABLE, ""),
        ):
            self.ready = ready
            entry = self.made("backend", OUT)
            self.queues.queue(OUT)
            entry.accept([stanza("a")])
            self.admissions.pop().callback(Ending(cause))
            if passed:
                entry.accept([stanza("b")])
            self.assertEqual(passed, " ".join(self.kept.get(OUT, [])), cause)

    def test_waiting(self) -> None:
        """They wait behind those that wait for the peer already; a reload asks again."""
        self.ready = False
        entry = self.made("backend", OUT)
        queue = self.queues.queue(OUT)
        queue.accept([stanza("first")])
        entry.accept([stanza("a")])
        self.admissions.pop().callback(Ending(Cause.DNS_UNREACHABLE))
        self.assertEqual(["first", "a"], [held.stanza.id for held in queue.pair_queue.not_in_flight()])
        entry.reconsider()
        entry.accept([stanza("b")])
        self.admissions.pop().callback(Ending(Cause.NOT_ALLOWED))
        self.assertEqual(["first", "a"], [held.stanza.id for held in queue.pair_queue.not_in_flight()])

    def test_stranger(self) -> None:
        """A pair without a queue is refused, and none is made."""
        entry = self.made("backend", OUT)
        entry.accept([stanza("a")])
        self.admissions.pop().callback(Ending(Cause.DNS_UNREACHABLE))
        self.assertIsNone(self.queues.find(OUT))
