"""The steps of a probe for what it found: the chain, TLSA records, the POSH document, features, authentication."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from s2sgw.net.discovery import Target
from s2sgw.net.dns_answer import Answer
from s2sgw.policy.verdict import Verdict
from s2sgw.runtime.probe_report import ProbeStep, StepName
from s2sgw.runtime.probe_stream import ProbeStream
from s2sgw.stream import bidi
from s2sgw.stream.features import MANAGEMENT_FEATURE
from s2sgw.trust.certificate import summarise
from s2sgw.trust.evidence import Attempt, Evidence
from s2sgw.xmpp.ending import Cause, Ending, Layer
from s2sgw.xmpp.host_port import HostPort

#: Days before the end of a peer's certificate at which its step says "soon".
SOON_DAYS = 14


def unsecured_step(name: str, stream: ProbeStream, ending: Ending | None) -> ProbeStep:
    """Return the step for a stream that ended before TLS."""
    ending = ending or Ending(Cause.CLOSED)
    step: StepName = "tls" if ending.layer in (Layer.TLS, Layer.TCP) else "features"
    return ProbeStep.failed(step, name, stream.took("tcp", "done"), ending)


def places(targets: Sequence[Target]) -> str:
    """Return the places of targets, as text."""
    return ", ".join(str(HostPort(target.host, target.port)) for target in targets) or "nothing"


def records(answer: Answer) -> str:
    """Return the DNS answer in words, and whether DNSSEC secures it."""
    secure = " (DNSSEC)" if answer.secure else ""
    if answer.found:
        return ", ".join(record.to_text() for record in answer.records[:8]) + secure
    return (answer.reason or str(answer.status)) + secure


def certificate_steps(
    name: str, evidence: Evidence, pkix: Attempt | None, proven: bool, now: float,
) -> list[ProbeStep]:
    """Return the steps for the chain and the names. Their faults count only if nothing else proves the peer."""
    if not evidence.chain:
        return [ProbeStep.failed("certificate", name, 0.0, Ending(Cause.NO_CERTIFICATE, "none was presented", "them"))]
    leaf = summarise(evidence.chain[0])
    if leaf.unreadable or leaf.not_after is None:
        return [ProbeStep.failed("certificate", name, 0.0, Ending(Cause.BAD_CHAIN, leaf.unreadable, "them"))]
    days = (leaf.not_after - datetime.fromtimestamp(now, UTC)).days
    issuer = "itself" if leaf.self_signed else leaf.issuer
    text = f"{leaf.kind}, issued by {issuer}, {len(evidence.chain)} in the chain, ends in {days} days"
    text += " (soon)" if 0 <= days <= SOON_DAYS else ""
    causes = () if pkix is None or pkix.proven else pkix.causes
    chain = [cause for cause in causes if cause is not Cause.NAME_MISMATCH]
    named = ", ".join(leaf.names[:8]) or "no name"
    steps = [ProbeStep("certificate", name, True, 0.0, text), ProbeStep("names", name, True, 0.0, named)]
    if chain:
        ending = Ending(chain[0], "; ".join(pkix.reasons if pkix else ()), "them")
        failed = ProbeStep.failed("certificate", name, 0.0, ending, f"{text}; {ending.cause}: {ending.detail}")
        steps[0] = only_if_needed(failed, proven)
    if Cause.NAME_MISMATCH in causes:
        ending = Ending(Cause.NAME_MISMATCH, "", "them")
        steps[1] = only_if_needed(ProbeStep.failed("names", name, 0.0, ending, f"{named}: not {evidence.domain}"), proven)
    return steps


def only_if_needed(step: ProbeStep, proven: bool) -> ProbeStep:
    """Return a failed step as a fact without a verdict if another method proves the peer."""
    return ProbeStep(step.step, step.target, None, step.seconds, step.detail) if proven else step


def dane_step(name: str, evidence: Evidence, attempts: dict[Any, Attempt]) -> ProbeStep:
    """Return the step for the TLSA records."""
    attempt = attempts.get("dane")
    records = sum(len(lookup.records) for lookup in evidence.tlsa)
    failures = "; ".join(dict.fromkeys(lookup.failure for lookup in evidence.tlsa if lookup.failure))
    if attempt is not None and attempt.proven:
        return ProbeStep("dane", name, True, 0.0, f"{records} TLSA records, one matches")
    if attempt is not None and attempt.veto:
        ending = Ending(Cause.DANE_MISMATCH, "; ".join(attempt.reasons), "them")
        return ProbeStep.failed("dane", name, 0.0, ending)
    return ProbeStep("dane", name, None, 0.0, failures or (f"{records} TLSA records" if records else "no TLSA records"))


def posh_step(name: str, evidence: Evidence, attempts: dict[Any, Attempt], proven: bool) -> ProbeStep | None:
    """Return the step for the POSH document. None: it was not fetched."""
    if evidence.posh is None:
        return None  # it is fetched only if nothing else proves the peer
    attempt = attempts.get("posh")
    if attempt is not None and attempt.proven:
        return ProbeStep("posh", name, True, 0.0, "the document has the certificate")
    why = evidence.posh.failure or "; ".join(attempt.reasons if attempt else ()) or "the document has another certificate"
    return ProbeStep("posh", name, None, 0.0, why)


def feature_words(features: Any) -> str:
    """Return stream features in words."""
    words = [f"SASL {' '.join(features.mechanisms)}"] if features.mechanisms else []
    words += ["dialback"] if features.dialback else []
    words += ["stream management"] if MANAGEMENT_FEATURE in features.names else []
    words += ["bidi"] if bidi.FEATURE in features.names else []
    limits = features.limits
    words += [f"stanzas up to {limits.max_bytes} bytes"] if limits.max_bytes else []
    return ", ".join(words) or "none"


def sasl_step(name: str, stream: ProbeStream, ending: Ending | None) -> ProbeStep:
    """Return the step for SASL: whether the peer accepts our certificate."""
    engine, seconds = stream.engine, stream.took("judged", "done")
    offered = engine.offered.mechanisms if engine.offered else ()
    if stream.method is not None and stream.method not in ("dialback", "certificate"):
        return ProbeStep("sasl", name, True, seconds, f"{stream.method} accepted")
    if engine.sasl_failure is not None:
        failed = ProbeStep.failed("sasl", name, seconds, engine.sasl_failure)
        return only_if_needed(failed, stream.method is not None)
    if "EXTERNAL" not in offered:
        return ProbeStep("sasl", name, None, 0.0, "EXTERNAL is not offered: the peer does not accept our certificate")
    return ProbeStep("sasl", name, None, 0.0, "not tried")


def dialback_step(name: str, stream: ProbeStream, ending: Ending | None) -> ProbeStep:
    """Return the step for dialback."""
    engine = stream.engine
    if stream.method in ("dialback", "certificate"):
        return ProbeStep("dialback", name, True, stream.took("judged", "done"), "accepted")
    if ending is not None:
        return ProbeStep.failed("dialback", name, stream.took("judged", "done"), ending)
    offered = engine.offered is not None and engine.offered.dialback
    return ProbeStep("dialback", name, None, 0.0, "offered, not needed" if offered else "not offered")


def policy_step(name: str, verdict: Verdict, seconds: float, when: str = "") -> ProbeStep:
    """Return the step for the verdict of our policy; `when`: words before it."""
    reasons = "; ".join(verdict.reasons)
    if verdict.ending is not None:
        return ProbeStep.failed("policy", name, seconds, verdict.ending, f"{when}refused: {verdict.ending.cause} ({reasons})")
    by = verdict.proven_by or "nothing yet (dialback)"
    return ProbeStep("policy", name, True, seconds, f"{when}accepted, proven by {by}")


