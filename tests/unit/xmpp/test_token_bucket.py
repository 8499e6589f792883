"""Tests of token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.token_bucket import BURST, DEBT, TokenBucket


class BucketTests(SynchronousTestCase):
    """Tests of a bucket with one rate."""

    def test_burst(self) -> None:
        """The burst is the amount of two seconds, and no more after any rest."""
        bucket = TokenBucket(10, 0.0)
        bucket.spend(20, 1000.0)
        self.assertEqual(0.0, bucket.debt(1000.0))
        bucket.spend(5, 1000.0)
        self.assertEqual(0.5, bucket.debt(1000.0))
        self.assertEqual(0.25, bucket.debt(1000.25))
        self.assertEqual(0.0, bucket.debt(1001.0))

    def test_debt_is_bounded(self) -> None:
        """The debt for a single stanza larger than a minute's rate is one minute."""
        bucket = TokenBucket(10, 0.0)
        bucket.spend(1_000_000, 0.0)
        self.assertEqual(DEBT, bucket.debt(0.0))

    def test_has(self) -> None:
        """`has` is true for an available amount. A full bucket permits any amount once."""
        bucket = TokenBucket(10, 0.0)
        self.assertTrue(bucket.has(1000, 0.0))
        bucket.spend(1, 0.0)
        self.assertFalse(bucket.has(1000, 0.0))
        self.assertTrue(bucket.has(19, 0.0))

    @given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 50)), max_size=60))
    def test_never_above_the_rate(self, steps: list[tuple[float, int]]) -> None:
        """If each debt is waited for, the amount over any time is at most the rate, the burst and one last amount."""
        bucket, now, spent = TokenBucket(10, 0.0), 0.0, 0
        for rest, amount in steps:
            now += rest + bucket.debt(now)
            self.assertLessEqual(spent, 10 * (now + BURST) + 1e-6)
            bucket.spend(amount, now)
            spent += amount

    def test_take(self) -> None:
        """Single tokens are taken while there are any. A refused take costs nothing. Any burst is possible."""
        bucket = TokenBucket(0.5, 0.0, burst=3)
        self.assertEqual([bucket.take(0.0) for _ in range(5)], [True, True, True, False, False])
        self.assertEqual((bucket.take(1.9), bucket.take(2.0), bucket.take(2.0)), (False, True, False))
        self.assertEqual([bucket.take(1000.0) for _ in range(4)], [True, True, True, False])
