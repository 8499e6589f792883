"""Tests of the owner of a stream of ours."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s.owners import owner_by_name
from s2sgw.xmpp.jid import Domain


class OwnerTests(SynchronousTestCase):
    """Tests of registered domains as owners."""

    def test_registered_domain(self) -> None:
        """All names under one registration have one owner."""
        rows = {
            "example.org": "example.org", "a.b.example.org": "example.org", "x.example.co.uk": "example.co.uk",
            "example.co.uk": "example.co.uk", "co.uk": "co.uk", "chat.abc.de": "abc.de", "localhost": "localhost",
            "192.0.2.1": "192.0.2.1", "[2001:db8::1]": "[2001:db8::1]", "x.com.example.org": "example.org",
        }
        self.assertEqual({name: owner_by_name(Domain.parse(name))[1] for name in rows}, rows)
