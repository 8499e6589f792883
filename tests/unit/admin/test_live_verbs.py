"""Tests of `probe` and `check live` over the admin socket: arguments, answers and limits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.live_verbs import AT_ONCE, BURST, EACH_SECONDS, LiveVerbs
from s2sgw.admin.server import VerbError
from s2sgw.runtime.live_check import LiveFact
from s2sgw.runtime.probe_report import ProbeReport
from s2sgw.xmpp.jid import Domain

HERE, ROOMS = Domain.parse("here.example"), Domain.parse("rooms.here.example")


class Runs:
    """Replaces each probe and each check."""

    def __init__(self) -> None:
        self.results: list[Deferred[Any]] = []

    def run(self, inbound: bool = False) -> Deferred[Any]:
        self.results.append(Deferred())
        return self.results[-1]


class LiveVerbTests(SynchronousTestCase):
    """Tests of the verbs over probes that the test ends."""

    def setUp(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.runs: Any = Runs()
        self.results = self.runs.results
        self.clock = Clock()
        self.live = LiveVerbs(self.probe, lambda: self.runs, SimpleNamespace(domains=[HERE, ROOMS]), self.clock.seconds)

    def probe(self, local: Domain, peer: Domain) -> Any:
        self.asked.append((local.text, peer.text))
        return self.runs

    def ask(self, verb: str, **arguments: object) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.live.verbs()[verb](arguments))

    def test_probe(self) -> None:
        """The probe is made for the first local domain unless another is named. The report is the one of the command."""
        asked = self.ask("probe", domain="Peer.example")
        self.results[0].callback(ProbeReport("peer.example", "here.example", federates=True))
        self.assertEqual("federates", self.successResultOf(asked)["verdict"])
        self.ask("probe", domain="peer.example", local="rooms.here.example", inbound=True)
        self.assertEqual([("here.example", "peer.example"), ("rooms.here.example", "peer.example")], self.asked)

    def test_bad_arguments(self) -> None:
        """A missing domain, a domain that is not local, and an `inbound` that is not a boolean are refused."""
        for arguments in ({}, {"domain": "peer.example", "local": "other.example"}, {"domain": "peer.example", "inbound": 1}):
            self.failureResultOf(self.ask("probe", **arguments), VerbError)
        self.assertEqual([], self.asked)

    def test_check(self) -> None:
        """The answer has the facts, and whether none has failed."""
        for ok, wanted in ((True, True), (None, True), (False, False)):
            asked = self.ask("check live")
            self.results[-1].callback([LiveFact("clock", "system", ok, "seen", "remedy")])
            self.assertEqual(wanted, self.successResultOf(asked)["ok"])

    def test_bounded(self) -> None:
        """The number of simultaneous probes is limited. One that has ended or was cancelled makes room."""
        waiting = [self.ask("check live") for _ in range(AT_ONCE)]
        self.failureResultOf(self.ask("probe", domain="peer.example"), VerbError)
        self.results[0].callback([])
        waiting[1].cancel()
        self.failureResultOf(waiting[1])
        for _ in range(2):
            self.assertNoResult(self.ask("check live"))
        self.failureResultOf(self.ask("check live"), VerbError)

    def test_rate(self) -> None:
        """Probes are limited to a burst and then a rate, so that the gateway cannot be used to scan. A refused one does not count."""
        def begin() -> bool:
            asked = self.ask("check live")
            if self.results and not self.results[-1].called:
                self.results[-1].callback([])
                self.successResultOf(asked)
                return True
            self.assertIn("every 6 seconds", str(self.failureResultOf(asked, VerbError).value))
            return False

        self.assertEqual(BURST, sum(begin() for _ in range(BURST * 2)))
        self.clock.advance(EACH_SECONDS)
        self.assertEqual(1, sum(begin() for _ in range(5)))
        self.clock.advance(EACH_SECONDS * BURST * 10)
        self.assertEqual(BURST, sum(begin() for _ in range(BURST * 2)))
