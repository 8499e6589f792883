"""Tests of the record of refusals: bounded, equal ones counted, kept over a restart, and written as a letter."""

from __future__ import annotations

from sys import getsizeof
from unittest.mock import Mock

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting import record as record_module
from s2sgw.reporting import repetition
from s2sgw.reporting.record import CHANGES_TOLD, NAMES, PER_NAME, STRANGERS, Direction, EventRecord, RefusalRecord
from s2sgw.xmpp.ending import Cause, Ending

SELF_SIGNED = Ending(Cause.SELF_SIGNED, "pkix: not proven", condition="policy-violation")
PAIR = ("friend.example", "here.example")


class Store:
    """A `RefusalStore` in memory."""

    def __init__(self, *past: RefusalRecord) -> None:
        self.rows = list(past)
        self.kept: list[RefusalRecord] = []

    def keep(self, refused: RefusalRecord) -> None:
        self.kept.append(refused)

    def past(self) -> list[RefusalRecord]:
        return self.rows

    def forget(self, peer: str) -> None:
        self.rows = [row for row in self.rows if row.peer != peer]

    def is_known(self, refused: RefusalRecord) -> bool:
        return refused.peer.startswith("friend")


class RecordTests(SynchronousTestCase):
    """Tests of what a record keeps."""

    def test_clipped(self) -> None:
        """A short refusal is kept as it is. One with few characters of four bytes each is cut."""
        short = RefusalRecord(1.0, "inbound", "federation", *PAIR, "192.0.2.1:1", SELF_SIGNED)
        self.assertIs(short.clipped(), short)
        wide = RefusalRecord(1.0, "inbound", "federation", "\U0001f600" * 100, "here.example", "192.0.2.1:1", SELF_SIGNED)
        self.assertEqual(wide.clipped().peer, "\U0001f600" * 60 + "...")

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.events: list[LogEvent] = []
        self.log = Logger("record", observer=self.events.append)  # type: ignore[arg-type]
        self.record = EventRecord(self.clock, self.log)

    def refuse(self, peer: str = "friend.example", address: str = "192.0.2.1:5000", ending: Ending = SELF_SIGNED) -> None:
        self.record.refused("inbound", "federation", (peer, "here.example"), address, ending, ("a reason",))
        self.clock.advance(1)

    def test_row(self) -> None:
        """A row has layer, cause, evidence and remedy."""
        self.refuse()
        row = self.record.list("friend.example")[0].row()
        self.assertEqual(("pkix", "self-signed", ["a reason"], SELF_SIGNED.remedy, 1, 1000.0),
                         tuple(row[key] for key in ("layer", "cause", "reasons", "remedy", "times", "first")))
        self.assertEqual(1, self.record.refusals["pkix", "self-signed", "us"])

    def test_event(self) -> None:
        """A peer that we did not reach is a failed connection in the log; what a side refuses is refused."""
        pair = ("friend.example", "here.example")
        events: tuple[tuple[Direction, Cause], ...] = (
            ("outbound", Cause.CONNECTION_REFUSED), ("outbound", Cause.NO_SUCH_DOMAIN), ("inbound", Cause.NO_SUCH_DOMAIN),
            ("outbound", Cause.SELF_SIGNED),
        )
        for direction, cause in events:
            self.record.refused(direction, "federation", pair, "", Ending(cause))
            self.clock.advance(61)
        self.assertEqual(["connection failed", "connection failed", "refused", "refused"], [event["event"] for event in self.events])

    def test_unrecorded(self) -> None:
        """A refusal of the gateway's own test connection (`check --live`) is neither kept nor logged."""
        record = EventRecord(self.clock, self.log, unrecorded={"check.example"})
        for peer in ("check.example", "friend.example"):
            record.refused("outbound", "backend", (peer, "here.example"), "127.0.0.1:5", SELF_SIGNED)
        self.assertEqual((["friend.example"], 1, 1), ([row.peer for row in record.list()], record.refusals.total(), len(self.events)))

    def test_again(self) -> None:
        """The same refusal again is counted, from any port. Another host, or cause, is a new one."""
        for port in (5000, 5001, 5002):
            self.refuse(address=f"192.0.2.1:{port}")
        [row] = self.record.list()
        self.assertEqual((3, 1002.0, 1000.0), (row.times, row.at, row.first))
        self.refuse(address="192.0.2.2:5000")
        self.refuse(ending=Ending(Cause.EXPIRED))
        self.assertEqual([3, 1, 1], [each.times for each in self.record.list("friend.example")])
        self.assertEqual(["self-signed", "self-signed", "expired"], [event["cause"] for event in self.events])

    def test_bounds(self) -> None:
        """The number is limited per name, and so is the number of names. The oldest are removed."""
        for number in range(PER_NAME + 5):
            self.refuse(address=f"192.0.2.{number}:1")
        self.assertEqual(PER_NAME, len(self.record.list("friend.example")))
        for number in range(NAMES):
            self.refuse(f"p{number}.example")
        self.assertEqual([], self.record.list("friend.example"))
        self.assertEqual(NAMES, len(self.record.list()))

    def test_sub_domains(self) -> None:
        """A peer with very many sub-domains, proven or not, removes its own refusals, and not those of others."""
        for known in (True, False):
            store = Mock(**{"past.return_value": [], "is_known.side_effect": lambda refused, known=known: known})
            self.record = EventRecord(self.clock, self.log, store)
            self.refuse("friend.example")
            for number in range(NAMES + 10):
                self.refuse(f"s{number}.many.example")
            most = NAMES if known else int(NAMES * STRANGERS)
            self.assertEqual((len(self.record.list()), len(self.record.list("friend.example"))), (most, 1), known)
            self.assertEqual(self.record.bytes, sum(row.size for row in self.record.newest()))
            self.assertEqual((self.record.forget(["friend.example", "unknown.example"]), self.record.list("friend.example")), (1, []))
            self.assertEqual(len(self.record._known) + len(self.record._strangers), most - 1)

    def test_made_up_names_give_way(self) -> None:
        """Names that may be made up give way to names of known peers, also if a name is known later."""
        known = {"friend.example"}
        store = Mock(**{"past.return_value": [], "is_known.side_effect": lambda refused: refused.peer in known})
        self.record = EventRecord(self.clock, self.log, store)
        for name in ("friend.example", "later.example", *(f"a{number}.example" for number in range(int(NAMES * STRANGERS) - 1))):
            self.refuse(name)
        known.add("later.example")
        self.refuse("later.example")
        for number in range(NAMES):
            self.refuse(f"b{number}.example")
        names = {row.peer for row in self.record.list()}
        self.assertEqual((known <= names, len(names)), (True, int(NAMES * STRANGERS) + 2))

    def test_one_cause_of_many(self) -> None:
        """A name that is claimed again and again keeps its refusals for other causes."""
        self.refuse(ending=Ending(Cause.EXPIRED))
        for number in range(PER_NAME + 5):
            self.refuse(address=f"192.0.2.{number}:1")
        rows = self.record.list("friend.example")
        self.assertEqual((PER_NAME, Cause.EXPIRED, "192.0.2.24:1"), (len(rows), rows[0].ending.cause, rows[-1].address))
        self.assertEqual(self.record.bytes, sum(row.size for row in rows))

    def test_one_direction_of_two(self) -> None:
        """It also keeps the refusals of our own attempts with the same cause."""
        self.record.refused("outbound", "federation", ("friend.example", "here.example"), "", Ending(Cause.SELF_SIGNED))
        for number in range(PER_NAME + 5):
            self.refuse(address=f"192.0.2.{number}:1", ending=Ending(Cause.SELF_SIGNED))
        rows = self.record.list("friend.example")
        self.assertEqual((PER_NAME, "outbound"), (len(rows), rows[0].direction))

    def test_small(self) -> None:
        """A refusal takes at most 2 kB of memory, for any text in any script, and gives the number of omitted characters."""
        for character in ("x", "\xe9", "\u0434", "\U0001f600"):
            ending = Ending(Cause.EXPIRED, character * 9999)
            self.record.refused("inbound", "federation", (character * 999, character * 999), character * 999, ending, (character * 9999,) * 99)
            [row] = self.record.newest()
            parts: list[object] = [row, row.ending, row.at, row.first, row.reasons, row.peer, row.local, row.address, row.ending.detail]
            self.assertLess(sum(map(getsizeof, [*parts, *row.reasons])), 2100)
            self.assertTrue(row.ending.detail.endswith(character + "..."))
            self.assertEqual(row.reasons[-1], "... and 99 more")
            self.record = EventRecord(self.clock, self.log)

    def test_reasons(self) -> None:
        """Reasons that fit are kept completely."""
        reasons = tuple(f"proof {number}: not proven" for number in range(6))
        self.record.refused("inbound", "federation", PAIR, "", SELF_SIGNED, reasons)
        self.assertEqual(self.record.list()[-1].reasons, reasons)
        self.record.refused("inbound", "federation", PAIR, "", Ending(Cause.EXPIRED), (*reasons, "one more"))
        self.assertEqual(self.record.list()[-1].reasons, (*reasons[:5], "... and 2 more"))

    def test_bounded_in_bytes(self) -> None:
        """All refusals together have a limit of bytes. The names refused longest ago are removed first."""
        self.patch(record_module, "REFUSAL_BYTES", 10_000)
        for number in range(20):
            self.refuse(f"p{number}.example")
            self.refuse("p0.example", address=f"192.0.2.{number}:1")
        self.assertLessEqual(self.record.bytes, 10_000)
        self.assertEqual(self.record.bytes, sum(row.size for row in self.record.newest()))
        self.assertIn("p0.example", {row.peer for row in self.record.newest()})

    def test_newest(self) -> None:
        """The newest are first, of all names or of some, as they were at the request."""
        for number in range(5):
            self.refuse(f"p{number % 2}.example", address=f"192.0.2.{number}:1")
        newest = self.record.newest()
        self.refuse("p2.example")
        self.assertEqual([1004.0, 1003.0, 1002.0, 1001.0, 1000.0], [row.at for row in newest])
        self.assertEqual([1004.0, 1002.0, 1000.0], [row.at for row in self.record.newest(["p0.example", "nobody.example"])])
        self.assertIn(("p1.example", 2, 1003.0), [(name, number, last.at) for name, number, last in self.record.summaries()])

    def test_own_server(self) -> None:
        """A failure of our own server is kept under the peer and counted, but not logged for each peer. It has no letter."""
        for peer in ("friend.example", "other.example"):
            ending = Ending(Cause.BACKEND_REFUSED, "your server 127.0.0.1:15269 refuses connections")
            self.record.refused("inbound", "backend", (peer, "here.example"), "127.0.0.1:15269", ending)
        self.record.tell_repeated(at_once=True)
        self.assertEqual([], self.events)
        self.assertEqual(2, self.record.refusals["backend", "backend-refused", "us"])
        row = self.record.list("friend.example")[0].row(with_letter=True)
        self.assertIsNone(row["letter"])
        self.assertIn("no letter", str(row["no_letter"]))
        self.assertIn("your XMPP server", str(row["no_letter"]))

    def test_remedy_of_our_own_decision(self) -> None:
        """The remedy of a decision that was made here is for our own administrator. The letter is for the other one."""
        self.record.refused("inbound", "federation", ("peer.example", "here.example"), "", Ending(Cause.AWAITING_APPROVAL))
        row = self.record.list()[0].row(with_letter=True)
        self.assertIn("s2sgw pins approve", str(row["remedy"]))
        self.assertNotIn("pins approve", str(row["letter"]))
        self.record.refused("outbound", "federation", ("peer.example", "here.example"), "", Ending(Cause.NOT_ALLOWED, by="them"))
        self.assertEqual("them", self.record.list()[-1].row()["by"])
        self.assertNotIn("allow = true", str(self.record.list()[-1].row()["remedy"]))

    def test_remedy_of_the_backend_leg(self) -> None:
        """Any other failure on the way to our own server names that server, and has no letter either."""
        self.record.refused("outbound", "backend", ("", "here.example"), "127.0.0.1:1", SELF_SIGNED)
        row = self.record.list("")[0].row(with_letter=True)
        self.assertTrue(str(row["remedy"]).startswith("This concerns your own server"), row["remedy"])
        self.assertIsNone(row["letter"])

    def test_letter_on_demand(self) -> None:
        """A row has a letter only on request."""
        self.refuse()
        [refused] = self.record.list()
        self.assertNotIn("letter", refused.row())
        self.assertIn("To the administrator", str(refused.row(with_letter=True)["letter"]))

    def test_made_up_names(self) -> None:
        """However many names are invented, the refusals of a known peer stay, now and after a start."""
        store = Store(*(RefusalRecord(1.0, "inbound", "federation", f"{name}.example", "here.example", "192.0.2.1:1", SELF_SIGNED) for name in ("old-stranger", "friend-before")))
        self.record = EventRecord(self.clock, self.log, store)
        self.refuse("friend.example")
        for number in range(10_000):
            self.refuse(f"made-up-{number}.example")
        self.assertEqual([len(self.record.list(f"{name}.example")) for name in ("friend", "friend-before", "old-stranger", "made-up-9999")], [1, 1, 0, 1])
        self.assertEqual(len(self.record.summaries()), 2 + 400)

    def test_forgotten(self) -> None:
        """Removed refusals of a peer are gone, in memory and in the store, and use no room. Other peers keep theirs."""
        store = Store(RefusalRecord(1.0, "inbound", "federation", "friend.example", "here.example", "192.0.2.1:1", SELF_SIGNED))
        self.record = EventRecord(self.clock, self.log, store)
        self.refuse("stranger.example")
        before = self.record.bytes
        self.refuse("other.example")
        self.assertEqual([2, 0], [self.record.forget({"friend.example", "stranger.example"}), self.record.forget({"friend.example"})])
        self.assertEqual(([], [], 1), (self.record.list("friend.example"), store.rows, len(self.record.list())))
        self.assertLess(self.record.bytes, before)

    def test_stranger_that_becomes_known(self) -> None:
        """After its first proof a peer no longer counts as a stranger: strangers cannot displace its refusals."""
        store = Store()
        self.record = EventRecord(self.clock, self.log, store)
        self.refuse("late.example")
        self.patch(store, "is_known", lambda refused: refused.peer == "late.example")
        self.refuse("late.example")
        for number in range(1000):
            self.refuse(f"made-up-{number}.example")
        self.assertEqual(len(self.record.list("late.example")), 1)

    def test_past(self) -> None:
        """Refusals from before the start are there, and are counted further."""
        store = Store(RefusalRecord(1.0, "inbound", "federation", *PAIR, "192.0.2.1:1", SELF_SIGNED, (), 4, 0.5))
        self.record = EventRecord(self.clock, self.log, store)
        self.refuse()
        self.assertEqual([5], [each.times for each in store.kept])
        [row] = self.record.list()
        self.assertEqual((5, 0.5, 1000.0), (row.times, row.first, row.at))


class RepeatedTests(SynchronousTestCase):
    """A flood of refusals makes neither a flood of lines nor of rows."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.events: list[LogEvent] = []
        self.store = Store()
        log = Logger("record", observer=self.events.append)  # type: ignore[arg-type]
        self.record = EventRecord(self.clock, log, self.store, lambda host: host.rpartition(".")[0])

    def refuse(self, address: str, peer: str = "", cause: Cause = Cause.NEGOTIATION_TIMEOUT) -> None:
        self.record.refused("inbound", "federation", (peer, ""), address, Ending(cause))

    def lines(self) -> list[tuple[str, int]]:
        """Return address and number of each line since the last call."""
        lines = [(event["address"], event.get("times", 1)) for event in self.events]
        self.events.clear()
        return lines

    def test_strangers_of_many_networks(self) -> None:
        """Strangers of very many networks do not keep the failures of our own deliveries out of the log."""
        self.patch(repetition, "KINDS", 3)
        for host in range(10):
            self.record.refused("inbound", "federation", ("", ""), f"10.0.{host}.1:5000", SELF_SIGNED)
        before = len(self.events)
        self.record.refused("outbound", "federation", PAIR, "", SELF_SIGNED)
        self.assertEqual((3, ["friend.example"]), (before, [event["peer"] for event in self.events[before:]]))

    def test_nameless(self) -> None:
        """Connections without a name make one line and one row for each site and cause, then one line a minute with their number."""
        for port in range(1000):
            self.refuse(f"192.0.2.1:{port}")
            self.refuse(f"192.0.2.2:{port}")
            self.refuse(f"[198.51.100.3]:{port}")
        self.refuse("192.0.2.1", cause=Cause.BAD_XML)
        self.assertEqual([("192.0.2.1:0", 1), ("[198.51.100.3]:0", 1), ("192.0.2.1", 1)], self.lines())
        self.assertEqual((3, 3), (len(self.record.list()), len(self.store.kept)))
        self.assertEqual(3000, self.record.refusals["stream", "negotiation-timeout", "us"])
        self.record.tell_repeated()
        self.assertEqual([], self.lines())
        self.clock.advance(60)
        self.record.tell_repeated()
        self.assertEqual([("192.0.2.2:999", 1999), ("[198.51.100.3]:999", 999)], self.lines())
        self.assertEqual(3001, sum(row.times for row in self.record.list()))

    def test_named(self) -> None:
        """Refusals of named peers share the lines of their site, but each is in the record under its name."""
        for number in range(10):
            self.refuse("192.0.2.1:1", f"p{number}.example")
        self.assertEqual([("192.0.2.1:1", 1)], self.lines())
        self.assertEqual(1, len(self.record.list("p9.example")))
        self.clock.advance(60)
        self.record.tell_repeated()
        self.assertEqual([("192.0.2.1:1", 9)], self.lines())
        self.assertEqual(10, len(self.record.list()))

    def test_outbound(self) -> None:
        """Refusals of our own attempts are counted by the pair of domains."""
        for peer in ("a.example", "b.example", "a.example"):
            self.record.refused("outbound", "federation", (peer, "here.example"), "", Ending(Cause.CONNECTION_REFUSED))
        self.assertEqual(["a.example", "b.example"], [event["peer"] for event in self.events])

    def test_at_the_end(self) -> None:
        """At a stop all remaining numbers are logged."""
        for port in range(3):
            self.refuse(f"192.0.2.1:{port}")
        self.lines()
        self.record.tell_repeated(at_once=True)
        self.assertEqual([("192.0.2.1:2", 2)], self.lines())

    def test_changes(self) -> None:
        """Of the changes of one owner a few are logged one by one, then their number. Those of others are logged each."""
        for number in range(CHANGES_TOLD + 5):
            self.record.standing("stream proven", "inbound", "federation", (f"s{number}.example", "here.example"), "s0.example")
        self.record.standing("stream proven", "inbound", "federation", PAIR, "friend.example")
        self.record.standing("lane ready", "inbound", "federation", PAIR)
        self.assertEqual(CHANGES_TOLD + 2, len(self.events))
        self.clock.advance(60)
        self.record.tell_repeated()
        self.assertEqual(("stream proven", f"s{CHANGES_TOLD + 4}.example", 5), tuple(self.events[-1][key] for key in ("event", "peer", "times")))
