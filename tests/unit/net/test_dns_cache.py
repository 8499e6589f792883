"""Tests of the cache of DNS answers."""

from __future__ import annotations

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_answer import Answer, Question, Status
from s2sgw.net.dns_cache import Cache

A, TXT = dns.rdatatype.A, dns.rdatatype.TXT


class CacheCase(SynchronousTestCase):
    """Base class: a cache with room for so many records."""

    LIMIT = 6

    def setUp(self) -> None:
        self.clock = Clock()
        self.cache = Cache(self.clock, limit=self.LIMIT)

    def put(self, name: str, *texts: str, ttl: float = 60, rdtype: dns.rdatatype.RdataType = A) -> Question:
        """Keep an answer with these records."""
        question = Question(dns.name.from_text(name), rdtype)
        records = tuple(dns.rdata.from_text(dns.rdataclass.IN, rdtype, text) for text in texts)
        self.cache.put(question, Answer(question.name, rdtype, Status.FOUND, records, ttl=ttl))
        return question


class CacheTests(CacheCase):
    """Tests of a cache with room for six records."""

    def test_ttl(self) -> None:
        """An answer has the rest of its TTL, and is removed at its end."""
        question = self.put("a.example", "192.0.2.1")
        self.clock.advance(59)
        answer = self.cache.get(question)
        assert answer is not None
        self.assertEqual(1, answer.ttl)
        self.clock.advance(1)
        self.assertIsNone(self.cache.get(question))
        self.assertEqual((0, 0), (len(self.cache), self.cache.weight))

    def test_not_kept(self) -> None:
        """An answer with a TTL of 0 is not kept, and replaces an earlier one."""
        question = self.put("a.example", "192.0.2.1")
        self.put("a.example", "192.0.2.2", ttl=0)
        self.assertIsNone(self.cache.get(question))
        self.assertEqual((0, 0), (len(self.cache), self.cache.weight))

    def test_case(self) -> None:
        """The case of letters in a name does not matter."""
        self.put("A.example", "192.0.2.1")
        self.assertIsNotNone(self.cache.get(Question(dns.name.from_text("a.EXAMPLE"), A)))

    def test_bounded(self) -> None:
        """The least recently used answers are removed first, by the number of their records."""
        first, second, third = (self.put(f"n{number}.example", "192.0.2.1", "192.0.2.2") for number in range(3))
        self.cache.get(first)
        self.put("n3.example", "192.0.2.1")
        self.assertIsNone(self.cache.get(second))
        self.assertEqual([True, True], [self.cache.get(each) is not None for each in (first, third)])
        self.assertEqual(5, self.cache.weight)

    def test_weight(self) -> None:
        """An answer without records counts as one, a large record as several; a replaced answer counts once."""
        self.put("none.example")
        self.assertEqual(1, self.cache.weight)
        self.put("large.example", '"' + "x" * 250 + '" "' + "x" * 250 + '"', rdtype=TXT)
        self.assertEqual(3, self.cache.weight)
        self.put("large.example", '"x"', rdtype=TXT)
        self.assertEqual((2, 2), (len(self.cache), self.cache.weight))
        self.cache.clear()
        self.assertEqual((0, 0), (len(self.cache), self.cache.weight))


class ShareTests(CacheCase):
    """Tests of the shares of registered domains, in a cache with room for 24 records."""

    LIMIT = 24

    def kept(self, *questions: Question) -> list[bool]:
        return [self.cache.get(each) is not None for each in questions]

    def test_bounded(self) -> None:
        """A registered domain with many names has an eighth of the cache, and removes no answer of another one."""
        others = [self.put(f"_xmpp-server._tcp.other{number}.example", "192.0.2.1") for number in range(3)]
        many = [self.put(f"n{number}.many.example.co.uk", "192.0.2.1") for number in range(20)]
        self.assertEqual(self.kept(*many), [False] * 17 + [True] * 3)
        self.assertEqual(self.kept(*others), [True] * 3)
        self.assertEqual((len(self.cache), self.cache.weight), (6, 6))

    def test_least_recently_used(self) -> None:
        """Beyond its share, a registered domain loses the answer that it has not used for longest."""
        first, second, third = (self.put(f"n{number}.many.example", "192.0.2.1") for number in range(3))
        self.cache.get(first)
        self.put("n3.many.example", "192.0.2.1")
        self.assertEqual(self.kept(first, second, third), [True, False, True])

    def test_full(self) -> None:
        """When the cache is full, the registered domain that was not used for longest loses answers."""
        questions = [self.put(f"n{number % 2}.other{number // 2}.example", "192.0.2.1") for number in range(24)]
        self.cache.get(questions[0])
        self.put("new.example", "192.0.2.1")
        self.assertEqual(self.kept(*questions[:4]), [True, True, False, True])

    def test_weight(self) -> None:
        """An answer that is larger than the share is kept, alone."""
        small = self.put("small.many.example", "192.0.2.1")
        large = self.put("large.many.example", *(f"192.0.2.{number}" for number in range(5)))
        self.assertEqual(self.kept(small, large), [False, True])
        self.assertEqual((len(self.cache), self.cache.weight), (1, 5))
