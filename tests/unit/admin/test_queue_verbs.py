"""Tests of the operator's tools for the queue: their output, their changes, and the audit entry before each change."""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from math import inf, nan
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.node_verbs import LOOK_SECONDS
from s2sgw.admin.queue_verbs import SPOOL_SECONDS
from s2sgw.admin.server import VerbError
from s2sgw.cluster.spool import JetStreamSpool
from s2sgw.delivery import holds as withheld
from s2sgw.delivery.holds import HoldTarget, OperatorHolds, TooManyHolds
from s2sgw.queue.entries import QueuedStanza
from s2sgw.reporting.audit import AuditLog
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.coroutines import now
from tests.support.queue_verbs import LANE, Tools
from tests.unit.delivery.test_queue import HERE, OUT, THERE, WINDOW, World, ids, stanza

#: Texts that are not the number of a stanza.
NO_NUMBERS: tuple[object, ...] = (
    0, -1, 1.5, 1.0, True, inf, -inf, nan, 2**63, 10**400, "x", "", "\u0661", "9" * 30, None, [1], {},
)


class LookingTests(SynchronousTestCase):
    """Tests of `list`, `show` and `poison`."""

    def setUp(self) -> None:
        self.tools = Tools(self.mktemp())

    def test_list(self) -> None:
        """The list has, by peer, number, bytes, age, and the next attempt. Stanzas that only the spool holds are counted too."""
        self.assertEqual(self.tools.ask("list"), [])
        self.tools.accept("1", "2")
        self.tools.spool_all_but(0)
        self.tools.accept("3")
        (row,) = self.tools.ask("list")
        size = len(stanza("1").data)
        self.assertEqual((row["peer"], row["lanes"], row["stanzas"], row["bytes"], row["states"], row["held"]), ("there.example", 1, 3, 3 * size, ["idle"], []))
        self.assertEqual((round(row["oldest"], 3), row["cause"], row["retry"]), (WINDOW, None, None))
        self.assertEqual((len(self.tools.ask("list", peer="THERE.example")), self.tools.ask("list", peer="x.example")), (1, []))

    def test_list_and_a_spool_that_hangs(self) -> None:
        """A spool that does not answer hides only what it has: the list comes without it after a while."""
        self.tools.accept("1", "2")
        world = self.tools.world
        self.patch(type(world.spool), "queues", lambda spool, done: None)
        listed = self.tools.verbs["queue list"]({})
        world.clock.pump([0.1] * 30)
        (row,) = self.successResultOf(listed)
        self.assertEqual(("there.example", 2), (row["peer"], row["stanzas"]))

    def test_list_for_another_node(self) -> None:
        """In a cluster the list comes while another node still waits for it, also if the spool does not answer."""
        self.tools.accept("1", "2")
        world = self.tools.world
        self.patch(type(world.spool), "queues", lambda spool, done: None)
        self.patch(type(world.spool), "table_seconds", JetStreamSpool.table_seconds)
        listed = self.tools.verbs["queue list"]({})
        listed.addTimeout(LOOK_SECONDS, world.clock)
        world.clock.pump([0.1] * 11)
        self.assertEqual(["there.example"], [row["peer"] for row in self.successResultOf(listed)])

    def test_show(self) -> None:
        """The stanzas of a lane are shown in order, wherever they are; a single one with its text."""
        self.tools.world.next_hop.ready = True
        self.tools.accept("1")
        self.tools.world.next_hop.ready = False
        self.tools.accept("2", "3")
        self.tools.spool_all_but(0)
        self.tools.accept("4")
        for target in (["there.example"], LANE):
            rows = self.tools.ask("show", *target)
            self.assertEqual([(row["number"], row["id"], row["place"]) for row in rows], [(1, "1", "in flight"), (2, "2", "spooled"), (3, "3", "spooled"), (4, "4", "waiting")])
            self.assertEqual({row["data"] for row in rows}, {None})
        self.assertEqual([row["id"] for row in self.tools.ask("show", *LANE, limit=2)], ["1", "2"])
        for number in (1, 3, 4):
            (row,) = self.tools.ask("show", *LANE, number)
            self.assertEqual((row["number"], row["data"]), (number, stanza(str(number)).data.decode()))
        self.assertEqual((self.tools.ask("show", *LANE, 99), self.tools.ask("show", "x.example")), ([], []))

    def test_poison(self) -> None:
        """The whole quarantine is shown, or one peer's part of it."""
        queue = self.tools.world.queue
        self.tools.world.spool.quarantine(queue._spooled(QueuedStanza(7, stanza("p"), 1, 2)), "poison", 3.0)
        (row,) = self.tools.ask("poison")
        self.assertEqual((row["sender"], row["recipient"], row["id"], row["cause"], row["at"]), (*LANE, "p", "poison", 3.0))
        self.assertEqual((len(self.tools.ask("poison", peer="there.example")), self.tools.ask("poison", peer="x.example")), (1, []))

    def test_silent_spool(self) -> None:
        """A spool that does not answer is waited for, but not for long: the answer says so."""
        self.tools.accept("1")
        self.tools.spool_all_but(0)
        spool, clock = self.tools.world.custody.services.spool, self.tools.world.clock
        for method in ("read", "quarantined"):
            self.patch(spool, method, lambda *arguments: None)
        for verb, arguments in (("show", {"target": LANE}), ("poison", {})):
            result = self.tools.verbs[f"queue {verb}"](arguments)
            asked = Deferred.fromCoroutine(result) if isinstance(result, Coroutine) else result
            clock.pump([0.0, SPOOL_SECONDS - 0.1])
            self.assertNoResult(asked)
            clock.pump([0.2, 0.0])
            self.assertIn("does not answer", str(self.failureResultOf(asked, VerbError).value))

    def test_bad_questions(self) -> None:
        """A question that names nothing is refused with a text."""
        for verb, target, more in (
            ("show", [], {}), ("show", ["a b"], {}), ("show", [*LANE, "x"], {}), ("show", [*LANE, 0], {}), ("show", [*LANE, 1, 2], {}),
            ("drop", LANE, {"quietly": 1}), ("hold", ["here.example"], {}),
        ):  # fmt: skip
            with self.assertRaises(VerbError) as caught:
                self.tools.ask(verb, *target, **more)
            self.assertEqual(caught.exception.kind, "usage")
        self.assertFalse((self.tools.state / "audit.log").exists())

    def test_bad_numbers(self) -> None:
        """The number of a stanza is a whole number from 1 to the spool's maximum. Anything else is refused by name."""
        for verb in ("show", "hold", "release", "flush", "drop"):
            for number in NO_NUMBERS:
                words = self.assertRaises(VerbError, self.tools.ask, verb, *LANE, number)
                self.assertEqual(
                    ("usage", "target: the number of a stanza must be a whole number, at least 1"), (words.kind, str(words)), (verb, number),
                )
        self.assertFalse((self.tools.state / "audit.log").exists())

    def test_domains_that_are_no_text(self) -> None:
        """A target that is not text is not a domain."""
        for target in ([1], [True], [None], [HERE.ascii, inf], [[HERE.ascii]]):
            words = self.assertRaises(VerbError, self.tools.ask, "hold", *target)
            self.assertEqual("usage", words.kind)


class HoldTests(SynchronousTestCase):
    """Tests of `hold` and `release`."""

    def test_lane(self) -> None:
        """Nothing of a held lane is written, and new stanzas wait too. After the release all are sent in order."""
        tools = Tools(self.mktemp(), ready=True)
        tools.accept("1")
        for target in (LANE, ["there.example"]):
            sent = len(tools.world.next_hop.sent)
            self.assertEqual(tools.ask("hold", *target), {"lanes": 1, "stanzas": len(tools.world.queue.pair_queue)})
            tools.accept("2", "3")
            tools.world.queue.next_hop_ready()
            self.assertEqual(len(tools.world.next_hop.sent), sent)
            self.assertEqual((tools.ask("list")[0]["states"], tools.ask("list")[0]["held"]), (["held"], [" ".join(target)]))
            tools.ask("flush", *target)
            self.assertEqual(len(tools.world.next_hop.sent), sent)
            self.assertEqual(tools.ask("release", *target)["holds"], 1)
            self.assertEqual(len(tools.world.next_hop.sent), sent + 2)
            self.assertEqual(tools.ask("release", *target)["holds"], 0)
        self.assertEqual(ids(tools.world.next_hop.sent), "12323")
        self.assertEqual([(row["action"], row["target"]) for row in tools.noted][:2], [("queue hold", " ".join(LANE)), ("queue flush", " ".join(LANE))])

    def test_released_while_the_next_hop_is_ready(self) -> None:
        """A release returns how many stanzas it releases, also if they are sent at once."""
        tools = Tools(self.mktemp(), ready=True)
        tools.ask("hold", *LANE)
        tools.accept("1", "2", "3")
        tools.world.next_hop.acknowledges = False  # a written stanza counts as passed on
        self.assertEqual(tools.ask("release", *LANE), {"lanes": 1, "stanzas": 3, "holds": 1})
        self.assertEqual(len(tools.world.queue.pair_queue), 0)

    def test_empty_lanes(self) -> None:
        """A lane without stanzas is not counted: neither by hold, release and drop, nor in the list."""
        tools = Tools(self.mktemp())
        tools.world.custody.queues.queue(OUT.inverse)
        self.assertEqual(tools.ask("hold", "there.example"), {"lanes": 0, "stanzas": 0})
        tools.accept("1", "2")
        self.assertEqual(tools.ask("hold", "there.example"), {"lanes": 1, "stanzas": 2})
        self.assertEqual((tools.ask("list")[0]["lanes"], tools.ask("list")[0]["stanzas"]), (1, 2))
        self.assertEqual(tools.ask("release", "there.example"), {"lanes": 1, "stanzas": 2, "holds": 1})
        self.assertEqual(tools.ask("drop", "there.example"), {"lanes": 1, "stanzas": 2})
        self.assertEqual(tools.ask("drop", "there.example"), {"lanes": 0, "stanzas": 0})

    def test_spooled_stanza(self) -> None:
        """A stanza that is on disk only is counted as the one that it is."""
        tools = Tools(self.mktemp())
        tools.accept("1", "2", "3")
        tools.spool_all_but(0)
        self.assertEqual(tools.ask("hold", *LANE, 2), {"lanes": 1, "stanzas": 1})

    def test_mistyped(self) -> None:
        """A stanza that does not wait, and a lane between two strangers, cannot be held: a typing error is no success."""
        tools = Tools(self.mktemp())
        tools.accept("1")
        for target in ((*LANE, 7), ("one.example", "there.example"), ("here.example", "gone.example", 1)):
            with self.assertRaises(VerbError):
                tools.ask("hold", *target)
        self.assertEqual(list(tools.world.custody.services.holds), [])

    def test_lane_under_a_held_peer(self) -> None:
        """The release of one lane does not end the hold of its peer."""
        tools = Tools(self.mktemp(), ready=True)
        tools.ask("hold", "there.example")
        tools.accept("1")
        self.assertEqual(tools.ask("release", *LANE), {"lanes": 0, "stanzas": 0, "holds": 0, "held": ["there.example"]})
        tools.ask("hold", *LANE)
        self.assertEqual(tools.ask("release", *LANE), {"lanes": 0, "stanzas": 0, "holds": 1, "held": ["there.example"]})
        self.assertEqual(tools.world.next_hop.sent, [])

    def test_stanza(self) -> None:
        """A held stanza waits and the others pass it. It is not removed from the spool when those behind it are acknowledged."""
        tools = Tools(self.mktemp())
        tools.accept("1", "2", "3")
        tools.spool_all_but(1 << 20)
        self.assertEqual(tools.ask("hold", *LANE, 2), {"lanes": 1, "stanzas": 1})
        tools.world.next_hop.ready = True
        tools.world.queue.next_hop_ready()
        self.assertEqual((ids(tools.world.next_hop.sent), [row["held"] for row in tools.ask("show", *LANE)]), ("13", [False, True, False]))
        tools.world.queue.acknowledged(2)
        self.assertEqual(tools.world.spooled(), ["2"])
        tools.accept("4")
        self.assertEqual(ids(tools.world.next_hop.sent), "134")
        tools.ask("release", *LANE, 2)
        self.assertEqual(ids(tools.world.next_hop.sent), "1342")
        tools.world.queue.acknowledged(2)
        tools.world.clock.advance(1)
        self.assertEqual((tools.world.spooled(), len(tools.world.queue.pair_queue)), ([], 0))

    def test_stanza_released_amid_doubt(self) -> None:
        """A stanza that was passed returns to its place when the next hop is lost."""
        tools = Tools(self.mktemp())
        tools.accept("1", "2", "3")
        tools.ask("hold", *LANE, 1)
        tools.world.next_hop.ready = True
        tools.world.queue.next_hop_ready()
        tools.ask("release", *LANE, 1)
        self.assertEqual(ids(tools.world.next_hop.sent), "231")
        tools.world.queue.stream_lost()
        tools.world.queue.next_hop_ready()
        self.assertEqual(ids(tools.world.next_hop.sent), "231123")

    def test_stanza_before_a_gap(self) -> None:
        """A held stanza in memory does not keep stanzas that only the spool holds from being read."""
        tools = Tools(self.mktemp())
        tools.accept(*"1234")
        tools.spool_all_but(700)
        self.assertIsNotNone(tools.world.queue.pair_queue.spooled_range)
        tools.ask("hold", *LANE, 1)
        tools.world.next_hop.ready = True
        tools.world.queue.next_hop_ready()
        self.assertEqual(ids(tools.world.next_hop.sent), "234")

    def test_over_a_restart(self) -> None:
        """Holds are kept over a restart, and apply to stanzas read from the spool."""
        tools = Tools(self.mktemp())
        tools.accept("1", "2")
        tools.ask("hold", "there.example")
        tools.ask("hold", *LANE, 2)
        again = OperatorHolds(tools.state)
        self.assertEqual((again.holds(OUT), again.positions(OUT), again.holds(Pair(HERE, HERE))), (True, {2}, False))
        restarted = World(holds=again)
        self.assertEqual((restarted.queue.held, restarted.queue.parked), (True, {2}))
        self.assertEqual(oct((tools.state / withheld.FILE).stat().st_mode & 0o777), "0o600")
        now(again.discard(HoldTarget(peer=THERE)))
        self.assertEqual((again.holds(OUT), again.positions(OUT), list(OperatorHolds(tools.state))), (False, set(), []))

    def test_ends_with_its_stanza(self) -> None:
        """The hold of a stanza ends when the stanza is dropped or expires. After a restart it applies to no other stanza."""
        tools = Tools(self.mktemp())
        tools.accept(*"1234")
        for number in (2, 3):
            tools.ask("hold", *LANE, number)
        tools.ask("drop", *LANE, 2)
        self.assertEqual((OperatorHolds(tools.state).positions(OUT), tools.world.queue.parked), ({3}, {3}))
        tools.world.clock.advance(601)
        tools.world.custody.expiry.sweep()
        self.assertEqual((OperatorHolds(tools.state).positions(OUT), tools.world.queue.parked), (set(), set()))

    def test_forgotten_lane(self) -> None:
        """The numbers of a forgotten lane have no effect any more."""
        tools = Tools(self.mktemp())
        now(tools.holds.add(HoldTarget(pair=OUT, position=2)))
        tools.world.queue.hold(2)
        tools.ask("hold", *LANE)
        self.assertEqual(len(tools.world.queue.parked), 1)
        tools.world.custody.expiry.sweep()
        self.assertEqual([str(each) for each in OperatorHolds(tools.state)], [" ".join(LANE)])

    def test_damaged(self) -> None:
        """A file without valid holds is set aside and reported, and does not prevent the start."""
        state = Path(self.mktemp())
        state.mkdir()
        for number, text in enumerate(("garbage", "[[]]", '[["a b"]]', '[["a.example", "b.example", "x"]]', "7", '["a"]', '{"a": 1}', ""), 1):
            (state / withheld.FILE).write_text(text)
            reports: list[str] = []
            self.assertEqual((list(OperatorHolds(state, reports.append)), len(reports)), ([], 1))
            self.assertEqual((state / f"{withheld.FILE}.damaged-{number}").read_text(), text)

    def test_unreadable(self) -> None:
        """A file that cannot be read ends the start. Otherwise held stanzas would be released."""
        state = Path(self.mktemp())
        (state / withheld.FILE).mkdir(parents=True)
        self.assertRaises(OSError, OperatorHolds, state)

    def test_unknown_result(self) -> None:
        """If it is not known whether a hold was made or ended, that is told, with the command that shows it."""
        tools = Tools(self.mktemp(), ready=True)

        async def slow(target: HoldTarget) -> int:
            raise TimeoutError("the engine does not answer")

        self.patch(tools.holds, "add", slow)
        self.patch(tools.holds, "discard", slow)
        for verb in ("hold", "release"):
            self.assertRaisesRegex(VerbError, "^it is not known whether .* queue list", tools.ask, verb, "there.example")

    def test_full_disk(self) -> None:
        """The end of a lane on a full disk does not raise. It is written when there is room."""
        tools = Tools(self.mktemp())
        holds = tools.holds
        reports: list[str] = []
        holds._report = reports.append
        now(holds.add(HoldTarget(pair=OUT, position=2)))
        full = self.patch(withheld, "write_atomically", lambda *arguments: Path("/no/where").stat())
        holds.forget(OUT)
        holds.write_again()
        self.assertRaises(OSError, now, holds.add(HoldTarget(pair=OUT)))
        self.assertEqual((list(holds), len(reports), len(list(OperatorHolds(tools.state)))), ([], 1, 1))
        full.restore()
        tools.world.custody.expiry.sweep()
        self.assertEqual(list(OperatorHolds(tools.state)), [])

    def test_verbs_on_a_full_disk(self) -> None:
        """A change that makes room is made, and the log gets what the audit log has no room for. Any other is refused."""
        tools = Tools(self.mktemp(), ready=True)
        reports: list[str] = []
        holds = tools.holds
        holds._report = reports.append
        tools.ask("hold", *LANE)
        tools.ask("hold", "there.example")
        tools.accept("1", "2")
        tools.spool_all_but(0)
        noted = len(tools.noted)

        def full(*arguments: object, **facts: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        disk = [self.patch(withheld, "write_atomically", full), self.patch(AuditLog, "note", full)]
        for verb in ("hold", "flush"):
            self.assertRaises(VerbError, tools.ask, verb, *LANE)
        with capturedLogs() as logged:
            self.assertEqual({"lanes": 1, "stanzas": 1}, tools.ask("drop", *LANE, 1))
            self.assertEqual((0, 1), (tools.ask("release", *LANE)["lanes"], len(holds._targets)))
            self.assertEqual((1, 0), (tools.ask("release", "there.example")["holds"], tools.ask("release", "there.example")["holds"]))
        lines = [(each["log_level"].name, each["event"], each["action"], each["target"]) for each in logged]
        self.assertEqual([("critical", "not in the audit log", f"queue {verb}", target) for verb, target in (
            ("drop", "here.example there.example 1"), ("release", "here.example there.example"), *[("release", "there.example")] * 2,
        )], lines)
        self.assertEqual(("2", "1"), (ids(tools.world.next_hop.sent), ids(tools.world.back.sent)))
        self.assertEqual((2, len(list(OperatorHolds(tools.state))), noted), (len(reports), 2, len(tools.noted)))
        for each in disk:
            each.restore()
        tools.world.custody.expiry.sweep()
        self.assertEqual([], list(OperatorHolds(tools.state)))

    def test_bounded(self) -> None:
        """The number of holds is bounded."""
        self.patch(withheld, "HOLDS", 1)
        holds = OperatorHolds()
        now(holds.add(HoldTarget(peer=THERE)))
        now(holds.add(HoldTarget(peer=THERE)))
        self.assertRaises(TooManyHolds, now, holds.add(HoldTarget(peer=Domain.parse("x.example"))))
        tools = Tools(self.mktemp())
        tools.ask("hold", "there.example")
        self.assertRaises(VerbError, tools.ask, "hold", "x.example")

    def test_released_meanwhile(self) -> None:
        """The stanzas of a release are counted before it, and a lane that is made during it is released, too."""
        tools = Tools(self.mktemp(), ready=True)
        tools.ask("hold", "there.example")
        tools.accept("1", "2")
        discard, other = tools.holds.discard, Pair(Domain.parse("rooms.example"), THERE)

        async def slow(target: HoldTarget) -> int:
            self.assertTrue(tools.world.custody.queues.queue(other).held)
            ended = await discard(target)
            tools.world.queue.follow_holds(False, frozenset())  # another node has told this one
            tools.world.queue.acknowledged(2)
            return ended

        self.patch(tools.holds, "discard", slow)
        self.assertEqual({"lanes": 1, "stanzas": 2, "holds": 1}, tools.ask("release", "there.example"))
        self.assertEqual("12", ids(tools.world.next_hop.sent))
        self.assertFalse(any(queue.held for queue in tools.world.custody.queues))

    def test_cannot_be_noted_or_kept(self) -> None:
        """A change that cannot be noted, or stored, is not made."""
        tools = Tools(self.mktemp(), ready=True)
        (tools.state / f"{withheld.FILE}.new").mkdir()
        self.assertRaises(VerbError, tools.ask, "hold", *LANE)
        tools.holds._targets[HoldTarget(pair=OUT)] = None
        self.assertRaises(VerbError, tools.ask, "release", *LANE)
        (tools.state / "audit.log").unlink()
        (tools.state / "audit.log").mkdir()
        self.assertRaises(VerbError, tools.ask, "drop", *LANE)


class DropTests(SynchronousTestCase):
    """Tests of `drop` and `flush`."""

    def test_drop(self) -> None:
        """Waiting stanzas are bounced, in memory or only in the spool. Those in flight stay."""
        tools = Tools(self.mktemp(), ready=True)
        tools.accept("1")
        tools.world.next_hop.ready = False
        tools.accept("2", "3")
        tools.spool_all_but(0)
        tools.accept("4")
        self.assertEqual(tools.ask("drop", *LANE), {"lanes": 1, "stanzas": 3})
        self.assertEqual(sorted(ids(tools.world.back.sent)), ["2", "3", "4"])
        self.assertIn(Cause.DROPPED_BY_OPERATOR.value, tools.world.back.sent[0].decode())
        self.assertEqual((len(tools.world.queue.pair_queue), tools.world.spooled()), (1, ["1"]))
        self.assertEqual(tools.ask("drop", "x.example"), {"lanes": 0, "stanzas": 0})

    def test_quietly(self) -> None:
        """With `quietly` no error is sent. The drop is counted."""
        tools = Tools(self.mktemp())
        tools.accept("1", "2")
        self.assertEqual(tools.ask("drop", "there.example", quietly=True)["stanzas"], 2)
        self.assertEqual((tools.world.back.sent, len(tools.world.queue.pair_queue)), ([], 0))
        self.assertEqual(tools.world.record.stanzas["outbound", "message", "dropped"], 2)
        self.assertEqual([(row["action"], row["quietly"]) for row in tools.noted], [("queue drop", True)])

    def test_one(self) -> None:
        """One stanza is dropped, wherever it is."""
        tools = Tools(self.mktemp())
        tools.accept("1", "2", "3")
        tools.spool_all_but(0)
        tools.accept("4")
        for number, dropped, left in ((2, 1, "134"), (4, 1, "13"), (4, 0, "13"), (99, 0, "13")):
            self.assertEqual(tools.ask("drop", *LANE, number)["stanzas"], dropped)
            self.assertEqual("".join(row["id"] for row in tools.ask("show", *LANE)), left)
        tools.world.next_hop.ready = True
        tools.world.queue.next_hop_ready()
        self.assertEqual((ids(tools.world.next_hop.sent), ids(tools.world.back.sent)), ("13", "24"))

    def test_one_while_the_lane_is_read(self) -> None:
        """A stanza that is dropped during a read of the spool is not delivered by it."""
        tools = Tools(self.mktemp())
        tools.accept("1", "2", "3")
        tools.spool_all_but(0)
        tools.world.hold_back = True
        tools.world.next_hop.ready = True
        answered = tools.world.later
        tools.world.queue.next_hop_ready()
        reading = answered.pop()
        tools.world.hold_back = False
        tools.ask("drop", *LANE, 2)
        reading()
        self.assertEqual((ids(tools.world.next_hop.sent), ids(tools.world.back.sent), tools.world.queue.pair_queue.only_spooled), ("13", "2", 0))

    def test_flush(self) -> None:
        """The lanes with waiting stanzas try now."""
        tools = Tools(self.mktemp())
        self.assertEqual(tools.ask("flush", "there.example"), {"lanes": 0, "stanzas": 0})
        tools.accept("1")
        tools.world.next_hop.ready = True
        self.assertEqual(tools.ask("flush", "there.example"), {"lanes": 1, "stanzas": 1})
        self.assertEqual(ids(tools.world.next_hop.sent), "1")
