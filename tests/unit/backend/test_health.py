"""Tests of the health of our own server: its failures are not blamed on a peer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.backend.health import (
    CHECK_SECONDS,
    DOWN_CHECK_SECONDS,
    NO_QUESTION_SECONDS,
    BackendHealth,
    BackendIdentity,
    attributed,
)
from s2sgw.net.dialing import DialFailed
from s2sgw.xmpp.ending import Cause, Ending, Layer
from s2sgw.xmpp.jid import Domain, Pair

ADDRESS = "127.0.0.1:15269"
IDENTITY = BackendIdentity(ADDRESS, "s2s", ("here.example",), "/var/lib/s2sgw/backend-ca.pem", "127.53.0.1:53")
PAIR, OTHER = (Pair(Domain.parse(f"{name}.example"), Domain.parse("here.example")) for name in ("peer", "other"))
REFUSED = Ending(Cause.CONNECTION_REFUSED, ADDRESS, "them")
DISTRUST = Ending(Cause.STREAM_ERROR, "Your server's certificate is not trusted", "them", "policy-violation")
BLOCKED = Ending(Cause.STREAM_ERROR, "this domain is blocked", "them", "policy-violation")


class AttributionTests(SynchronousTestCase):
    """Tests of the cause that a failure on the backend leg has in the record."""

    def test_causes(self) -> None:
        """A failure of the server has a cause of the layer "backend", by us."""
        for cause, wanted in (
            (Cause.CONNECTION_REFUSED, Cause.BACKEND_REFUSED), (Cause.CONNECTION_TIMEOUT, Cause.BACKEND_TIMEOUT),
            (Cause.DNS_UNREACHABLE, Cause.BACKEND_UNREACHABLE), (Cause.TLS_NOT_OFFERED, Cause.BACKEND_TLS),
            (Cause.SELF_SIGNED, Cause.BACKEND_NOT_PROVEN), (Cause.SASL_FAILED, Cause.BACKEND_DISTRUSTS_US),
            (Cause.DIALBACK_INVALID, Cause.BACKEND_BYPASSES_VIEW), (Cause.HOST_UNKNOWN, Cause.BACKEND_HOST_UNKNOWN),
            (Cause.STREAM_ERROR, Cause.BACKEND_FAILED), (Cause.CONNECTION_LOST, Cause.BACKEND_FAILED),
            (Cause.NEGOTIATION_TIMEOUT, Cause.BACKEND_TIMEOUT), (Cause.INVALID_FROM, Cause.BACKEND_FAILED),
            (Cause.LIMIT_EXCEEDED, Cause.BACKEND_FAILED), (Cause.ADDRESSING, Cause.BACKEND_FAILED),
        ):
            told = attributed(Ending(cause, "why", "them"), IDENTITY)
            self.assertEqual((wanted, Layer.BACKEND, "us"), (told.cause, told.layer, told.by), cause)
            self.assertIn(ADDRESS, told.detail)
            self.assertFalse(told.final, cause)  # the server may be starting
            self.assertIs(told, attributed(told, IDENTITY))

    def test_mistake(self) -> None:
        """A stream that we ended because of what the server sent is not one that it ended."""
        told = attributed(Ending(Cause.BAD_XML, "text between elements"), IDENTITY)
        self.assertEqual(told.detail, f"your server {ADDRESS} sent something wrong: text between elements")

    def test_address_once(self) -> None:
        """The address of the server is named once."""
        told = attributed(Ending(Cause.UNREACHABLE, f"{ADDRESS}: No route to host", "network"), IDENTITY)
        self.assertEqual(told.detail, f"your server {ADDRESS} cannot be reached: No route to host")
        several = attributed(Ending(Cause.UNREACHABLE, "[::1]:15269: No route to host", "network"), IDENTITY)
        self.assertIn("[::1]:15269: No route to host", several.detail, "another address of its host name")

    def test_certificate(self) -> None:
        """A server that does not accept our certificate says so by a stream error or a TLS alert. The authority is named."""
        alert = Ending(Cause.TLS_FAILED, "tlsv1 alert unknown ca", "network")
        for ending in (DISTRUST, alert):
            told = attributed(ending, IDENTITY)
            self.assertEqual(Cause.BACKEND_DISTRUSTS_US, told.cause)
            self.assertIn("/var/lib/s2sgw/backend-ca.pem", told.detail)
        self.assertEqual(Cause.BACKEND_TLS, attributed(Ending(Cause.TLS_FAILED, "no shared cipher"), IDENTITY).cause)

    def test_secret(self) -> None:
        """A router that refuses our secret does not distrust our certificate: the cause stays, with its remedy."""
        refused = Ending(Cause.SASL_FAILED, "not-authorized", "them")
        self.assertIs(attributed(refused, replace(IDENTITY, kind="jabberd2-router")), refused)
        self.assertIs(attributed(refused, IDENTITY).cause, Cause.BACKEND_DISTRUSTS_US)

    def test_ours(self) -> None:
        """A decision of ours is not a failure of the server."""
        for cause in (Cause.SHUTDOWN, Cause.CLOSED, Cause.INTERNAL, Cause.TOO_MANY_STREAMS):
            self.assertEqual(Ending(cause), attributed(Ending(cause), IDENTITY))


class HealthTests(SynchronousTestCase):
    """Tests of the state, its log lines, and its changes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.recovered = 0
        self.attempts: list[BackendHealth] = []
        self.waiting = True
        self.health = BackendHealth(IDENTITY, self.clock, self._recovered, self._attempt)
        self.events: list[dict[str, Any]] = []
        observer = cast(ILogObserver, self._log)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _recovered(self) -> None:
        self.recovered += 1

    def _attempt(self, health: BackendHealth) -> bool:
        self.attempts.append(health)
        return self.waiting

    def _log(self, event: dict[str, Any]) -> None:
        if str(event.get("event", "")).startswith("backend"):
            self.events.append(event)

    @property
    def told(self) -> list[str]:
        return [event["event"] for event in self.events]

    def check(self, ending: Ending | None) -> int:
        """Run a check; return the number of connections to the server."""
        asked: list[None] = []

        def connect() -> Deferred[None]:
            asked.append(None)
            return succeed(None) if ending is None else fail(DialFailed(ending))

        self.successResultOf(Deferred.fromCoroutine(self.health.check(connect)))
        return len(asked)

    def test_one_line_each_way(self) -> None:
        """However many peers write, there is one line when the server goes down and one when it is back. Then what waits is tried again."""
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.health.closed("outbound")
        for _ in range(20):
            self.health.attempt_failed(PAIR, REFUSED)
            self.health.attempt_failed(OTHER, REFUSED)
            self.clock.advance(30)
            self.health.tell_repeated()
        self.assertEqual(("down", 1_000_000, "backend-refused"), tuple(self.health.row()[key] for key in ("state", "since", "cause")))
        self.assertEqual(1, len(self.health.alerts()))
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.assertEqual(["backend up", "backend down", "backend up"], self.told)
        self.assertEqual((600, 1), (self.events[-1]["down_for"], self.recovered))
        self.assertEqual(("up", 1_000_600, None), tuple(self.health.row()[key] for key in ("state", "since", "cause")))
        self.assertEqual([], self.health.alerts())

    def test_retired(self) -> None:
        """A server that a reload removed is neither down nor up in the log, however its last streams end."""
        self.health.retire()
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.health.closed("outbound")
        self.health.attempt_failed(PAIR, REFUSED)
        self.assertEqual(([], 0), (self.told, self.recovered))

    def test_distrust(self) -> None:
        """A server that accepts our connections and does not trust our certificate is down, although a bare connection succeeds."""
        self.health.attempt_failed(PAIR, DISTRUST)
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(1, self.check(None))
        self.assertEqual(("down", "backend-distrusts-us"), (self.health.state, self.health.row()["cause"]))
        self.assertEqual(["backend down"], self.told)

    def test_one_peer(self) -> None:
        """A peer that the server blocks, or a failure while other streams are open, does not make the server down."""
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        for pair in (PAIR, OTHER, PAIR):
            self.health.attempt_failed(pair, BLOCKED)
            self.health.attempt_failed(pair, DISTRUST)
        self.assertEqual("up", self.health.state)
        self.assertEqual(["backend up", "backend refused a stream", "backend refused a stream"], self.told)
        self.clock.advance(61)
        self.health.tell_repeated()
        self.assertEqual([2, 2], [event["times"] for event in self.events[3:]])
        self.health.closed("outbound")
        self.health.attempt_failed(PAIR, BLOCKED)
        self.assertEqual("up", self.health.state)

    def test_takes_no_stream(self) -> None:
        """A server that takes connections and no stream is down. An attempt every ten seconds finds out when it takes one again."""
        for ending in (
            Ending(Cause.CONNECTION_LOST, by="network"), Ending(Cause.CLOSED, by="them"), Ending(Cause.BAD_XML), Ending(Cause.NEGOTIATION_TIMEOUT),
            Ending(Cause.STREAM_ERROR, by="them", condition="resource-constraint"),
        ):
            self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
            self.health.attempt_failed(PAIR, ending)
            self.assertEqual("up", self.health.state, "another stream is open")
            self.health.closed("outbound")
            self.health.attempt_failed(PAIR, ending)
            self.assertEqual("down", self.health.state, ending)
            before = len(self.attempts)
            self.clock.advance(DOWN_CHECK_SECONDS)
            self.assertEqual((1, 0), (self.check(None), self.check(None)))
            self.assertEqual(("down", before + 1), (self.health.state, len(self.attempts)))
        self.recovered = 0
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.assertEqual(("up", 1), (self.health.state, self.recovered))

    def test_nothing_waits(self) -> None:
        """A server that takes connections, and for which nothing waits, is not down for ever: the next stream will tell."""
        self.waiting = False
        self.health.attempt_failed(PAIR, Ending(Cause.CONNECTION_LOST, by="network"))
        self.assertEqual("down", self.health.state)
        self.check(None)
        self.assertEqual(("unknown", None, []), (self.health.state, self.health.row()["cause"], self.health.alerts()))
        for _ in range(10):
            self.clock.advance(CHECK_SECONDS)
            self.check(None)
            self.assertEqual("unknown", self.health.state, "a connection is no stream")
        self.health.attempt_failed(PAIR, Ending(Cause.CONNECTION_LOST, by="network"))
        self.assertEqual(("down", ["backend down"]), (self.health.state, self.told))
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.assertEqual(("up", "backend up"), (self.health.state, self.told[-1]))

    def test_its_own_streams_while_nothing_waits(self) -> None:
        """Streams of a server that takes none of ours do not make it up, and the log does not flap."""
        self.waiting = False
        for ending in [Ending(Cause.CONNECTION_LOST, by="network")] * 3:
            self.health.attempt_failed(PAIR, ending)
            self.clock.advance(DOWN_CHECK_SECONDS)
            self.check(None)
            self.health.opened("inbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
            self.assertEqual("unknown", self.health.state)
        self.assertEqual(["backend down"], self.told)

    def test_same_cause_in_two_ways(self) -> None:
        """A server that did not answer at all, and then not in time, took no stream: a connection does not make it up."""
        self.waiting = False
        self.check(Ending(Cause.CONNECTION_TIMEOUT, by="network"))
        self.health.attempt_failed(PAIR, Ending(Cause.NEGOTIATION_TIMEOUT))
        for _ in range(3):
            self.clock.advance(CHECK_SECONDS)
            self.check(None)
        self.assertEqual(("unknown", ["backend down"]), (self.health.state, self.told))

    def test_causes_that_alternate(self) -> None:
        """Each cause is logged once while the server is down. `status` has the last one."""
        endings = Ending(Cause.CONNECTION_LOST, by="network"), Ending(Cause.NEGOTIATION_TIMEOUT)
        for _ in range(5):
            for ending in endings:
                self.health.attempt_failed(PAIR, ending)
        self.assertEqual((["backend down"] * 2, "backend-timeout"), (self.told, self.health.row()["cause"]))
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.health.closed("outbound")
        self.health.attempt_failed(PAIR, endings[0])
        self.assertEqual("backend down", self.told[-1])

    def test_its_own_streams(self) -> None:
        """Streams that the server opened do not show that it takes ours. They make the next check come at once."""
        self.health.opened("inbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.assertEqual("up", self.health.state)
        for ending in (Ending(Cause.CONNECTION_LOST, by="network"), REFUSED):
            self.health.attempt_failed(PAIR, ending)
            self.assertEqual("down", self.health.state)
            self.clock.advance(DOWN_CHECK_SECONDS)
            self.assertEqual((1, 0), (self.check(ending), self.check(ending)))
            self.health.opened("inbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
            self.health.closed("inbound")
            self.assertEqual(("down", 1), (self.health.state, self.check(ending)))
        self.clock.advance(DOWN_CHECK_SECONDS)
        self.assertEqual(1, self.check(None))
        self.assertEqual(("up", 1), (self.health.state, self.recovered))
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(0, self.check(None))

    def test_words_about_a_pair(self) -> None:
        """A stream error that may be about one peer, or one domain, does not make an idle server down."""
        for ending in (
            BLOCKED, Ending(Cause.STREAM_ERROR, by="them", condition="not-authorized"), Ending(Cause.HOST_UNKNOWN, by="them"),
            Ending(Cause.SHUTDOWN), Ending(Cause.CLOSED),
        ):
            self.health.attempt_failed(PAIR, ending)
            self.assertEqual("unknown", self.health.state, ending)

    def test_another_reason(self) -> None:
        """A server that is down for a new reason is reported again, and has been down since the first."""
        self.health.attempt_failed(PAIR, REFUSED)
        self.clock.advance(5)
        self.health.attempt_failed(PAIR, DISTRUST)
        self.assertEqual(["backend down", "backend down"], self.told)
        self.assertEqual(1_000_000, self.health.since)

    def test_accepted(self) -> None:
        """A stream of the server that ends because of our certificate counts against it. An action that any local process can do does not."""
        lost = Ending(Cause.CONNECTION_LOST, "", "them")
        self.assertIs(lost, self.health.accepted_failed(("", ""), lost))
        self.assertEqual("unknown", self.health.state)
        self.assertEqual(Cause.BACKEND_DISTRUSTS_US, self.health.accepted_failed(("peer.example", ""), DISTRUST).cause)
        self.assertEqual("down", self.health.state)

    def test_checks(self) -> None:
        """An idle server is checked each minute, an unreachable one every ten seconds, and one with streams never."""
        self.assertEqual(1, self.check(None))
        self.assertEqual("up", self.health.state)
        self.clock.advance(CHECK_SECONDS - 1)
        self.assertEqual(0, self.check(None))
        self.clock.advance(1)
        self.assertEqual(1, self.check(REFUSED))
        self.assertEqual("down", self.health.state)
        self.clock.advance(DOWN_CHECK_SECONDS)
        self.assertEqual(1, self.check(None))
        self.assertEqual(("up", 1), (self.health.state, self.recovered))
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.clock.advance(CHECK_SECONDS)
        self.assertEqual(0, self.check(REFUSED))

    def test_name_server(self) -> None:
        """A server that uses the gateway and never asks its DNS view is reported after ten minutes. One that asks is not."""
        questions = [0]
        self.health.questions = lambda: questions[0]
        self.clock.advance(NO_QUESTION_SECONDS)
        self.assertEqual([], self.health.alerts())  # it has had no stream yet
        self.health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        self.assertIn("127.53.0.1:53", self.health.alerts()[0])
        questions[0] = 1
        self.assertEqual([], self.health.alerts())

    def test_name_server_and_the_date(self) -> None:
        """A change of the date brings no report of the DNS view, and hides none."""
        date, elapsed = Clock(), Clock()
        date.advance(1_000_000)
        health = BackendHealth(self.health.identity, date, clock=elapsed)
        health.questions = lambda: 0
        health.opened("outbound", PAIR.sender, "EXTERNAL", "TLSv1.3")
        date.advance(NO_QUESTION_SECONDS)
        self.assertEqual([], health.alerts())
        date.rightNow = 0
        elapsed.advance(NO_QUESTION_SECONDS)
        self.assertIn("10 minutes ago", health.alerts()[0])
