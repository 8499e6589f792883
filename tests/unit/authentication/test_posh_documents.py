"""Tests of POSH documents: the time of a result, redirects, joined fetches, and the shares of strangers."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.posh_documents import POSHDocuments
from s2sgw.net.https import Busy, Fetched, Unfetched
from s2sgw.net.requester import Requester
from s2sgw.xmpp.jid import Domain


class DocumentsTests(SynchronousTestCase):
    """R23: tests of POSH documents."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.documents = POSHDocuments(self.clock, self.fetch)

    def fetch(self, url: str, requester: Requester) -> Any:
        self.asked.append(url)
        answer = self.answers.get(url)
        if answer is None:
            return fail(Unfetched("nothing there"))
        return answer if isinstance(answer, Deferred) else succeed(answer)

    def page(self, host: str, document: dict[str, Any] | None = None, status: int = 200, location: str | None = None) -> None:
        url = host if "/" in host else f"https://{host}/.well-known/posh/xmpp-server.json"
        self.answers[url] = Fetched(status, location, json.dumps(document).encode())

    def found(self, name: str = "a.example") -> Any:
        return self.successResultOf(self.documents.lookup(Domain.parse(name)))

    def test_kept(self) -> None:
        """A document is kept until it expires, and a failure for a minute."""
        good = {"fingerprints": [{"sha-256": b64encode(b"\0" * 32).decode()}], "expires": 90}
        self.page("a.example", good)
        self.assertEqual(({"sha-256": b"\0" * 32},), self.found().fingerprints)
        self.clock.advance(89)
        self.found()
        self.assertEqual(1, len(self.asked))
        self.clock.advance(1)
        self.page("a.example", good, 500)
        self.assertIn("status 500", self.found().failure)
        self.clock.advance(59)
        self.found()
        self.assertEqual(2, len(self.asked))

    def test_redirects(self) -> None:
        """R23: one redirect is followed, of either kind. The lifetime of its document limits that of the result."""
        document = {"fingerprints": [{"sha-256": b64encode(b"\0" * 32).decode()}], "expires": 9000}
        self.page("https://b.example/x", document)
        self.page("https://b.example/y", {"url": "https://b.example/x", "expires": 5})
        self.page("https://b.example/z", document, 302, "https://b.example/x")
        self.page("a.example", {"url": "https://b.example/x", "expires": 50})
        self.assertEqual(timedelta(seconds=50).total_seconds(), self.found().expires.timestamp())
        self.page("c.example", status=301, location="https://b.example/x")
        self.assertEqual("", self.found("c.example").failure)
        for name, status, location in (("d.example", 301, "https://b.example/y"), ("e.example", 307, "https://b.example/z")):
            self.page(name, status=status, location=location)
            self.assertTrue(self.found(name).failure, name)
        self.page("f.example", {"url": "https://b.example/y", "expires": 50})
        self.assertIn("redirected twice", self.found("f.example").failure)
        self.page("g.example", status=301, location="http://b.example/x")
        self.assertIn("https", self.found("g.example").failure)

    def silent(self, name: str) -> Deferred[Fetched]:
        """Return a web server that does not answer."""
        waiting: Deferred[Fetched] = Deferred()
        self.answers[f"https://{name}/.well-known/posh/xmpp-server.json"] = waiting
        return waiting

    def test_joined(self) -> None:
        """Simultaneous callers share one fetch and may cancel. When all have cancelled it ends. The number of results is bounded."""
        waiting = self.silent("a.example")
        one, two = (self.documents.lookup(Domain.parse("a.example")) for _ in range(2))
        one.addErrback(lambda _: None).cancel()
        waiting.errback(ValueError("of ours"))
        self.assertIn("ValueError: of ours", self.successResultOf(two).failure)
        ended: list[object] = []
        self.answers["https://b.example/.well-known/posh/xmpp-server.json"] = Deferred(ended.append)
        kept = len(self.documents)
        self.documents.lookup(Domain.parse("b.example")).addErrback(lambda _: None).cancel()
        self.assertEqual((1, 0, kept), (len(ended), self.documents.slots.in_flight, len(self.documents)))
        self.documents._kept.limit = 2
        for name in "cdef":
            self.found(f"{name}.example")
        self.assertEqual(2, len(self.documents))


    def test_strangers(self) -> None:
        """Seven strangers a second with silent servers block no other: a new peer waits for a moment, a known one not at all."""
        self.page("fresh.example", {"fingerprints": [{"sha-256": b64encode(b"x" * 32).decode()}], "expires": 90})
        self.page("friend.example", {"fingerprints": [{"sha-256": b64encode(b"x" * 32).decode()}], "expires": 90})
        for number in range(70):
            self.silent(f"s{number}.example")
            asker = Requester.stranger(f"10.0.{number}.1")
            self.documents.lookup(Domain.parse(f"s{number}.example"), asker).addErrback(lambda _: None)
            self.clock.advance(1 / 7)
        fresh = self.documents.lookup(Domain.parse("fresh.example"), Requester.stranger("192.0.2.1"))
        self.assertEqual("", self.successResultOf(self.documents.lookup(Domain.parse("friend.example"))).failure)
        for _ in range(10):
            self.clock.advance(0.05)
        self.assertEqual("", self.successResultOf(fresh).failure)

    def test_strangers_with_many_names(self) -> None:
        """The results of strangers' claims remove each other, and not that of a known peer."""
        self.documents._kept.limit = 5
        self.found("friend.example")
        for number in range(20):
            asker = Requester.stranger(f"10.0.{number}.1")
            self.successResultOf(self.documents.lookup(Domain.parse(f"s{number}.example"), asker))
        before = len(self.asked)
        self.found("friend.example")
        self.found("s19.example")
        self.assertEqual((before, 5), (len(self.asked), len(self.documents)))

    def test_one_address(self) -> None:
        """One address may have two fetches at a time. A refusal for that reason, or for the rate, is not kept for the domain."""
        for number in range(200):
            self.silent(f"s{number}.example")
            asking = self.documents.lookup(Domain.parse(f"s{number}.example"), Requester.stranger("10.0.0.1"))
        self.assertEqual(2, self.documents.slots.in_flight)
        self.assertIn("too many", self.successResultOf(asking).failure)
        self.assertEqual(0, len(self.documents))
        self.page("s199.example", status=404)
        self.assertIn("404", self.found("s199.example").failure)

    def test_busy(self) -> None:
        """A failure of our own resolver is not kept either."""
        waiting = self.silent("a.example")
        asking = self.documents.lookup(Domain.parse("a.example"))
        waiting.errback(Busy("too many look-ups at once"))
        self.assertIn("too many look-ups", self.successResultOf(asking).failure)
        self.assertEqual(0, len(self.documents))
