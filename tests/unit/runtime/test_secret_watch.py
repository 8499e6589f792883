"""Tests of the files of secrets while the gateway runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from s2sgw.config import parse
from s2sgw.config.secret_file import read_secret
from s2sgw.net.threads import AtOnce
from s2sgw.policy.model import PeerObject
from s2sgw.runtime import secret_watch
from s2sgw.runtime.secret_watch import NAMED, SecretWatch
from tests.support.secret_files import SecretTestCase


class SecretWatchTests(SecretTestCase):
    """Tests with a file that two peers share."""

    def setUp(self) -> None:
        super().setUp()
        peers = "".join(f'[peers."{name}"]\nsecret_file = "{self.path.name}"\n' for name in ("a.example", "b.example"))
        file = self.path.absolute().parent / "s2sgw.toml"
        (file.parent / "certs").mkdir()
        self.running: Any = SimpleNamespace(config=parse(f'[gateway]\ndomains = ["example.org"]\n{peers}', file))
        self.watch = SecretWatch(self.running, AtOnce())

    def look(self) -> list[str]:
        """Look; return the events that were logged."""
        with capturedLogs() as events:
            self.successResultOf(Deferred.fromCoroutine(self.watch.look()))
        return [event["event"] for event in events if "event" in event]

    def test_mode(self) -> None:
        """A file that others can read by now is logged once, and is an alert until its mode is right again."""
        self.assertEqual(([], []), (self.look(), self.watch.alerts()))
        self.path.chmod(0o644)
        self.assertEqual(["secret unusable"], self.look())
        self.assertEqual([], self.look())
        (alert,) = self.watch.alerts()
        self.assertIn("its mode must be 0600", alert)
        self.path.chmod(0o600)
        self.assertEqual(([], []), (self.look(), self.watch.alerts()))

    def test_gone(self) -> None:
        """A file that is gone is told too; with another fault it is told again."""
        self.path.unlink()
        self.assertEqual(["secret unusable"], self.look())
        self.assertIn("cannot be read: No such file", self.watch.alerts()[0])
        self.path.write_bytes(b"")
        self.assertEqual(["secret unusable"], self.look())

    def test_unchanged(self) -> None:
        """A file is not read again while it is the same: to read those of 100,000 peers takes seconds."""
        reading = mock.Mock(side_effect=read_secret)
        with mock.patch.object(secret_watch, "read_secret", reading):
            for data in (b"correct horse", b"correct horse", b"", b"", b"battery staple"):
                if data != self.path.read_bytes():
                    self.path.write_bytes(data)
                self.look()
        self.assertEqual((3, []), (reading.call_count, self.watch.alerts()))

    def test_very_many(self) -> None:
        """If very many files cannot be used, a few are named, and the others are counted."""
        files = [self.path.with_name(f"{number}.secret") for number in range(NAMED + 2)]
        peers = {f"{file.name}.example": PeerObject(secret_file=file) for file in files}
        self.running.config = self.running.config.model_copy(update={"peers": peers})
        self.assertEqual(["secret unusable"] * NAMED + ["secrets unusable"], self.look())
        alerts = self.watch.alerts()
        self.assertEqual((NAMED + 1, "2 more files with secrets cannot be used at the next start"), (len(alerts), alerts[-1]))
        self.assertEqual([], self.look())

    def test_reloaded_meanwhile(self) -> None:
        """A fault of a configuration that a reload has replaced meanwhile is not told."""
        self.path.unlink()
        reading: Deferred[Any] = Deferred()
        watch = SecretWatch(self.running, SimpleNamespace(run=lambda call, *given: reading.addCallback(lambda _: call(*given))))
        looking = Deferred.fromCoroutine(watch.look())
        self.running.config = None
        reading.callback(None)
        self.successResultOf(looking)
        self.assertEqual([], watch.alerts())
