"""Tests of upstream acknowledgements: they are settled by evidence, stanza by stanza."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.evidence import DROPPED, LABELS, ON_DISK, PASSED_ON, WRITTEN, ErrorInCustody, Rule
from tests.support.custody import Receipt


class UpstreamAckTests(SynchronousTestCase):
    """Tests of the record that tells the previous hop which stanzas are safe."""

    def test_each_evidence_has_a_label(self) -> None:
        """Settled stanzas are counted by label. An answered stanza has its own label, whatever makes its error safe."""
        given = [each.label for each in (PASSED_ON, WRITTEN, ON_DISK, ErrorInCustody(ON_DISK), DROPPED[Rule.LATE_REPLY])]
        self.assertEqual(given, list(LABELS))

    def test_a_repeat_is_settled_with_the_first_copy(self) -> None:
        """R35: a repeat is settled with its first copy, not before, and by the same evidence."""
        first, repeat = Receipt(2), Receipt(1)
        repeat.settle_with(first)
        first.settle(PASSED_ON)
        self.assertEqual(repeat.left, 1)
        first.settle(ON_DISK)
        self.assertEqual((repeat.left, repeat.evidence), (0, ON_DISK))

    def test_repeats_of_what_is_safe(self) -> None:
        """A repeat of a settled stanza is settled at once. Several repeats may wait for one stanza."""
        first, one, other, late = Receipt(1), Receipt(1), Receipt(2), Receipt(1)
        one.settle_with(first)
        other.settle_with(first, 2)
        first.settle(PASSED_ON)
        late.settle_with(first)
        self.assertEqual([each.evidence for each in (one, other, late)], [PASSED_ON] * 3)

    def test_repeats_of_repeats(self) -> None:
        """A stanza that was sent again on thousands of streams, while the disk did not answer, is settled on each of them."""
        receipts = [Receipt(1)]
        for _ in range(5000):
            repeat = Receipt(1)
            repeat.settle_with(receipts[-1])
            receipts.append(repeat)
        receipts[0].settle(ON_DISK)
        self.assertEqual({each.evidence for each in receipts}, {ON_DISK})

    def test_no_more_than_there_are(self) -> None:
        """An error is raised if more stanzas are settled than the acknowledgement is for: another stanza would be acknowledged."""
        receipt = Receipt(1)
        self.assertRaises(AssertionError, receipt.settle, PASSED_ON, 2)

    def test_given_up(self) -> None:
        """A receipt that was given up settles nothing more, and neither do the receipts of its repeats."""
        first, repeat, again = Receipt(2), Receipt(1), Receipt(1)
        repeat.settle_with(first)
        again.settle_with(repeat)
        first.settle(PASSED_ON)
        first.abandon()
        first.settle(ON_DISK)
        self.assertEqual((1, 1, 1), (first.left, repeat.left, again.left))
        self.assertTrue(repeat.abandoned and again.abandoned)
