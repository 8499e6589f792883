"""Names of streams and subjects, and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.subjects import (
    BOOK_STREAM,
    NODES_STREAM,
    SHARDS,
    SPOOL_STREAMS,
    domain_of_word,
    home_subject,
    key_of,
    key_stream,
    key_subject,
    key_word,
    lane_subject,
    pair_of,
    peer_of,
    peer_subjects,
    question_subject,
    shard_of,
    shard_subjects,
    spool_stream,
    subjects_below,
    table_subjects,
)
from s2sgw.xmpp.jid import Domain, Pair

NAMES = ("a.example", "xn--bcher-kva.example", "[::1]", "127.0.0.1", "localhost", "a_b.example", "x" * 63 + ".example")
DOMAINS = st.sampled_from([Domain.parse(name) for name in NAMES])


class SpoolTests(SynchronousTestCase):
    """Subjects of the spool."""

    @given(DOMAINS, DOMAINS, st.booleans())
    def test_lane_and_back(self, peer: Domain, local: Domain, incoming: bool) -> None:
        """A subject is of one peer and one lane, below the patterns of its peer and of its stream, in six words."""
        pair = Pair(peer, local) if incoming else Pair(local, peer)
        subject = lane_subject(pair, peer)
        self.assertEqual((pair_of(subject), peer_of(subject), len(subject.split("."))), (pair, peer, 6))
        self.assertTrue(subject.startswith(peer_subjects(peer)[:-1]))
        self.assertTrue(subject.startswith(shard_subjects(shard_of(peer))[:-1]))
        self.assertEqual(SPOOL_STREAMS[shard_of(peer)], spool_stream(peer))
        self.assertFalse(set(subject) & set(" *>\t\r\n"))

    def test_home(self) -> None:
        """A home record is of its peer and of no lane."""
        peer = Domain.parse("a.example")
        self.assertEqual((peer_of(home_subject(peer)), pair_of(home_subject(peer))), (peer, None))

    def test_lane_of_another(self) -> None:
        """A lane has no subject of a peer that it is not of."""
        one, other = Domain.parse("a.example"), Domain.parse("b.example")
        self.assertRaises(ValueError, lane_subject, Pair(one, one), other)

    def test_strange_subjects(self) -> None:
        """Other subjects belong to no peer and to no lane."""
        for subject in ("s2sgw.spool.1", "s2sgw.spool.1.a b.home", "s2sgw.spool.1.a/example.over.b", "s2sgw.spool.1.a.in.@", "", "x.y.z.-.in.a"):
            self.assertEqual(pair_of(subject), None, subject)
        self.assertEqual([peer_of(subject) for subject in ("", "s2sgw.spool.1.a", "s2sgw.spool.1.@.home")], [None] * 3)

    def test_peers_are_spread(self) -> None:
        """No stream has more than its share of many peers by much, and a peer's stream stays the same over releases."""
        found = [shard_of(Domain.parse(f"peer{number}.example")) for number in range(800)]
        self.assertTrue(all(60 < found.count(shard) < 140 for shard in range(SHARDS)))
        self.assertEqual([shard_of(Domain.parse(name)) for name in NAMES[:3]], [4, 6, 7])


class TableTests(SynchronousTestCase):
    """Subjects of the table."""

    def test_key_and_back(self) -> None:
        """A key has one subject, in one stream, below the subjects of that stream."""
        for key, stream in (
            ("node.a", NODES_STREAM), ("cluster", NODES_STREAM), ("cluster.a", NODES_STREAM), ("pin.a=_-.B", BOOK_STREAM),
            ("nodes", BOOK_STREAM), ("book.x", BOOK_STREAM), ("book.book.x", BOOK_STREAM),
        ):  # fmt: skip
            subject = key_subject(key)
            self.assertEqual((key_of(subject), key_stream(key)), (key, stream))
            self.assertTrue(any(subject == each or subject.startswith(each.removesuffix(">")) for each in table_subjects(stream)), key)

    @given(DOMAINS)
    def test_word_of_a_domain(self, domain: Domain) -> None:
        """A domain is one word of a key, and back."""
        word = key_word(domain)
        self.assertEqual((f"s2sgw.book.hold.{word}", domain), (key_subject(f"hold.{word}"), domain_of_word(word)))
        self.assertNotIn(".", word)

    def test_words_of_no_domain(self) -> None:
        """Other words are of no domain."""
        for word in ("=20", "=zz", "__", "a=40b"):
            self.assertIsNone(domain_of_word(word))

    def test_no_keys(self) -> None:
        """An invalid key is refused: it could mean other subjects."""
        for key in ("", ".", "a.", ".a", "a..b", "a.*", ">", "a b", "ä", "a\r\nb", "a\n"):
            self.assertRaises(ValueError, key_subject, key)
        for node in ("", "a.b", "*", "a\n"):
            self.assertRaises(ValueError, question_subject, node)

    def test_below(self) -> None:
        """A prefix is in one stream, and "" in both."""
        self.assertEqual(subjects_below("pin.a"), {BOOK_STREAM: "s2sgw.book.pin.a.>"})
        self.assertEqual(subjects_below("node"), {NODES_STREAM: "s2sgw.node.>"})
        self.assertEqual(set(subjects_below("")), {BOOK_STREAM, NODES_STREAM})
