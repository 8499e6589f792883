"""The filter of a peer's policy between a proven pair and its delivery queue."""

from __future__ import annotations

from s2sgw.xmpp.ending import Cause, Ending
from tests.support.custody import Receipt
from tests.unit.ingress.test_pair_ingress import IN, OUT, EntryTestCase, stanza


class FilterTests(EntryTestCase):
    """Tests of stanzas that the filter refuses."""

    def test_answered(self) -> None:
        """A refused stanza is answered by an error from its recipient and counted once. The rest passes."""
        entry = self.admitted(kinds=("message", "iq"), deny_namespaces=("urn:x",))
        entry.accept([stanza("a"), stanza("b", "presence"), stanza("c", "iq", "set", ("urn:x}y",)), stanza("d")])
        self.assertEqual("a d", self.passed())
        self.assertEqual(2, len(self.kept[OUT]))
        self.assertIn("policy-violation", self.passed(OUT))
        self.assertIn("to='u@peer.example'", self.passed(OUT))
        self.assertEqual(1, self.record.stanzas["inbound", "presence", "refused"])
        self.assertEqual(1, self.record.stanzas["inbound", "iq", "refused"])
        self.assertEqual(0, self.record.stanzas["inbound", "presence", "bounced"])

    def test_no_answer_is_due(self) -> None:
        """R33: a refused error, result or unavailable presence is counted and not answered."""
        entry = self.admitted(kinds=("message",))
        entry.accept([stanza("a", "iq", "result"), stanza("b", "presence", "unavailable")])
        self.assertNotIn(OUT, self.kept)
        self.assertEqual(1, self.record.stanzas["inbound", "iq", "refused"])

    def test_dropped(self) -> None:
        """`denied = "drop"`: no answer is sent."""
        entry = self.admitted(kinds=("message",), denied="drop")
        entry.accept([stanza("a", "iq", "get")])
        self.assertNotIn(OUT, self.kept)
        self.assertEqual(1, self.record.stanzas["inbound", "iq", "refused"])

    def test_recorded_once(self) -> None:
        """A flood of refused stanzas makes one record for each cause, with the first stanza's details."""
        entry = self.admitted(kinds=("message",), deny_larger_than=5)
        for _ in range(3):
            entry.accept([stanza("a", "iq", "get"), stanza("b" * 6), stanza("c", "presence")])
        self.assertEqual([Cause.FILTERED, Cause.TOO_LARGE], [row.ending.cause for row in self.record.list("peer.example")])

    def test_both_ways(self) -> None:
        """Filters apply to stanzas for the peer too. Rates apply only to stanzas from it."""
        entry = self.made("backend", OUT, kinds=("message",), limits={"stanzas_per_second": 1})
        entry.accept([stanza("a", "presence")])
        self.admissions.pop().callback(None)
        entry.accept([stanza(each) for each in "bcdefg"])
        self.assertEqual("b c d e f g", self.passed(OUT))
        self.assertEqual(set(), self.connection.holders)

    def test_own_pings(self) -> None:
        """R41: the expected answer to the gateway's own ping bypasses the filter."""
        entry = self.admitted(kinds=("message",), denied="drop")
        answered: list[str] = []
        self.queues.queue(IN).replies.expect("secret", lambda: answered.append("yes"))
        entry.accept([stanza("secret", "iq", "result"), stanza("a"), stanza("other", "iq", "result")])
        self.assertEqual((["yes"], "a"), (answered, self.passed()))

    def test_own_pings_before_admission(self) -> None:
        """R41: such an answer neither waits for the admission of the peer nor is refused with it: a server that answers is not silent."""
        entry = self.made()
        answered: list[str] = []
        for id in ("one", "two"):
            self.queues.queue(IN).replies.expect(id, lambda id=id: answered.append(id))  # type: ignore[misc]
        receipt = Receipt(2)
        entry.accept([stanza("one", "iq", "result"), stanza("a")], receipt)
        self.assertEqual((["one"], 1), (answered, len(self.admissions)))
        entry.accept([stanza("two", "iq", "result")])
        self.assertEqual((["one", "two"], ""), (answered, self.passed()))
        self.admissions.pop().callback(Ending(Cause.NO_SUCH_DOMAIN))
        self.assertEqual(([("dropped_by_rule", 1), ("answered", 1)], ""), (receipt.by, self.passed()))

    def test_no_queue_for_a_stranger(self) -> None:
        """A stanza that looks like such an answer makes no queue for a pair that is not admitted."""
        entry = self.made()
        entry.accept([stanza("secret", "iq", "result")])
        self.assertEqual([], list(self.queues))
