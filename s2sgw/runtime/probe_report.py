"""The report of a probe: its steps, the verdict, and for each failure the remedy and the side that must fix it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from s2sgw.xmpp.ending import REMEDIES_HERE, By, Cause, Ending, Layer

StepName = Literal[
    "srv", "address", "tcp", "tls", "certificate", "names", "dane", "posh", "features", "sasl", "dialback", "ping", "policy",
]
Whose = Literal["ours", "theirs", "network"]

#: The version of the JSON form.
VERSION = 1
#: Causes that only we can fix.
_OURS = frozenset({
    Cause.RESOLVER_BUSY, Cause.NOT_ALLOWED, Cause.DENY_LISTED, Cause.AWAITING_APPROVAL, Cause.KEY_REVOKED, Cause.PIN_MISMATCH,
    Cause.SASL_FAILED, Cause.DIALBACK_INVALID, Cause.DIALBACK_ERROR, Cause.LOOP, Cause.INTERNAL,
})
_NETWORK = frozenset({Cause.CONNECTION_TIMEOUT, Cause.UNREACHABLE, Cause.DNS_UNREACHABLE, Cause.NEGOTIATION_TIMEOUT})
#: Remedies for our own administrator. They replace remedies in the table of endings that address the other administrator.
_OUR_REMEDIES: dict[Cause, str] = {
    **REMEDIES_HERE,
    Cause.SASL_FAILED: "The peer does not accept our certificate: check it with `s2sgw check --live` (names, chain, dates).",
    Cause.DIALBACK_INVALID: "The peer asked the server that our DNS names, and that server did not know the key. Check that "
    "the gateway runs there (`s2sgw check --live`).",
    Cause.DIALBACK_ERROR: "The peer could not ask our server: check that our SRV records lead to the gateway, and that its port "
    "is reachable (`s2sgw check --live`).",
    Cause.RESOLVER_BUSY: "Check the name servers of `dns.servers`, or those of the system.",
    Cause.LOOP: "The domain's DNS leads to this gateway itself: add it to `domains`, or have its DNS corrected.",
    Cause.INTERNAL: "This is a fault of s2sgw: please report it.",
}


def whose(cause: Cause, by: By = "us") -> Whose:
    """Return the side that must fix a failure."""
    if cause in _OURS or Ending(cause).layer is Layer.BACKEND:
        return "ours"
    return "network" if cause in _NETWORK or by == "network" else "theirs"


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step. `ok` None: a fact without a verdict. `seconds` is the time that it took."""

    step: StepName
    target: str = ""
    ok: bool | None = True
    seconds: float = 0.0
    detail: str = ""
    remedy: str = ""
    whose: Whose | None = None

    @classmethod
    def failed(cls, step: StepName, target: str, seconds: float, ending: Ending, detail: str = "") -> ProbeStep:
        """Return the step that failed with `ending`."""
        remedy = _OUR_REMEDIES.get(ending.cause, ending.remedy)
        text = detail or f"{ending.cause}: {ending.detail}".rstrip(": ")
        return cls(step, target, False, seconds, text, remedy, whose(ending.cause, ending.by))

    def row(self) -> dict[str, Any]:
        """Return the step for JSON."""
        return {
            "step": self.step, "target": self.target, "ok": self.ok, "seconds": round(self.seconds, 4), "detail": self.detail,
            "remedy": self.remedy, "whose": self.whose,
        }


@dataclass(slots=True)
class ProbeReport:
    """All steps in their order. `federates`: both sides accepted a stream, or would accept one."""

    domain: str
    local: str
    steps: list[ProbeStep] = field(default_factory=list)
    federates: bool = False

    @property
    def verdict(self) -> Literal["federates", "fails"]:
        """Return the verdict for JSON."""
        return "federates" if self.federates else "fails"

    def row(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "version": VERSION, "domain": self.domain, "local": self.local, "steps": [step.row() for step in self.steps],
            "verdict": self.verdict,
        }
