"""The file of the domains of which the spool may have stanzas."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime import domain_file
from s2sgw.runtime.domain_file import FILE, DomainFile
from s2sgw.xmpp.jid import Domain


class DomainFileTests(SynchronousTestCase):
    """The file itself."""

    def test_damaged(self) -> None:
        """A file that cannot be parsed is set aside, and logged."""
        for content in (b"{", b'{"a": 1}', b"[1]", b'["a b"]'):
            state = Path(self.mktemp())
            state.mkdir()
            (state / FILE).write_bytes(content)
            with capturedLogs() as logged:
                self.assertEqual(frozenset(), DomainFile(state).domains)
            self.assertEqual((1, [f"{FILE}.damaged-1"]), (len(logged), [path.name for path in state.iterdir()]))

    def test_round_trip(self) -> None:
        """Written domains are read again. The same domains are not written twice."""
        state = Path(self.mktemp())
        state.mkdir()
        file, domains = DomainFile(state), {Domain.parse("bücher.example"), Domain.parse("example.org")}
        file.write(domains)
        self.assertEqual(domains, DomainFile(state).domains)
        self.patch(domain_file, "write_atomically", Mock(side_effect=AssertionError))
        file.write(domains)
