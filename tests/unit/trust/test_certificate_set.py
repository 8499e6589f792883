"""Tests of the verdicts on the generated set of certificates (R17–R19, R21)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust import validate_peer
from s2sgw.trust.path import Anchors
from tests.support.certificate_set import Row, rows
from tests.support.certificates import AT, shared_root

SMALLEST = 150


class CertificateSetTests(SynchronousTestCase):
    anchors = Anchors([shared_root().certificate])

    def verdict(self, row: Row) -> str:
        """Return the row's name with its result: the causes, or that the domain is proven."""
        attempt = validate_peer(row.make().der_chain, self.anchors, row.domain, AT)
        self.assertEqual(attempt.proven, not attempt.causes, row.name)
        self.assertTrue(attempt.reasons, row.name)
        return told(row.name, attempt.causes)

    def test_verdicts(self):
        """R17, R18, R19, R21: each certificate of the set gets exactly the causes that the rules require."""
        expected = [told(row.name, row.causes) for row in rows()]
        self.assertEqual(expected, [self.verdict(row) for row in rows()])

    def test_the_set(self):
        """The set has its full size and unique names, with refusals for every cause and proofs."""
        names = [row.name for row in rows()]
        self.assertGreaterEqual(len(names), SMALLEST)
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(8, len({cause for row in rows() for cause in row.causes}))
        self.assertGreater(sum(not row.causes for row in rows()), SMALLEST // 3)


def told(name: str, causes: tuple[str, ...]) -> str:
    return f"{name}: {', '.join(causes) or 'proven'}"
