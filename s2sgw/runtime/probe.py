"""`s2sgw probe DOMAIN`: tries federation with a peer step by step, by the gateway's own discovery, judge and initiating engine.

The probe asks the DNS, connects to each address, and opens one stream to each target. The stream is negotiated and authenticated
like any stream of the gateway, carries one XMPP ping from a domain (no user's stanza), and is closed. Each step has a time limit.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from s2sgw.authentication.assessment import Assessment
from s2sgw.authentication.judge import Judge
from s2sgw.net.connection import StreamConnection
from s2sgw.net.dialing import DialFailed
from s2sgw.net.discovery import Discovery, Resolution, Target
from s2sgw.net.resolver import Resolver
from s2sgw.peerdb.peer_records import KnownFacts
from s2sgw.policy.peers import PeerPolicies
from s2sgw.runtime.probe_report import ProbeReport, ProbeStep
from s2sgw.runtime.probe_steps import (
    certificate_steps,
    dane_step,
    dialback_step,
    feature_words,
    places,
    policy_step,
    posh_step,
    records,
    sasl_step,
    unsecured_step,
)
from s2sgw.runtime.probe_stream import CONNECT_SECONDS, ProbeStream, knock
from s2sgw.s2s.federation_initiating import FederationInitiating
from s2sgw.stream.events import JudgementNeeded, Permission
from s2sgw.trust.evidence import Evidence
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.namespaces import PING
from s2sgw.xmpp.wall_clock import WallClock

#: Seconds for a whole probe; the most targets that are tried, and addresses of one target.
PROBE_SECONDS = 90.0
TARGETS = 6
ADDRESSES = 6

TellStep = Callable[[ProbeStep], None]


class NoPeerRecords:
    """Replaces the peer records of a gateway. `facts`: the running gateway's facts about the peer."""

    def __init__(self, facts: KnownFacts) -> None:
        self._facts = facts

    def standing(self, *_: object) -> KnownFacts:
        """Return the facts about a peer."""
        return self._facts

    def remembered(self, *_: object) -> None:
        """Return None: no past proof is known."""


@dataclass(frozen=True)
class ProbeLeg(FederationInitiating):
    """The federation's initiating leg. Its verdicts are kept in `seen` only."""

    seen: dict[str, tuple[Evidence, Assessment]] = field(default_factory=dict, init=False, repr=False)

    async def judge(
        self, connection: StreamConnection, question: JudgementNeeded, target: Target,
    ) -> tuple[Permission, tuple[str, ...]]:
        """Judge like the gateway, and keep the evidence."""
        evidence, found = await self.judge_of.examine(connection, question.peer, "receiving", target)
        self.seen[str(HostPort(target.host, target.port))] = evidence, found
        permission, reasons = self.granted(found.verdict, connection, question.peer)
        return permission, reasons


@dataclass(frozen=True, slots=True)
class ProbeServices:
    """The parts of a gateway that a probe uses. Without a gateway `composition.probe` builds them.

    `known`: the local domain is served by a gateway with a configuration, so that we may authenticate as it.
    """

    clock: IReactorTime
    wall: WallClock
    resolver: Resolver
    discovery: Discovery
    policies: PeerPolicies
    judge: Judge
    leg: Callable[[], ProbeLeg]
    known: bool = True


class Probe:
    """One probe of `peer` on behalf of the local domain `local`. `tell` is called with each step as it is done."""

    def __init__(self, services: ProbeServices, local: Domain, peer: Domain, tell: TellStep = lambda step: None) -> None:
        self._services = services
        self._pair = Pair(local, peer)
        self._tell = tell
        self._leg = services.leg()
        self._route = services.policies.policy(peer).route
        self.report = ProbeReport(peer.text, local.text)

    def run(self, inbound: bool = False) -> Deferred[ProbeReport]:
        """Return the report. The result never fails. `inbound`: judge the peer also as if it opened the stream."""
        running = Deferred.fromCoroutine(self._run(inbound))
        running.addTimeout(PROBE_SECONDS, self._services.clock)
        return running.addErrback(self._cut_short).addCallback(lambda _: self.report)

    def _cut_short(self, failure: Any) -> None:
        self.report.federates = False
        if failure.check(DeferredTimeout, CancelledError):
            ending = Ending(Cause.NEGOTIATION_TIMEOUT, f"the probe did not end within {PROBE_SECONDS:.0f} s")
        else:
            ending = Ending(Cause.INTERNAL, failure.getErrorMessage())
        self._add(ProbeStep.failed("policy", "", PROBE_SECONDS, ending))

    def _add(self, step: ProbeStep) -> None:
        self.report.steps.append(step)
        self._tell(step)

    @property
    def _now(self) -> float:
        return self._services.clock.seconds()

    async def _run(self, inbound: bool) -> None:
        bar = self._services.policies.policy(self._pair.recipient).bar
        if bar is not None:
            self._add(ProbeStep.failed("policy", "", 0.0, bar))
        targets = await self._find()
        for target in targets[:TARGETS]:
            if await self._try(target, inbound) and bar is None:
                self.report.federates = True

    # --- the DNS ---

    async def _find(self) -> Sequence[Target]:
        began, peer = self._now, self._pair.recipient
        resolution = await self._services.discovery.resolve(peer, self._route)
        fixed = self._route is not None or self._services.discovery.is_fixed(peer)
        detail = await self._srv(peer, fixed, resolution)
        if resolution.ending is not None:
            self._add(ProbeStep.failed("srv", "", self._now - began, resolution.ending, detail))
        else:
            self._add(ProbeStep("srv", "", True, self._now - began, detail))
        return resolution.targets

    async def _srv(self, peer: Domain, fixed: bool, resolution: Resolution) -> str:
        if fixed or peer.is_address:
            return f"by the configuration: {places(resolution.targets)}"
        texts = []
        for service in ("_xmpp-server", "_xmpps-server"):
            answer = await self._services.resolver.query(f"{service}._tcp.{peer.ascii}", "SRV")
            texts.append(f"{service}: {records(answer)}")
        if resolution.ending is not None:
            texts.append(f"{resolution.ending.cause}: {resolution.ending.detail}")
        return "; ".join(texts)

    async def _located(self, target: Target, name: str) -> Target | None:
        began = self._now
        found = await self._services.discovery.locate([target])
        if found and found[0].addresses:
            secure = ", DNSSEC" if found[0].addresses_secure else ""
            self._add(ProbeStep("address", name, True, self._now - began, ", ".join(found[0].addresses) + secure))
            return found[0]
        answers = [await self._services.resolver.query(target.host, kind) for kind in ("AAAA", "A")]
        detail = f"{target.host} has no address that may be connected to ({'; '.join(map(records, answers))})"
        cause = Cause.DNS_UNREACHABLE if any(answer.failed for answer in answers) else Cause.NO_SUCH_DOMAIN
        cause = Cause.PRIVATE_ADDRESS if any(answer.found for answer in answers) else cause
        self._add(ProbeStep.failed("address", name, self._now - began, Ending(cause, detail), detail))
        return None

    # --- one target ---

    async def _try(self, target: Target, inbound: bool) -> bool:
        """Try one target; return whether it federates."""
        name = str(HostPort(target.host, target.port)) + (" (direct TLS)" if target.direct_tls else "")
        located = await self._located(target, name)
        if located is None:
            return False
        stream = await self._connect(located, name)
        if stream is None:
            return False
        ending = await stream.ready
        try:
            return await self._judge_stream(stream, located, name, ending, inbound)
        finally:
            if stream.ending is None:
                stream.close()

    async def _connect(self, target: Target, name: str) -> ProbeStream | None:
        """Connect to each address. Open the stream on the first that answers."""
        dialler, stream = self._leg.dialler(self._pair, target), None
        for address in target.addresses[:ADDRESSES]:
            began, place = self._now, HostPort(address, target.port)
            try:
                if stream is None:
                    trial = ProbeStream(self._leg, self._pair, target, self._services.clock, verifying=not self._services.known)
                    await trial.connect(dialler, address)
                    stream = trial
                else:
                    await knock(dialler, address, target.port, self._services.clock)
            except DialFailed as failed:
                self._add(ProbeStep.failed("tcp", name, self._now - began, failed.ending))
            except DeferredTimeout:
                ending = Ending(Cause.CONNECTION_TIMEOUT, f"{place} after {CONNECT_SECONDS:.0f} s", "network")
                self._add(ProbeStep.failed("tcp", name, self._now - began, ending))
            else:
                self._add(ProbeStep("tcp", name, True, self._now - began, str(place)))
        return stream

    async def _judge_stream(
        self, stream: ProbeStream, target: Target, name: str, ending: Ending | None, inbound: bool,
    ) -> bool:
        seconds = stream.took("begun", "tls")
        seen = self._leg.seen.pop(str(HostPort(target.host, target.port)), None)
        if stream.secured is None and (ending is not None or seen is None):
            self._add(unsecured_step(name, stream, ending))
            return False
        if stream.secured is not None:
            text = f"{stream.secured.version}, {stream.secured.cipher}" + (", direct" if target.direct_tls else ", STARTTLS")
            self._add(ProbeStep("tls", name, True, seconds, text))
        else:
            self._add(ProbeStep("tls", name, None, seconds, "no TLS, which the policy allows"))
        if seen is None:
            self._add(ProbeStep.failed("policy", name, 0.0, ending or Ending(Cause.INTERNAL)))
            return False
        evidence, found = seen
        await self._show_evidence(name, evidence, found)
        accepted = found.verdict.ending is None and await self._show_authentication(stream, name, ending)
        self._add(policy_step(name, found.verdict, stream.took("tls", "judged")))
        if inbound:
            await self._show_inbound(name, evidence)
        return accepted

    async def _show_evidence(self, name: str, evidence: Evidence, found: Assessment) -> None:
        attempts = {attempt.method: attempt for attempt in found.attempts}
        proven = found.proven
        chain = certificate_steps(name, evidence, attempts.get("pkix"), proven, self._services.wall.seconds())
        for step in (*chain, dane_step(name, evidence, attempts)):
            self._add(step)
        posh = posh_step(name, evidence, attempts, proven)
        if posh is not None:
            self._add(posh)
        for method in ("pin", "trust-first-use"):
            if method in attempts:
                each = attempts[method]
                text = "; ".join(each.reasons) or "the key is known"
                self._add(ProbeStep("certificate", name, each.proven or None, 0.0, f"{method}: {text}"))

    async def _show_authentication(self, stream: ProbeStream, name: str, ending: Ending | None) -> bool:
        """Show whether the peer accepts us. Return whether a stanza got through, or would."""
        engine, seconds = stream.engine, stream.took("judged", "done")
        offered = engine.offered or engine.features
        came = True if ending is None or offered.names else None
        self._add(ProbeStep("features", name, came, seconds, feature_words(offered)))
        if not self._services.known:
            text = "not tried: without a configuration we cannot authenticate"
            self._add(ProbeStep("sasl", name, None, 0.0, text))
            return ending is None
        self._add(sasl_step(name, stream, ending))
        self._add(dialback_step(name, stream, ending))
        return ending is None and await self._ping(stream, name)

    async def _ping(self, stream: ProbeStream, name: str) -> bool:
        """Show the result of a ping. Return whether the stream stayed open."""
        began, ident = self._now, f"probe-{secrets.token_hex(8)}"
        local, peer = self._pair
        iq = f"<iq type='get' id='{ident}' from='{local.text}' to='{peer.text}'><ping xmlns='{PING}'/></iq>"
        how = await stream.ping(iq, ident)
        seconds = self._now - began
        if how == "answered":
            self._add(ProbeStep("ping", name, True, seconds, "the answer came on the same stream (XEP-0288)"))
        elif how == "acknowledged":
            self._add(ProbeStep("ping", name, True, seconds, "the peer has it (XEP-0198); its answer goes to the gateway"))
        elif stream.ending is not None and not stream.ending.in_order:
            self._add(ProbeStep.failed("ping", name, seconds, stream.ending))
            return False
        else:
            text = "sent; the peer answers on its own stream to the gateway, which the probe cannot see"
            self._add(ProbeStep("ping", name, None, seconds, text))
        return True

    async def _show_inbound(self, name: str, evidence: Evidence) -> None:
        """Show the verdict on the same certificate on a stream that the peer opens."""
        began = self._now
        verdict = await self._services.judge.verdict_as_initiator(evidence)
        self._add(policy_step(name, verdict, self._now - began, "when it opens the stream: "))
