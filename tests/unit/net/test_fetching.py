"""Tests of fetches by HTTPS: the permitted addresses and the trust anchors."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import dns.rdata
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.dns_answer import Answer, Status
from s2sgw.net.fetching import AnchorRoots, permitted_addresses
from s2sgw.net.https import Busy, Unfetched
from s2sgw.net.requester import Requester
from s2sgw.trust.anchors import Anchors
from tests.support.certificates import shared_root


class FetchingTests(SynchronousTestCase):
    """Tests of the addresses from which a document may be fetched."""

    def resolve(self, host: str, private: bool, *answers: tuple[Status, tuple[str, ...]]) -> Any:
        class Resolver:
            def query(self, name: str, kind: str, requester: Requester | None) -> Any:
                status, found = dict(zip(("A", "AAAA"), answers, strict=True))[kind]
                records = tuple(dns.rdata.from_text("IN", kind, text) for text in found)
                return succeed(Answer(None, None, status, records, reason="SERVFAIL" if status is Status.FAILED else ""))  # type: ignore[arg-type]
        return Deferred.fromCoroutine(permitted_addresses(Resolver(), private, host))  # type: ignore[arg-type]

    def test_addresses(self) -> None:
        """Public addresses are permitted, or any if the configuration allows it. Failures are told apart from absence."""
        none, found = (Status.NO_DATA, ()), (Status.FOUND, ("9.9.9.9",))
        inside = (Status.FOUND, ("127.0.0.1",))
        self.assertEqual(["9.9.9.9"], self.successResultOf(self.resolve("a.example", False, found, none)))
        self.assertEqual(["127.0.0.1"], self.successResultOf(self.resolve("a.example", True, inside, none)))
        self.assertEqual(["9.9.9.9"], self.successResultOf(self.resolve("9.9.9.9", False)))
        both = self.resolve("a.example", False, (Status.FOUND, ("9.9.9.9", "8.8.8.8")), (Status.FOUND, ("2a00::1",)))
        self.assertEqual(["9.9.9.9", "2a00::1", "8.8.8.8"], self.successResultOf(both))
        self.failureResultOf(self.resolve("a.example", False, (Status.BUSY, ()), none), Busy)
        for answers, words in (
            ((inside, none), "not public"), ((none, none), "no address"), (((Status.FAILED, ()), none), "SERVFAIL"),
        ):
            self.assertIn(words, str(self.failureResultOf(self.resolve("a.example", False, *answers), Unfetched).value))

    def test_cancelled(self) -> None:
        """A cancelled look-up leaves no unhandled errors."""
        asked: list[Deferred[Answer]] = [Deferred(), Deferred()]
        resolver = Mock(query=Mock(side_effect=list(asked)))
        found = Deferred.fromCoroutine(permitted_addresses(resolver, False, "a.example"))
        found.cancel()
        self.failureResultOf(found)
        del asked[:], resolver, found
        gc.collect()
        self.assertEqual([], self.flushLoggedErrors())

    def test_trust_root(self) -> None:
        """The anchors are converted to OpenSSL's form only when they change."""
        anchors = [Anchors([shared_root().certificate])]
        roots = AnchorRoots(SimpleNamespace(anchors=lambda: anchors[-1]))
        first = roots.current()
        self.assertIs(first, roots.current())
        anchors.append(Anchors([shared_root().certificate]))
        self.assertIsNot(first, roots.current())
