"""Tests of `s2sgw probe`: the reported steps, the side that must fix a failure, and the verdict."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from dns.rdatatype import RdataType
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.assessment import Assessment
from s2sgw.net.dialing import DialFailed
from s2sgw.net.discovery import Resolution, Target
from s2sgw.net.dns_answer import Answer, Status
from s2sgw.policy.model import PeerPolicy
from s2sgw.policy.verdict import Verdict
from s2sgw.runtime import probe
from s2sgw.runtime.probe import PROBE_SECONDS, Probe
from s2sgw.runtime.probe_report import ProbeStep
from s2sgw.stream.features import StreamFeatures
from s2sgw.trust.evidence import Attempt, Evidence, TLSALookup
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import leaf_for

HERE, PEER = Domain.parse("here.example"), Domain.parse("peer.example")
NOW = datetime(2026, 11, 20, tzinfo=UTC)
TARGET = Target("xmpp.peer.example", 5269, ("2001:db8::1", "192.0.2.1"))
PKIX = Attempt("pkix", True)
ACCEPTED = Verdict(external=True, dialback=True, proven_by="pkix")
OFFERED = StreamFeatures(mechanisms=("EXTERNAL",), dialback=True, names=frozenset({"urn:xmpp:sm:3}sm"}))


class FakeProbeStream:
    """A stream that goes as the test says. The peer listens at `listens`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.secured = SimpleNamespace(version="TLSv1.3", cipher="TLS_X") if script.secured else None
        self.method = script.method
        self.ending = script.ending
        self.engine = SimpleNamespace(offered=script.offered, features=StreamFeatures(), sasl_failure=script.sasl_failure)
        self.ready = succeed(script.ending) if not script.hangs else Deferred()
        self.closed = False

    def took(self, since: str, until: str) -> float:
        return 0.5

    async def connect(self, dialler: Any, address: str) -> None:
        await dialler(address, 5269, None)
        self.script.leg.seen["xmpp.peer.example:5269"] = (self.script.evidence, self.script.assessment)
        if not self.script.secured:
            self.script.leg.seen.clear()

    def ping(self, text: str, ident: str) -> Deferred[str]:
        return succeed(self.script.pinged)

    def close(self) -> None:
        self.closed = True


class Script:
    """The peer's behaviour, and our policy's decision."""

    def __init__(self) -> None:
        self.secured, self.method, self.pinged, self.hangs = True, cast(str | None, "EXTERNAL"), "answered", False
        self.ending: Ending | None = None
        self.sasl_failure: Ending | None = None
        self.offered: StreamFeatures | None = OFFERED
        self.listens = {"2001:db8::1", "192.0.2.1"}
        self.evidence = Evidence(PEER, "receiving", NOW, leaf_for("peer.example").der_chain, "TLSv1.3", tlsa=(TLSALookup("xmpp", failure="no DNSSEC"),))
        self.assessment = Assessment(ACCEPTED, (PKIX,), PeerPolicy())
        self.policy = PeerPolicy()
        self.resolution = Resolution(PEER, (TARGET,))
        self.leg: Any = SimpleNamespace(seen={}, dialler=lambda pair, target: self.dial)

    def dial(self, address: str, port: int, build: object) -> Deferred[None]:
        if address in self.listens:
            return succeed(None)
        return fail(DialFailed(Ending(Cause.CONNECTION_REFUSED, address, "them")))


class ProbeTests(SynchronousTestCase):
    """Tests of probes of a scripted peer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.script = Script()
        self.patch(probe, "ProbeStream", lambda leg, pair, target, clock, verifying: FakeProbeStream(self.script))
        self.located: tuple[Target, ...] = (TARGET,)
        self.told: list[ProbeStep] = []
        self.known = True

    async def _query(self, name: str, kind: str) -> Answer:
        return Answer(cast(Any, name), RdataType.SRV, Status.NO_SUCH_NAME)

    def begin(self, inbound: bool = False) -> Deferred[Any]:
        script = self.script

        async def verdict_as_initiator(evidence: Evidence) -> Verdict:
            return Verdict(ending=Ending(Cause.NOT_PROVEN))

        services: Any = SimpleNamespace(
            clock=self.clock, wall=SimpleNamespace(seconds=NOW.timestamp), known=self.known, leg=lambda: script.leg,
            policies=SimpleNamespace(policy=lambda peer: script.policy), resolver=SimpleNamespace(query=self._query),
            judge=SimpleNamespace(verdict_as_initiator=verdict_as_initiator),
            discovery=SimpleNamespace(
                resolve=lambda peer, route: succeed(script.resolution), is_fixed=lambda peer: False, locate=lambda targets: succeed(self.located),
            ),
        )
        return Probe(services, HERE, PEER, self.told.append).run(inbound)

    def run_probe(self, inbound: bool = False) -> Any:
        report = self.successResultOf(self.begin(inbound))
        self.assertEqual(report.steps, self.told)  # reported while it works
        return report

    def failed(self, report: Any) -> list[tuple[str, str | None]]:
        for step in report.steps:
            self.assertEqual(step.ok is False, bool(step.remedy and step.whose), step)
        return [(step.step, step.whose) for step in report.steps if step.ok is False]

    def test_federates(self) -> None:
        """If everything works, each step is reported once, an extra address is connected to, and a ping is answered."""
        report = self.run_probe()
        self.assertEqual(("federates", []), (report.verdict, self.failed(report)))
        self.assertEqual(
            ["srv", "address", "tcp", "tcp", "tls", "certificate", "names", "dane", "features", "sasl", "dialback", "ping", "policy"],
            [step.step for step in report.steps],
        )
        row = report.row()
        self.assertEqual((1, "peer.example", "federates"), (row["version"], row["domain"], row["verdict"]))

    def test_nowhere(self) -> None:
        """A domain without DNS, and a target without an address, are faults of the peer."""
        self.script.resolution = Resolution(PEER, (), Ending(Cause.NO_SUCH_DOMAIN, "no such name"))
        self.assertEqual([("srv", "theirs")], self.failed(self.run_probe()))
        self.script.resolution, self.located, self.told[:] = Resolution(PEER, (TARGET,)), (), []
        self.assertEqual([("address", "theirs")], self.failed(self.run_probe()))

    def test_one_family(self) -> None:
        """An address that refuses is reported, and the stream uses the other one."""
        self.script.listens = {"192.0.2.1"}
        report = self.run_probe()
        self.assertEqual(("federates", [("tcp", "theirs")]), (report.verdict, self.failed(report)))

    def test_no_tls(self) -> None:
        """For a stream that ends before TLS the phase of its end is reported."""
        for cause, wanted in ((Cause.TLS_NOT_OFFERED, "tls"), (Cause.HOST_UNKNOWN, "features")):
            self.told.clear()
            self.script.secured, self.script.ending = False, Ending(cause, "", "them")
            report = self.run_probe()
            self.assertEqual(("fails", [(wanted, "theirs")]), (report.verdict, self.failed(report)))

    def test_bad_certificate(self) -> None:
        """A certificate's defect is a fault of the peer. If something else proves the peer, it is only information."""
        attempt = Attempt("pkix", False, Cause.EXPIRED, ("expired",), (Cause.EXPIRED, Cause.NAME_MISMATCH))
        refused = Verdict(ending=Ending(Cause.EXPIRED, "expired"), reasons=("pkix: expired",))
        self.script.assessment, self.script.ending = Assessment(refused, (attempt,), PeerPolicy()), Ending(Cause.EXPIRED)
        report = self.run_probe()
        self.assertEqual("fails", report.verdict)
        self.assertEqual([("certificate", "theirs"), ("names", "theirs"), ("policy", "theirs")], self.failed(report))
        self.told.clear()
        proven = Assessment(ACCEPTED, (attempt, Attempt("dane", True)), PeerPolicy())
        self.script.assessment, self.script.ending = proven, None
        self.assertEqual(("federates", []), (report := self.run_probe(), (report.verdict, self.failed(report)))[1])

    def test_external_refused(self) -> None:
        """If EXTERNAL is refused and there is no dialback, the fault is ours. If dialback succeeds, the failure of EXTERNAL is only information."""
        self.script.sasl_failure = self.script.ending = Ending(Cause.SASL_FAILED, "EXTERNAL: not-authorized", "them")
        self.script.method = None
        report = self.run_probe()
        self.assertEqual(("fails", [("sasl", "ours"), ("dialback", "ours")]), (report.verdict, self.failed(report)))
        self.told.clear()
        self.script.method, self.script.ending = "dialback", None
        report = self.run_probe()
        self.assertEqual(("federates", []), (report.verdict, self.failed(report)))

    def test_barred(self) -> None:
        """If our policy bars the peer, the fault is ours. The peer is probed all the same."""
        bar = Ending(Cause.NOT_ALLOWED, "allow = false")
        self.script.policy = cast(PeerPolicy, SimpleNamespace(bar=bar, route=None))
        report = self.run_probe()
        self.assertEqual(("fails", [("policy", "ours")]), (report.verdict, self.failed(report)))
        self.assertIn("tls", [step.step for step in report.steps])

    def test_lost_at_the_ping(self) -> None:
        """A stream that breaks at the first stanza does not federate."""
        self.script.pinged = ""
        self.assertEqual(None, next(step.ok for step in self.run_probe().steps if step.step == "ping"))
        self.told.clear()
        stream = FakeProbeStream(self.script)

        def lose(text: str, ident: str) -> Deferred[str]:
            stream.ending = Ending(Cause.CONNECTION_LOST, "", "them")
            return succeed("")

        stream.ping = lose  # type: ignore[method-assign]
        self.patch(probe, "ProbeStream", lambda *_, verifying: stream)
        report = self.run_probe()
        self.assertEqual(("fails", [("ping", "theirs")]), (report.verdict, self.failed(report)))

    def test_without_configuration(self) -> None:
        """Without a domain of ours there is no authentication. The verdict is the policy's."""
        self.known, self.script.method = False, None
        report = self.run_probe()
        self.assertEqual("federates", report.verdict)
        self.assertEqual([None], [step.ok for step in report.steps if step.step == "sasl"])
        self.assertNotIn("ping", [step.step for step in report.steps])

    def test_inbound(self) -> None:
        """With `inbound`, the same certificate gets the verdict for a stream that the peer opens."""
        report = self.run_probe(inbound=True)
        self.assertEqual([True, False], [step.ok for step in report.steps if step.step == "policy"])

    def test_bounded(self) -> None:
        """If a peer does not answer, the probe ends in time with the results so far."""
        self.script.hangs = True
        running = self.begin()
        self.assertNoResult(running)
        self.clock.advance(PROBE_SECONDS)
        report = self.successResultOf(running)
        self.assertEqual(("fails", [("policy", "network")]), (report.verdict, self.failed(report)))
