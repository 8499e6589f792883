"""Tests of base64 in its one canonical spelling."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.sasl.canonical_base64 import decode, encode


class CanonicalTests(SynchronousTestCase):
    """There is one text for each sequence of bytes."""

    @given(st.binary(max_size=40))
    def test_back_and_forth(self, data: bytes) -> None:
        """Encoded bytes are decoded to the same bytes."""
        self.assertEqual(data, decode(encode(data)))

    def test_not_canonical(self) -> None:
        """White space, another alphabet, wrong padding, leftover bits and another script are refused."""
        for text in ("YQ", "YQ=", "YQ== ", "Y Q==", "YR==", "YQ===", "-_-_", "YQ==YQ==", "=", "é", "YWJj\n"):
            self.assertIsNone(decode(text), text)
