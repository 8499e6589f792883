"""Tests of the faults of a certificate that every observer can see."""

from __future__ import annotations

from datetime import datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.trust.presented import faults
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import NOT_AFTER, NOT_BEFORE, Authority, leaf_for

PEER = Domain.parse("peer.example")
NOW = NOT_BEFORE + timedelta(days=1)


class FaultsTests(SynchronousTestCase):
    def found(self, chain: tuple[bytes, ...], at: datetime = NOW, name: str = "peer.example") -> str:
        return "; ".join(faults(chain, Domain.parse(name), at))

    def test_sound(self) -> None:
        """A certificate within its dates and with the name has no fault, whatever its issuer."""
        for chain in (leaf_for("peer.example").der_chain, Authority.root("Nobody's").issue(dns=["peer.example"]).der_chain):
            self.assertEqual("", self.found(chain))

    def test_dates(self) -> None:
        """A certificate that has expired, or is not valid yet, is reported with the date."""
        chain = leaf_for("peer.example").der_chain
        self.assertEqual(f"it expired on {NOT_AFTER:%Y-%m-%d}", self.found(chain, NOT_AFTER + timedelta(seconds=1)))
        self.assertEqual(f"it is not valid before {NOT_BEFORE:%Y-%m-%d}", self.found(chain, NOT_BEFORE - timedelta(seconds=1)))

    def test_name(self) -> None:
        """A certificate with other names does not name the domain. Its names are not repeated."""
        self.assertEqual("it does not name other.example", self.found(leaf_for("peer.example").der_chain, name="other.example"))

    def test_none_and_unreadable(self) -> None:
        """A missing certificate, and bytes that are not one, are reported."""
        self.assertEqual("no certificate was presented", self.found(()))
        self.assertEqual("it cannot be read", self.found((b"\x30\x03\x02\x01\x01",)))

    def test_self_signed(self) -> None:
        """A self-signed certificate is reported with all its other faults."""
        self.assertEqual("it does not name peer.example; it is self-signed", self.found((Authority.root().der,)))
