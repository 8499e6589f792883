"""Tests of upstream acknowledgements: they are settled by evidence, stanza by stanza."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.queue.entries import Batch, QueuedStanza
from s2sgw.queue.evidence import DROPPED, LABELS, ON_DISK, PASSED_ON, WRITTEN, ErrorInCustody, Rule
from s2sgw.xmpp.framing import Framer
from s2sgw.xmpp.stanza import Stanza
from tests.support.custody import Receipt

#: Stanzas that are measured together.
MEASURED = 60
HEADER = b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
LONG = f"{'a' * 1000}@{'.'.join(['d' * 60] * 4)}/{'r' * 1000}"


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


class CostTests(SynchronousTestCase):
    """Tests of the bytes of memory that a stanza counts with."""

    def check(self, stanza: Callable[[int], str]) -> None:
        """Check that stanzas count with the memory that they take, or a little more: up to twice as much.

        The least of three measurements is theirs: a table of Python that all strings share may grow in one of them.
        """
        measured = [self.measure(stanza) for _ in range(3)]
        taken, counted = min(measured)
        self.assertLess(taken, 1.05 * counted)
        self.assertGreater(taken, 0.5 * counted)

    def measure(self, stanza: Callable[[int], str]) -> tuple[int, int]:
        """Return the bytes of memory that stanzas take, and those that they count with."""
        texts = [stanza(number).encode() for number in range(MEASURED + 1)]
        framer = Framer()
        framer.feed(HEADER + texts.pop())
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        found = [each for text in texts for each in framer.feed(text) if isinstance(each, Stanza)]
        held = [QueuedStanza(number, each, 1.0 + number, 2.0 + number) for number, each in enumerate(found)]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        counted = sum(each.cost for each in held)
        self.assertEqual((len(held), counted), (MEASURED, Batch(0, found, 1.0, None).cost))
        return taken, counted

    def test_usual(self) -> None:
        """A message of a chat."""
        self.check(lambda number: (
            f"<message from='romeo@there.example/{number}' to='juliet@here.example' type='chat' id='{number}'><body>Hi</body>"
            "<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/></message>"
        ))

    def test_long_addresses(self) -> None:
        """The longest addresses, of ASCII and not. One character beyond the BMP makes all others of the address four bytes long."""
        for more in ("", "ж" * 300, "😀"):
            self.check(partial("<message from='{0}{2}{1}' to='{0}{1}'><body>x</body></message>".format, LONG, more))

    def test_long_id_and_type(self) -> None:
        """An id, and a type, of 3 kB each."""
        for more in ("", "😀"):
            for name in ("id", "type"):
                text = "<message from='a@there.example' to='b@here.example' {0}='{1}{2}'/>"
                self.check(partial(text.format, name, "x" * 3000 + more))

    def test_many_children(self) -> None:
        """Hundreds of children, of each of which the name is kept, with its namespace."""
        self.check(lambda number: f"<message from='a@there.example/{number}' to='b@here.example'>{'<x/>' * 500}</message>")
        children = "<q:x/>" * 80
        self.check(lambda number: f"<message from='a@there.example/{number}' to='b@here.example' xmlns:q='{'u' * 90}'>{children}</message>")
