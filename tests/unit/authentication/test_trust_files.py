"""Tests of anchors and revocation lists in files, which are read again when they change."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication import trust_files
from s2sgw.authentication.trust_files import LOOK_EVERY, TrustFiles, read_revocations
from s2sgw.policy.model import PeerObject
from s2sgw.policy.peers import PeerPolicies
from tests.support.certificates import leaf_for, shared_issuer, shared_root


class TrustFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp())
        self.said: list[str] = []
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.patch(TrustFiles, "log", Logger("trust", observer=lambda event: self.said.append(event["event"])))  # type: ignore[arg-type]

    def later(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Act as another thread: the test decides when the call runs."""
        self.waiting.append((partial(call, *arguments), Deferred()))
        return self.waiting[-1][1]

    def finish(self) -> None:
        """Let the other thread finish."""
        for call, done in self.waiting:
            try:
                done.callback(call())
            except Exception as error:
                done.errback(error)
        self.waiting.clear()

    def test_read_again(self) -> None:
        """A changed file is read again after a few seconds. A missing one is reported, and its last content is kept."""
        files, policy = TrustFiles(self.clock), PeerPolicies({"default": PeerObject(trust_anchors=self.path)}).named("default")
        self.path.write_bytes(shared_root().pem)
        first = files.anchors(policy)
        self.path.write_bytes(shared_root().pem + shared_issuer().pem)
        self.assertIs(first, files.anchors(policy))
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(2, len(files.anchors(policy)))
        self.path.write_bytes(b"half of a file")
        self.clock.advance(LOOK_EVERY)
        self.assertEqual((2, ["file unreadable"]), (len(files.anchors(policy)), self.said))
        self.path.write_bytes(b"")
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(2, len(files.anchors(policy)))
        os.unlink(self.path)
        self.clock.advance(LOOK_EVERY)
        self.assertEqual((2, 3), (len(files.anchors(policy)), len(self.said)))

    def test_no_regular_file(self) -> None:
        """A FIFO or a device in the place of a file is never read: it would keep a thread for ever."""
        files, policy = TrustFiles(self.clock), PeerPolicies({"default": PeerObject(trust_anchors=self.path)}).named("default")
        self.path.write_bytes(shared_root().pem)
        files.anchors(policy)
        self.path.unlink()
        self.path.symlink_to("/dev/null")
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(1, len(files.anchors(policy)))
        self.assertEqual([f"{self.path} cannot be used: is no regular file; its earlier contents stay in use"], files.alerts())

    def test_lists(self) -> None:
        """Revocation lists are read from a directory. There are none if the policy names none."""
        self.path.mkdir()
        (self.path / "one.crl").write_bytes(shared_issuer().crl([leaf_for("a.example").certificate]))
        files = TrustFiles(self.clock)
        self.assertIsNone(files.revocations(None))
        lists = files.revocations(self.path)
        assert lists is not None
        self.assertEqual(1, len(lists))
        self.assertIs(lists, files.revocations(self.path))

    def test_another_thread(self) -> None:
        """A changed list is read in another thread, once. Until then, or if it cannot be read, the old one applies."""
        self.path.write_bytes(shared_issuer().crl())
        files = TrustFiles(self.clock, SimpleNamespace(run=self.later))
        first = files.revocations(self.path)
        self.assertEqual([], self.waiting)
        self.path.write_bytes(shared_issuer().crl() + b"x")
        for _ in range(3):
            self.clock.advance(LOOK_EVERY)
            self.assertIs(first, files.revocations(self.path))
        self.assertEqual(1, len(self.waiting))
        self.finish()
        self.assertEqual((first, ["file unreadable"]), (files.revocations(self.path), self.said))
        self.path.write_bytes(shared_issuer().crl([leaf_for("a.example").certificate]))
        self.clock.advance(LOOK_EVERY)
        files.revocations(self.path)
        self.finish()
        self.assertIsNot(first, files.revocations(self.path))
        os.utime(self.path, (1, 1))
        self.clock.advance(LOOK_EVERY)
        files.revocations(self.path)
        os.unlink(self.path)
        self.finish()
        self.assertEqual(["file unreadable"] * 2, self.said)

    def test_read_without_a_handshake(self) -> None:
        """A changed list is read without a handshake: the first handshake after the change finds the new list."""
        self.path.write_bytes(shared_issuer().crl())
        files = TrustFiles(self.clock, SimpleNamespace(run=self.later))
        first = files.revocations(self.path)
        self.path.write_bytes(shared_issuer().crl([leaf_for("a.example").certificate]))
        files.look()
        self.finish()
        self.assertIsNot(first, files.revocations(self.path))

    def test_told_while_it_lasts(self) -> None:
        """A file that stays unreadable is logged once, and is an alert until it can be read again, also if it is the same then."""
        self.path.write_bytes(shared_issuer().crl())
        files = TrustFiles(self.clock)
        files.revocations(self.path)
        self.path.rename(f"{self.path}.moved")
        for _ in range(5):
            files.look()
        self.assertEqual(["file unreadable"], self.said)
        (alert,) = files.alerts()
        self.assertIn("No such file or directory; its earlier contents stay in use", alert)
        Path(f"{self.path}.moved").rename(self.path)
        files.look()
        self.assertEqual([], files.alerts())

    def test_no_permission(self) -> None:
        """A changed file that cannot be read is read as soon as it can be, though nothing but its mode has changed meanwhile."""
        self.path.write_bytes(shared_issuer().crl())
        files = TrustFiles(self.clock, SimpleNamespace(run=self.later))
        first = files.revocations(self.path)
        self.path.write_bytes(shared_issuer().crl([leaf_for("a.example").certificate]))
        for _ in range(3):
            files.look()
            with mock.patch.object(trust_files, "read_regular", side_effect=PermissionError(13, "Permission denied")):
                self.finish()
        self.assertEqual((first, ["file unreadable"], 1), (files.revocations(self.path), self.said, len(files.alerts())))
        files.look()
        self.finish()
        self.assertIsNot(first, files.revocations(self.path))
        self.assertEqual([], files.alerts())

    def test_named_no_more(self) -> None:
        """A file that a reload names no more is not looked at, so its removal is no fault."""
        self.path.write_bytes(shared_issuer().crl())
        files = TrustFiles(self.clock, SimpleNamespace(run=self.later))
        files.revocations(self.path)
        os.utime(self.path, (1, 1))
        files.look()
        files.adopt((), {})
        os.unlink(self.path)
        self.finish()
        files.look()
        self.assertEqual(([], []), (self.said, files.alerts()))

    def test_adopted(self) -> None:
        """The lists that a reload has read apply at once. An older read that ends later does not replace them."""
        self.path.write_bytes(shared_issuer().crl())
        files = TrustFiles(self.clock, SimpleNamespace(run=self.later))
        files.revocations(self.path)
        os.utime(self.path, (1, 1))
        self.clock.advance(LOOK_EVERY)
        files.revocations(self.path)
        read = read_revocations(self.path)
        files.adopt((), {self.path: read})
        self.assertIs(read.value, files.revocations(self.path))
        self.finish()
        self.assertIs(read.value, files.revocations(self.path))
