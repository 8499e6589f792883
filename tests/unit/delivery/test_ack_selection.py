"""The acknowledgements that are used on a stream, and what follows from a server that does not answer (R35, R41)."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery.ack_selection import MAX_SERVERS, MUTE_SECONDS, REMEMBERED_SECONDS, AckSelection, RememberedServers
from s2sgw.delivery.acknowledgements import LARGE, OVERDUE_SECONDS, PING_SECONDS, Acks, PingAcks, StreamManagementAcks, TcpAcks
from s2sgw.delivery.iq_replies import LateReplies, PingReplies
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.unit.delivery.test_acknowledgements import PAIR, Queue
from tests.unit.delivery.test_acknowledgements import Stream as Written
from tests.unit.delivery.test_iq_replies import Directions

HERE, THERE = PAIR


class Stream(Written):
    """A stream that notes how it was ended."""

    def __init__(self, managed: bool = False, largest_in_flight: int = 10) -> None:
        super().__init__()
        self.managed = managed
        self.largest_in_flight = largest_in_flight
        self.unacknowledged = 0
        self.ends: list[tuple[str, str]] = []

    def note_answer(self) -> None:
        self.answers = True

    def close(self, ending: Ending) -> None:
        self.ends.append(("closed", ending.cause.value))

    def abort(self, ending: Ending) -> None:
        self.ends.append(("aborted", ending.cause.value))


class Extensions:
    """Every extension may be used until it is disabled."""

    def __init__(self) -> None:
        self.disabled: list[tuple[str, str]] = []

    def usable(self, name: str, extra: Any) -> bool:
        return (name, extra) not in self.disabled

    def disable(self, name: str, extra: Any, ending: Ending) -> None:
        self.disabled.append((name, extra))


class AckSelectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.acks: dict[Domain, Acks] = {THERE: "auto", HERE: "tcp"}
        self.caught = PingReplies(PAIR.inverse, LateReplies(Directions()))
        self.extensions = Extensions()
        self.selection = AckSelection(self.acks.__getitem__, self, self.extensions, self.clock)
        self.queue = Queue()

    def replies(self, pair: Pair) -> PingReplies:
        return self.caught

    def holds_source(self, pair: Pair) -> bool:
        return False

    def choose(self, stream: Stream, stalled_before: bool = False) -> Any:
        return self.selection.choose(self.queue, stream, stalled_before)  # type: ignore[arg-type]

    def answer(self) -> None:
        _, answered = self.caught.pings.popitem()
        answered()

    def test_chosen(self) -> None:
        """R41: XEP-0198 is used if the stream has it, otherwise pings, otherwise TCP alone, as configured."""
        self.assertIsInstance(self.choose(Stream(managed=True)), StreamManagementAcks)
        self.assertIsInstance(self.choose(Stream()), PingAcks)
        self.acks[THERE] = "tcp"
        self.assertIsInstance(self.choose(Stream()), TcpAcks)

    def test_asked_for(self) -> None:
        """R35: XEP-0198 is asked for if it is configured and not disabled for the server."""
        self.assertEqual([self.selection.use_stream_management(each) for each in (HERE, THERE)], [False, True])
        self.extensions.disable(THERE.ascii, "management", Ending(Cause.CLOSED))
        self.extensions.disable(THERE.ascii, "resumption", Ending(Cause.CLOSED))
        self.assertEqual((self.selection.use_stream_management(THERE), self.selection.use_resumption(THERE)), (False, False))

    def test_never_answers(self) -> None:
        """R41: stanzas for a server that has never answered a ping count as written. The server is not pinged again for a day."""
        self.choose(Stream()).after_batch(2)
        self.clock.advance(PING_SECONDS)
        self.assertEqual(self.queue.acknowledgements, [(2, "written")])
        self.assertIsInstance(self.choose(Stream()), TcpAcks)
        self.acks[THERE] = "ping"
        self.assertIsInstance(self.choose(Stream()), PingAcks)
        self.acks[THERE] = "auto"
        self.clock.advance(REMEMBERED_SECONDS)
        self.assertIsInstance(self.choose(Stream()), PingAcks)

    def test_falls_silent(self) -> None:
        """R41: a server that has answered and stops answering is presumed dead. Its stanzas stay in custody, and it is pinged again."""
        stream = Stream()
        acks = self.choose(stream)
        acks.after_batch(1)
        self.answer()
        acks.after_batch(5)
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.queue.acknowledgements, stream.ends), ([(1, "passed_on")], [("aborted", "unresponsive")]))
        self.assertIsInstance(self.choose(Stream()), PingAcks)

    def test_falls_silent_on_the_next_stream(self) -> None:
        """R41: an earlier answer counts for the server, not for one stream."""
        self.choose(Stream()).after_batch(1)
        self.answer()
        stream = Stream()
        acks = self.choose(stream)
        acks.after_batch(3)
        acks.on_pressure()
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.queue.acknowledgements, stream.ends), ([(1, "passed_on")], [("aborted", "unresponsive")]))

    def test_its_way_back_is_lost(self) -> None:
        """R41: a server that answered earlier, and accepts new streams without answering on them, no longer delays its stanzas after a while."""
        self.choose(Stream()).after_batch(1)
        self.answer()
        ends = 0
        while self.clock.seconds() < MUTE_SECONDS + 2 * PING_SECONDS:
            stream = Stream()
            self.choose(stream).after_batch(1)
            self.clock.advance(PING_SECONDS)
            ends += len(stream.ends)
        self.assertEqual((ends, self.queue.acknowledgements[1:]), (MUTE_SECONDS // PING_SECONDS, [(1, "written")]))
        self.assertIsInstance(self.choose(Stream()), TcpAcks)

    def test_answers_late(self) -> None:
        """R41: a server that was silent for once, and answers late since then, is no silent one. Its stanzas stay in custody."""
        self.choose(Stream()).after_batch(1)
        self.answer()
        self.choose(Stream()).after_batch(1)
        self.clock.pump([1] * int(PING_SECONDS))
        stream = Stream()
        acks = self.choose(stream)
        for _ in range(int(MUTE_SECONDS / PING_SECONDS)):
            acks.after_batch(1)
            self.clock.pump([1] * int(PING_SECONDS / 2))
            self.caught.pings.pop(next(iter(self.caught.pings)))()
            self.clock.advance(PING_SECONDS / 2)
        acks.after_batch(5)
        self.clock.pump([1] * int(2 * PING_SECONDS))
        self.assertEqual([("aborted", "unresponsive")], stream.ends)
        self.assertEqual({"passed_on"}, {evidence for _, evidence in self.queue.acknowledgements})

    def test_sub_domains(self) -> None:
        """R41: a peer with many sub-domains does not make the gateway forget that another server answers pings, or that it is silent."""
        for names in (self.selection._answering._until, self.selection._never_answering._until, self.selection._silent_since):
            names.limit = 3
            names[THERE.ascii] = 1.0
            for number in range(9):
                names[f"s{number}.many.example"] = 1.0
            self.assertIn(THERE.ascii, names)

    def test_answers_after_all(self) -> None:
        """R41: a server that was presumed never to answer, and answers, is pinged again."""
        self.acks[THERE] = "ping"
        acks = self.choose(Stream())
        acks.after_batch(1)
        self.clock.advance(PING_SECONDS)
        acks.after_batch(1)
        self.answer()
        self.acks[THERE] = "auto"
        self.assertIsInstance(self.choose(Stream()), PingAcks)

    def test_silent_over_something_large(self) -> None:
        """The stream of a server that may have met a size limit is closed, so that it is not resumed."""
        for managed, seconds in ((False, PING_SECONDS), (True, OVERDUE_SECONDS)):
            stream = Stream(managed, LARGE + 1)
            acks = self.choose(stream)
            acks.after_batch(1)
            acks.acknowledged(1) if managed else self.answer()
            acks.after_batch(1)
            self.clock.advance(seconds)
            self.assertEqual(stream.ends, [("closed", "unresponsive")])

    def test_another_queue_of_the_stream(self) -> None:
        """A queue whose first stanza is behind another queue's large stanza keeps custody: the server has answered on this stream."""
        stream = Stream(largest_in_flight=LARGE + 1)
        first, second = self.choose(stream), self.choose(stream)
        first.after_batch(1)
        self.answer()
        second.after_batch(1)
        self.clock.advance(PING_SECONDS)
        self.assertEqual((self.queue.acknowledgements, stream.ends), ([(1, "passed_on")], [("closed", "unresponsive")]))

    def test_overdue(self) -> None:
        """R35: the stream of a server that has acknowledged before may be resumed. A server that never has is not asked for XEP-0198 again."""
        stream = Stream(managed=True)
        acks = self.choose(stream)
        acks.after_batch(2)
        acks.acknowledged(1)
        self.clock.advance(OVERDUE_SECONDS)
        self.assertEqual((stream.ends, self.extensions.disabled), ([("aborted", "unresponsive")], []))
        never = Stream(managed=True)
        self.choose(never).after_batch(1)
        self.clock.advance(OVERDUE_SECONDS)
        self.assertEqual((never.ends, self.extensions.disabled), ([("closed", "unresponsive")], [(THERE.ascii, "management")]))
        stalled = Stream(managed=True)
        self.choose(stalled, stalled_before=True).after_batch(1)
        self.clock.advance(OVERDUE_SECONDS)
        self.assertEqual(stalled.ends, [("aborted", "unresponsive")])


class RememberedServersTests(SynchronousTestCase):
    """Tests of the servers that are remembered for a day."""

    def test_for_a_day(self) -> None:
        """A server is forgotten after a day."""
        clock = Clock()
        servers = RememberedServers(clock)
        servers.remember("there.example")
        clock.advance(REMEMBERED_SECONDS - 1)
        self.assertIn("there.example", servers)
        self.assertNotIn("other.example", servers)
        clock.advance(1)
        self.assertNotIn("there.example", servers)
        servers.remember("there.example")
        servers.forget("there.example")
        self.assertNotIn("there.example", servers)

    def test_bounded(self) -> None:
        """The memory is bounded: the oldest entry is removed first."""
        servers = RememberedServers(Clock())
        for number in range(MAX_SERVERS):
            servers.remember(f"s{number}.example")
        servers.remember("s0.example")
        servers.remember("more.example")
        self.assertEqual([f"s{number}.example" in servers for number in (0, 1, 2)], [True, False, True])
