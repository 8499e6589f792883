"""The two roots of exceptions."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.errors import LocalFault, RemoteFault, StreamCondition


class FaultTests(SynchronousTestCase):
    """The two roots of exceptions."""

    def test_remote(self) -> None:
        """The other side's mistake carries its answer; ours is another kind of thing."""
        fault = RemoteFault(StreamCondition.BAD_FORMAT, "text between elements")
        self.assertEqual((StreamCondition.BAD_FORMAT, "text between elements"), (fault.condition, fault.text))
        self.assertEqual("bad-format: text between elements", str(fault))
        self.assertNotIsInstance(LocalFault(), RemoteFault)
