"""The adapter between transport and engine."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.stream.events import JudgementNeeded
from s2sgw.xmpp.ending import Cause
from tests.certificates import leaf_for
from tests.wires import Ends


class HandshakeTests(SynchronousTestCase):
    """STARTTLS between two adapters."""

    def test_both_sides_are_secured(self) -> None:
        """R12: after STARTTLS each engine hears that TLS is established, and each side has the other's whole chain, leaf first."""
        ends = Ends().start_tls()
        for owner, engine in ((ends.server_owner, ends.server_engine), (ends.client_owner, ends.client_engine)):
            self.assertEqual(engine.log, ["tls"])
            self.assertIsInstance(owner.events[0], JudgementNeeded)
        self.assertEqual(ends.server.chain, leaf_for("peer.example").der_chain)
        self.assertEqual(ends.client.chain, leaf_for("example.org").der_chain)
        self.assertEqual(ends.server.tls_version, "TLSv1.3")

    def test_closing_in_order(self) -> None:
        """R16: a closing line is answered, then both transports close and each owner hears of one end."""
        ends = Ends().start_tls()
        ends.client.write(b"hello\nBYE\n")
        ends.pump.flush()
        self.assertEqual([e.cause for e in ends.server_owner.endings], [Cause.CLOSED])
        self.assertEqual(ends.client_engine.fed, [b"PROCEED\n", b"CLOSE\n"])
        self.assertTrue(ends.client_wire.disconnected)
