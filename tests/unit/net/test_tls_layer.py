"""Tests of TLS on a transport."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.tls_layer import exporter
from tests.support.wires import Ends


class BindingTests(SynchronousTestCase):
    """RFC 9266: tests of a value that only the two ends of a TLS connection can compute."""

    def test_the_same_on_both_ends(self) -> None:
        """R26: tls-exporter is the same on both ends, different on each connection, and not shown in `repr`."""
        values = []
        for _ in range(2):
            ends = Ends().start_tls()
            assert ends.server.secured is not None
            assert ends.client.secured is not None
            self.assertEqual(ends.server.secured.exporter, ends.client.secured.exporter)
            self.assertEqual(len(ends.server.secured.exporter or b""), 32)
            self.assertNotIn("exporter", repr(ends.server.secured))
            values.append(ends.server.secured.exporter)
        self.assertNotEqual(*values)

    def test_tls_1_2(self) -> None:
        """R26: it is absent below TLS 1.3, where its safety cannot be determined."""
        connection: Any = SimpleNamespace(get_protocol_version_name=lambda: "TLSv1.2")
        self.assertIsNone(exporter(connection))
