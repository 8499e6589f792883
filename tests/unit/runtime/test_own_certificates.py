"""Tests of our own certificates: renewed files are loaded, bad ones change nothing, and expiry is reported in time."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.certificates import CertificateDirectory, read
from s2sgw.net.threads import AtOnce
from s2sgw.runtime.own_certificates import NAMED_AT_START, OwnCertificates, ends_in, files_of
from s2sgw.trust.anchors import Anchors
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, Issued, self_signed, shared_issuer, shared_root

HERE = Domain.parse("example.org")


def issued(days: float, *names: str) -> Issued:
    return shared_issuer().issue(dns=names or ["example.org"], not_after=AT + timedelta(days=days))


class OwnCertificateTests(SynchronousTestCase):
    """Tests of a folder whose files the test replaces."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.clock = Clock()
        self.clock.advance(AT.timestamp())
        self.changes = 0
        self.put("example.org", issued(90))
        self.holder: Any = SimpleNamespace(
            certificates=CertificateDirectory(self.folder, lambda: AT), special_certificates={}, domains=[HERE],
            anchors=lambda: Anchors([shared_root().certificate]),
        )
        self.notes: list[Any] = []
        audit: Any = SimpleNamespace(note_or_log=lambda action, **facts: self.notes.append((action, facts)))
        self.own = OwnCertificates(self.holder, AtOnce(), self.clock, audit)
        self.events: list[dict[str, Any]] = []
        observer = cast(ILogObserver, self._log)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _log(self, event: dict[str, Any]) -> None:
        if str(event.get("event", "")).startswith("certificate"):
            self.events.append(event)

    @property
    def told(self) -> list[str]:
        return [event["event"] for event in self.events]

    def put(self, name: str, made: Issued, key: bytes | None = None) -> None:
        """Write a pair, each time with a new modification time."""
        self.changes += 1
        for suffix, content in ((".crt", made.pem_chain), (".key", made.key_pem if key is None else key)):
            path = self.folder / f"{name}{suffix}"
            path.write_bytes(content)
            path.chmod(0o600)
            os.utime(path, (self.changes, self.changes))

    def test_start(self) -> None:
        """The first lines of the log name the certificates in use, the first to expire first, and the number of further ones."""
        self.own.tell_used()
        (event,) = self.events
        end = f"{AT + timedelta(days=90):%Y-%m-%d %H:%M} UTC"
        self.assertEqual(("certificates", [f"example.org until {end}"]), (event["event"], event["certificates"]))
        for number in range(NAMED_AT_START):
            self.put(f"n{number}.example", issued(30 + number, f"n{number}.example"))
        self.holder.certificates = CertificateDirectory(self.folder, lambda: AT)
        self.own.tell_used()
        *named, others = self.events[-1]["certificates"]
        self.assertEqual((NAMED_AT_START, "and 1 more"), (len(named), others))
        self.assertTrue(named[0].startswith("n0.example until "))

    def remove_all(self) -> None:
        for path in list(self.folder.iterdir()):
            path.unlink()

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.successResultOf(Deferred.fromCoroutine(self.own.look()))

    def ends(self) -> int:
        """Return the days until the certificate in use expires."""
        found: Any = self.holder.certificates.for_domain(HERE)
        return int((found.not_after - AT).days)

    def test_renewed(self) -> None:
        """A renewed certificate is used once its files no longer change. The log and the audit log have one entry."""
        self.put("example.org", issued(180))
        self.look()
        self.assertEqual(90, self.ends())  # it may still be incomplete
        self.look()
        self.assertEqual((180, ["certificates loaded"], 1), (self.ends(), self.told, len(self.notes)))
        self.look(3)
        self.assertEqual(["certificates loaded"], self.told)

    def test_still_changing(self) -> None:
        """Files that change at every check are not read."""
        for days in (100, 110, 120):
            self.put("example.org", issued(days))
            self.look()
        self.assertEqual(90, self.ends())
        self.look()
        self.assertEqual(120, self.ends())

    def test_bad_files(self) -> None:
        """With a key of another certificate, a certificate without our domain, or no files, nothing changes, and the error is reported once."""
        for spoil in (
            lambda: self.put("example.org", issued(180), issued(30).key_pem),
            lambda: self.put("example.org", issued(180, "other.example")),
            self.remove_all,
        ):
            self.events.clear()
            spoil()
            self.look(4)
            self.assertEqual((90, ["certificates not loaded"]), (self.ends(), self.told))
            self.assertTrue(any("not in use" in alert for alert in self.own.alerts()))
        self.put("example.org", issued(180))
        self.look(2)
        self.assertEqual((180, []), (self.ends(), self.own.alerts()))

    def test_rights(self) -> None:
        """A key that others can read by now is told as one that a start would refuse, until its mode is right again."""
        key = self.folder / "example.org.key"
        key.chmod(0o644)
        self.look(2)
        self.assertEqual((90, ["certificates not loaded"]), (self.ends(), self.told))
        (alert,) = self.own.alerts()
        self.assertIn("is readable or writable by other users", alert)
        key.chmod(0o600)
        self.look(2)
        self.assertEqual([], self.own.alerts())

    def test_touched(self) -> None:
        """Files with unchanged content, or already read by a reload, are not reported."""
        self.put("example.org", issued(180))
        self.holder.certificates.adopt(CertificateDirectory(self.folder, lambda: AT))
        self.look(2)
        self.assertEqual([], self.told)

    def test_another_folder(self) -> None:
        """A reload with another folder, while this one is being read, takes precedence."""
        self.put("example.org", issued(180))
        self.look()
        reading: Deferred[Any] = Deferred()
        self.own._threads = SimpleNamespace(run=lambda *call: reading)
        looking = Deferred.fromCoroutine(self.own.look())
        self.holder.certificates.path = self.folder / "elsewhere"
        reading.callback((CertificateDirectory(self.folder, lambda: AT), {}, []))
        self.successResultOf(looking)
        self.assertEqual((90, []), (self.ends(), self.told))

    def test_special(self) -> None:
        """The certificate of one peer's section is checked as well."""
        self.put("special", issued(50))
        path = self.folder / "special"
        self.holder.special_certificates[path] = read("special", path.with_suffix(".crt"), path.with_suffix(".key"))
        self.put("special", issued(300))
        self.look(2)
        self.assertEqual((300, []), ((self.holder.special_certificates[path].not_after - AT).days, self.own.alerts()))
        self.put("special", issued(5))
        self.look(2)
        self.assertEqual(["the certificate special (for peers that name it) ends in 5 days: renew it"], self.own.alerts())

    def test_endings(self) -> None:
        """A certificate is reported once each 21, 7, 3 and 1 days before its expiry, and at its expiry."""
        days: list[int] = []
        for day in range(100):
            self.events.clear()
            self.look(2)
            days += [90 - day] * len(self.events)
            self.clock.advance(86400)
        self.assertEqual([21, 7, 3, 1, 0], days)
        self.assertIn("has expired: renew it", self.own.alerts()[0])
        self.put("example.org", issued(200))
        self.look(2)
        self.assertEqual([], self.own.alerts())

    def test_at_the_start(self) -> None:
        """A certificate that expires soon at the start is reported once."""
        self.clock.advance(88.5 * 86400)
        self.own.tell_endings()
        self.own.tell_endings()
        self.assertEqual(["certificate ends"], self.told)
        self.assertEqual("ends in 1 day", self.events[0]["detail"])

    def test_chain(self) -> None:
        """A chain without its intermediate, and a self-signed certificate, are alerts, and are logged when they are loaded."""
        self.put("example.org", self_signed(dns=["example.org"]))
        self.look(2)
        self.assertEqual(["certificates loaded", "certificate warning"], self.told)
        self.assertEqual(["the certificate example.org: is self-signed; most peers will refuse it"], self.own.alerts())

    def test_words(self) -> None:
        """The expiry of a certificate is written as text."""
        self.assertEqual(
            ["has expired", "ends within a day", "ends in 1 day", "ends in 7 days"], [ends_in(days) for days in (-1, 0, 1, 7)],
        )

    def test_no_folder(self) -> None:
        """A missing folder has no files."""
        self.assertEqual([], files_of(self.folder / "missing"))
