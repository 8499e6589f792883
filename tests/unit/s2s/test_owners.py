"""Tests of the owner of a stream of ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.connection import StreamConnection
from s2sgw.s2s.owners import owner_by_name, owner_by_proof
from s2sgw.xmpp.jid import Domain


def connection(address: str, *chain: bytes) -> StreamConnection:
    return cast(StreamConnection, cast(Any, SimpleNamespace(peer_address=address, chain=chain)))


class OwnerTests(SynchronousTestCase):
    """Tests of certificates, sites and registered domains as owners."""

    def test_registered_domain(self) -> None:
        """All names under one registration have one owner."""
        rows = {
            "example.org": "example.org", "a.b.example.org": "example.org", "x.example.co.uk": "example.co.uk",
            "example.co.uk": "example.co.uk", "co.uk": "co.uk", "chat.abc.de": "abc.de", "localhost": "localhost",
            "192.0.2.1": "192.0.2.1", "[2001:db8::1]": "[2001:db8::1]", "x.com.example.org": "example.org",
        }
        self.assertEqual({name: owner_by_name(Domain.parse(name))[1] for name in rows}, rows)

    def test_certificate(self) -> None:
        """A peer proven by a certificate is owned by that certificate, wherever it is shown."""
        first, second = connection("192.0.2.1:5269", b"leaf", b"ca"), connection("198.51.100.1:5269", b"leaf", b"other")
        self.assertEqual(owner_by_proof(first, "EXTERNAL"), owner_by_proof(second, "certificate"))
        self.assertEqual(owner_by_proof(first, "EXTERNAL")[0], "certificate")
        self.assertNotEqual(owner_by_proof(first, "EXTERNAL"), owner_by_proof(connection("192.0.2.1:1", b"new"), "EXTERNAL"))

    def test_dialback(self) -> None:
        """A peer proven by dialback is owned by the site. A certificate shown beside it does not count, so new ones give no advantage."""
        for chain in ((b"self-signed",), ()):
            self.assertEqual(owner_by_proof(connection("192.0.2.1:5269", *chain), "dialback"), ("site", "192.0.2.0/24"))

    def test_site(self) -> None:
        """A site is a /24 or a /48; an IPv4 address written as IPv6 is the IPv4 address."""
        rows = {
            "192.0.2.77:5269": "192.0.2.0/24", "[2001:db8:1:2::3]:5269": "2001:db8:1::/48", "[::ffff:192.0.2.77]:1": "192.0.2.0/24",
            "[fe80::1%eth0]:5269": "fe80::/48", "somewhere:1": "somewhere",
        }
        self.assertEqual({address: owner_by_proof(connection(address), "dialback")[1] for address in rows}, rows)
