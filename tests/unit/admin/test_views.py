"""Tests of the rows and numbers that operators see: counts, selection, and interruption of the work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin import views
from s2sgw.admin.verbs import RefusalsAsked
from s2sgw.admin.views import GatewayViews
from s2sgw.delivery.next_hop import NextHopStatus, StreamFacts
from s2sgw.net.slices import Slices
from s2sgw.peerdb.past_proofs import LastProof
from s2sgw.s2s.stream_limits import StreamLimit
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.unit.delivery.test_queue import HERE, FakeHop, World, stanza

ROOMS, PEER, IDN = Domain.parse("rooms.here.example"), Domain.parse("there.example"), Domain.parse("bücher.example")
EXPIRED = Ending(Cause.EXPIRED, "in May")


def accepted(peer: Domain | None, leg: str = "federation", method: str | None = "EXTERNAL", ending: Ending | None = None) -> Any:
    """Return an accepted stream, as (connection, owner)."""
    connection = SimpleNamespace(
        ending=ending, tls_version="TLSv1.3", cipher="AES", peer_address="192.0.2.1:5269",
        engine=SimpleNamespace(continues=False, resumption=None),
    )
    remote, local = (peer, HERE) if leg == "federation" else (HERE, peer)
    methods = {Pair(remote, local): method} if method and remote and local else {}
    return connection, SimpleNamespace(
        side=SimpleNamespace(leg=leg), peer=remote, local=local, methods=methods, reasons=("r",), since=0.0, engine=connection.engine,
    )


class Accepted(list[Any]):
    """Accepted streams, none of which can be resumed."""

    sessions = ()


class Hop(FakeHop):
    """A next hop with a stream to show."""

    def __init__(self, connection: object = None, leg: Any = "federation", ours: bool = True) -> None:
        super().__init__(ready=False)
        self.connection, self.leg, self.ours = connection, leg, ours

    def status(self) -> NextHopStatus:
        if self.connection is None:
            return NextHopStatus("backing off", Cause.CONNECTION_REFUSED, 12.0)
        facts = StreamFacts(self.leg, "dialback", ("r",), "192.0.2.9:5269", None, None, self.ours, self.connection)
        return NextHopStatus("ready", stream=facts, since=1.0)


class ViewsCase(SynchronousTestCase):
    """Base class with streams and lanes that the test makes."""

    def setUp(self) -> None:
        self.world = World()
        self.setUp_views()

    def setUp_views(self) -> None:
        self.accepted = Accepted()
        config: Any = SimpleNamespace(gateway=SimpleNamespace(domains=()))
        self.disabled: list[Any] = []
        self.proofs: list[LastProof] = []
        self.slices = Slices(self.world.clock)
        self.views = GatewayViews(
            config, self.world.custody, self.accepted, self.world.record, None, 0.0, StreamLimit(self.world.clock), self.slices, lambda: self.disabled,  # type: ignore[arg-type]
            proofs=lambda peer: [each for each in self.proofs if peer is None or each.domain == peer.ascii],
        )

    def lane(self, sender: Domain, recipient: Domain, number: int = 0, hop: FakeHop | None = None) -> None:
        queue = self.world.queues.queue(Pair(sender, recipient))
        queue.next_hop = hop or Hop()
        if number:
            queue.accept([stanza(str(each)) for each in range(number)])

    def refuse(self, peer: str, ending: Ending = EXPIRED) -> None:
        self.world.clock.advance(1)
        self.world.record.refused("inbound", "federation", (peer, "here.example"), "192.0.2.1:1", ending)

    def rows(self, rows: Any, *keys: str) -> list[Any]:
        return [tuple(row[key] for key in keys) for row in rows if row is not None]

    def lanes(self, peer: Domain | None = None) -> Any:
        """Return the rows of lanes, once the spool has answered."""
        found = Deferred.fromCoroutine(self.views.queues(peer))
        self.world.clock.advance(0)
        return self.successResultOf(found)

    def steps(self, rows: Any) -> int:
        """Return the number of steps of the work, which is 1 if it cannot be interrupted."""
        return sum(1 for row in rows if row is None)


class RowTests(ViewsCase):
    """Tests of the rows of streams, lanes and refusals."""

    def test_closed_listeners(self) -> None:
        """A listener that is closed has the reason in its row, and there is an alert. Others stay as they are."""
        backend = SimpleNamespace(kind="s2s", listen="tcp:15270", dns_view=None)
        self.views._config = SimpleNamespace(  # type: ignore[assignment]
            path="", gateway=SimpleNamespace(domains=()), listen=[SimpleNamespace(tls="starttls", endpoint="tcp:5269")], backends=[backend],
            console=SimpleNamespace(listen="tcp:8269"),
        )
        for closed, alerts in ({}, []), ({"federation": "no lease", "backend": "no lease"}, ["this gateway takes no connections of peers: no lease"]):
            self.views.why_closed = lambda purpose, closed=closed: closed.get(purpose, "")  # type: ignore[misc]
            counting = Deferred.fromCoroutine(self.views.status())
            self.world.clock.advance(0)
            status = self.successResultOf(counting)
            shown = [row.get("closed", "") for row in status["listeners"]]
            self.assertEqual((list(closed.values()) + [""] * (3 - len(closed)), alerts), (shown, status["alerts"]))
        self.views.console_alerts = lambda: ["its certificate"]
        counting = Deferred.fromCoroutine(self.views.status())
        self.world.clock.advance(0)
        self.assertEqual(["its certificate", *alerts], self.successResultOf(counting)["alerts"])

    def test_streams(self) -> None:
        """Accepted streams of both legs and ours are listed, with one row for all lanes that share a stream. Ended ones are not."""
        self.accepted += [accepted(PEER), accepted(IDN, "backend"), accepted(None, method=None), accepted(PEER, ending=EXPIRED)]
        shared = object()
        for sender in (HERE, ROOMS):
            self.lane(sender, PEER, hop=Hop(shared))
        self.lane(PEER, HERE, hop=Hop(object(), "backend"))
        self.assertEqual(
            self.rows(self.views.streams(), "leg", "direction", "peer", "state", "method"),
            [
                ("federation", "inbound", "there.example", "proven", "EXTERNAL"), ("backend", "outbound", "bücher.example", "proven", "EXTERNAL"),
                ("federation", "inbound", "", "negotiating", None), ("federation", "outbound", "there.example", "proven", "dialback"),
                ("backend", "inbound", "there.example", "proven", "dialback"),
            ],
        )
        self.assertEqual(self.rows(self.views.streams(IDN), "peer"), [("bücher.example",)])
        self.assertEqual([len(pairs) for (pairs,) in self.rows(self.views.streams(PEER), "pairs")], [1, 2, 1])

    def test_lanes(self) -> None:
        """Lanes are listed by either domain, with state, cause and time of the next attempt from the next hop."""
        self.lane(HERE, PEER, 2)
        self.lane(PEER, HERE)
        self.lane(HERE, IDN)
        self.assertEqual(
            self.rows(self.lanes(PEER), "sender", "recipient", "stanzas", "state", "cause", "retry"),
            [("here.example", "there.example", 2, "backing off", "connection-refused", 12.0), ("there.example", "here.example", 0, "backing off", "connection-refused", 12.0)],
        )
        self.assertEqual(len(self.rows(self.lanes())), 3)

    def test_spooled(self) -> None:
        """Bytes and ages include what is only on disk, as after a restart. Each stanza counts once."""
        self.lane(HERE, PEER, 2)
        (before,) = self.rows(self.lanes(), "stanzas", "bytes", "oldest")
        self.world.clock.advance(60)  # the window has passed: everything is in the spool, and in memory too
        (row,) = self.rows(self.lanes(), "stanzas", "bytes", "oldest")
        self.assertEqual(row, (2, before[1], 60.0))
        again = World(spool=self.world.spool)
        again.clock.advance(self.world.clock.seconds() + 40)
        self.world = again
        self.setUp_views()
        queue = again.queues.queue(Pair(HERE, PEER))
        queue.next_hop = Hop()
        (summary,) = again.summaries()
        queue.pair_queue.restore(summary.first, summary.last, summary.count, summary.oldest)
        self.assertEqual(self.rows(self.lanes(), "stanzas", "bytes", "oldest"), [(2, before[1], 100.0)])
        counted = self.views.count()
        again.clock.advance(0)
        self.successResultOf(counted)
        self.assertEqual(self.views.numbers().queue, (2, 100.0))

    def test_disk_that_hangs(self) -> None:
        """Lanes are listed even if the spool does not answer."""
        self.lane(HERE, PEER, 2)
        self.world.hold_back = True
        asked = Deferred.fromCoroutine(self.views.queues())
        self.world.clock.advance(2)
        self.assertEqual(self.rows(self.successResultOf(asked), "stanzas"), [(2,)])
        self.world.answer()

    def test_refusals(self) -> None:
        """The last refusals are listed, oldest first; of a peer in any spelling; with letters on request."""
        for peer in ("a.example", "xn--bcher-kva.example", "bücher.example", "no domain"):
            self.refuse(peer)
        self.assertEqual(self.rows(self.views.refusals(RefusalsAsked(None, 2, False)), "peer"), [("bücher.example",), ("no domain",)])
        found = [row for row in self.views.refusals(RefusalsAsked(IDN, 9, True)) if row is not None]
        self.assertEqual([(row["peer"], "letter" in row) for row in found], [("xn--bcher-kva.example", True), ("bücher.example", True)])
        self.assertNotIn("letter", next(self.views.refusals(RefusalsAsked(None, 1, False))) or {})

    def test_interrupted(self) -> None:
        """Work over many items without rows can be interrupted, also over refusals."""
        self.patch(views, "AT_ONCE", 10)
        self.accepted += [accepted(PEER) for _ in range(100)]
        for number in range(100):
            self.lane(HERE, Domain.parse(f"p{number}.example"))
            self.refuse(f"p{number}.example")
        self.assertEqual(self.steps(self.views.streams(IDN)), 20)
        self.assertEqual(self.steps(self.lanes(IDN)), 10)
        self.assertEqual(self.steps(self.views.refusals(RefusalsAsked(None, 100, False))), 10)
        self.assertGreaterEqual(self.steps(self.views.peers(IDN)), 30)
        self.assertGreaterEqual(self.steps(self.views._count()), 20)

    def test_changes_meanwhile(self) -> None:
        """Queues that appear or end while the rows are made cause no error."""
        self.accepted += [accepted(PEER), accepted(PEER)]
        self.lane(HERE, PEER)
        rows = self.views.peers()
        next(rows)
        self.accepted[1][0].ending = EXPIRED
        self.lane(HERE, IDN)
        self.refuse("new.example")
        self.assertIn(("there.example", 1), self.rows(rows, "peer", "inbound"))

    def test_forgotten_meanwhile(self) -> None:
        """A queue that is forgotten while the rows are made, or the numbers counted, causes no error."""
        self.patch(views, "AT_ONCE", 1)
        works: tuple[Any, ...] = (self.lanes, self.views.streams, self.views._count)
        for work in works:
            for peer in (PEER, IDN):
                self.lane(HERE, peer)
            steps = iter(work())
            next(steps)
            for peer in (PEER, IDN):
                self.world.queues.forget(Pair(HERE, peer))
            self.assertTrue(all(row is None or row["stanzas"] == 0 for row in steps), work)


class PeersTests(ViewsCase):
    """Tests of the counts for each peer."""

    def test_counted(self) -> None:
        """The counts cover streams, lanes, refusals and extensions. The backend leg belongs to no peer. Peers are sorted by name."""
        self.accepted += [accepted(PEER), accepted(PEER, method="dialback"), accepted(PEER, "backend"), accepted(None, method=None)]
        self.lane(HERE, PEER, 2, Hop(object()))
        self.lane(PEER, HERE, 3, Hop(object(), "backend"))
        self.lane(HERE, IDN, 1)
        self.refuse("evil.example")
        self.refuse("evil.example", Ending(Cause.SELF_SIGNED))
        self.disabled.append((IDN.ascii, ("bidi",)))
        self.assertEqual(
            self.rows(self.views.peers(), "peer", "inbound", "outbound", "methods", "waiting", "refusals", "disabled"),
            [
                ("bücher.example", 0, 0, [], 1, 0, ["bidi"]), ("evil.example", 0, 0, [], 0, 2, []),
                ("there.example", 2, 1, ["EXTERNAL", "dialback"], 5, 0, []),
            ],
        )
        (row,) = [row for row in self.views.peers(Domain.parse("evil.example")) if row is not None]
        self.assertEqual(row["last_refusal"], {"at": 2.0, "layer": "pkix", "cause": "self-signed"})
        self.assertEqual(self.rows(self.views.peers(IDN), "peer", "waiting", "without"), [("bücher.example", 1, ["bidi"])])
        self.assertEqual(self.rows(self.views.peers(Domain.parse("none.example")), "peer"), [])


    def test_met_before(self) -> None:
        """A peer that was authenticated before has a row, with the time, the method, and the expiry of its certificate."""
        self.proofs += [LastProof("there.example", "pkix", 5.0, 9.0), LastProof(IDN.ascii, "dialback", 6.0, None)]
        self.assertEqual(
            self.rows(self.views.peers(), "peer", "last_seen", "last_method", "certificate_until"),
            [("bücher.example", 6.0, "dialback", None), ("there.example", 5.0, "pkix", 9.0)],
        )
        self.assertEqual(self.rows(self.views.peers(PEER), "peer", "last_seen"), [("there.example", 5.0)])

    def test_no_name(self) -> None:
        """Connections that named no peer have no row."""
        self.refuse("")
        self.assertEqual(self.rows(self.views.peers(), "peer"), [])

    def test_names(self) -> None:
        """Names that begin with a prefix are listed once each."""
        self.accepted += [accepted(PEER), accepted(PEER)]
        self.lane(HERE, IDN)
        self.proofs.append(LastProof("theirs.example", "pkix", 5.0, None))
        self.refuse("thief.example")
        self.assertEqual(sorted(name for name in self.views.names("the") if name), ["theirs.example", "there.example"])
        self.assertEqual(len([name for name in self.views.names("") if name]), 4)


class NumberTests(ViewsCase):
    """Tests of the counts for metrics and `status`."""

    def count(self) -> Any:
        counted = self.views.count()
        self.world.clock.advance(0)
        return self.successResultOf(counted)

    def test_counted(self) -> None:
        """Streams are counted by leg and direction, each once. Waiting stanzas are counted with the age of the oldest."""
        self.accepted += [accepted(PEER), accepted(IDN), accepted(PEER, "backend"), accepted(PEER, ending=EXPIRED)]
        shared = object()
        for sender in (HERE, ROOMS):
            self.lane(sender, PEER, 2, Hop(shared))
        self.lane(PEER, HERE, hop=Hop(shared, "backend", ours=False))
        self.world.clock.advance(5)
        numbers = self.count()
        expected = {("federation", "inbound"): 2, ("backend", "outbound"): 1, ("federation", "outbound"): 1, ("backend", "inbound"): 1}
        self.assertEqual((dict(numbers.streams), numbers.waiting), (expected, 4))
        found = self.views.numbers()
        self.assertEqual((dict(found.streams), found.queue), (expected, (4, 5.0)))

    def test_nothing(self) -> None:
        """An idle gateway, and one that was never counted, have zero."""
        self.assertEqual(self.views.numbers().queue, (0, 0.0))
        self.count()
        self.assertEqual(self.views.numbers().queue, (0, 0.0))

    def test_asked_twice(self) -> None:
        """Requests during a count get its result. A client that cancels does not affect the others."""
        counts = [self.views.count() for _ in range(3)]
        counts[0].cancel()
        self.failureResultOf(counts[0], CancelledError)
        self.world.clock.advance(0)
        self.assertIs(self.successResultOf(counts[1]), self.successResultOf(counts[2]))

    def test_all_left(self) -> None:
        """If all clients have cancelled before the count ends, the next request is answered all the same."""
        first = self.views.count()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        second: Deferred[Any] = self.views.count()
        self.world.clock.advance(0)
        self.successResultOf(second)

    def test_breaks(self) -> None:
        """An internal error is reported to all who wait, and the next count starts anew."""
        self.accepted.append((None, None))
        counts = [self.views.count() for _ in range(2)]
        self.world.clock.advance(0)
        for each in counts:
            self.failureResultOf(each, AttributeError)
        self.accepted.clear()
        self.count()
