"""Tests of the registered domain of a name."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.registered_domain import registered_domain


class RegisteredDomainTests(SynchronousTestCase):
    def test_names(self) -> None:
        """It is one label longer than its public suffix. A public suffix and an address are whole.

        A name that only ends as an address does is a name: otherwise each sub-domain of such a name would have a share of its own.
        """
        for name, registered in (
            ("example.org", "example.org"), ("a.b.example.org", "example.org"), ("org", "org"), ("a.b.co.uk", "b.co.uk"),
            ("co.uk", "co.uk"), ("a.kit.edu", "kit.edu"), ("a.gmx.de", "gmx.de"), ("a.co.example", "co.example"), ("", ""),
            ("a.web.de", "web.de"), ("a.id.nl", "id.nl"), ("a.b.com.de", "b.com.de"), ("a.b.com.pl", "b.com.pl"), ("a.me.uk", "a.me.uk"),
            ("a.mine.duckdns.org", "mine.duckdns.org"), ("duckdns.org", "duckdns.org"), ("a.b.c.kawasaki.jp", "b.c.kawasaki.jp"),
            ("a.city.kawasaki.jp", "city.kawasaki.jp"), ("localhost", "localhost"), ("a.b.xn--55qx5d.cn", "b.xn--55qx5d.cn"),
            ("192.0.2.1", "192.0.2.1"), ("198.51.2.1", "198.51.2.1"), ("[2001:db8::1]", "[2001:db8::1]"), ("[::ffff:192.0.2.1]",) * 2,
            ("a.b.5", "b.5"), ("a.192.0.2.1", "2.1"), ("192.0.2.256", "2.256"),
        ):
            self.assertEqual(registered_domain(name), registered)
