"""Tests of the two roots of exceptions."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.errors import LocalFault, RemoteFault, StreamCondition


class FaultTests(SynchronousTestCase):
    """Tests of the two roots of exceptions."""

    def test_remote(self) -> None:
        """A remote fault has its answer to the other side. A local fault is a different type."""
        fault = RemoteFault(StreamCondition.BAD_FORMAT, "text between elements")
        self.assertEqual((StreamCondition.BAD_FORMAT, "text between elements"), (fault.condition, fault.text))
        self.assertEqual("bad-format: text between elements", str(fault))
        self.assertNotIsInstance(LocalFault(), RemoteFault)
