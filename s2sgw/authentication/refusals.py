"""The text that the other side gets when a stream is refused.

A side that has not proven its domain may be a stranger. The text for it depends on what it presents and on the public DNS, never
on our policy for the claimed domain, nor on what we remember of that domain. The full reasons are in our own record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from s2sgw.stream.events import Refusal
from s2sgw.trust.presented import faults
from s2sgw.xmpp.ending import MISTAKES, Cause, Ending, Layer
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain

_CONDITIONS: dict[Cause, StreamCondition] = {
    Cause.NO_SUCH_DOMAIN: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.DNS_UNREACHABLE: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.RESOLVER_BUSY: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.PRIVATE_ADDRESS: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.LOOP: StreamCondition.REMOTE_CONNECTION_FAILED,
    Cause.INTERNAL: StreamCondition.INTERNAL_SERVER_ERROR,
    Cause.TOO_MANY_STREAMS: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.TOO_MANY_CLAIMS: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.TOO_MANY_DOMAINS: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.SHUTDOWN: StreamCondition.SYSTEM_SHUTDOWN,
    Cause.OTHER_NODE: StreamCondition.CONFLICT,
    Cause.NO_NODE: StreamCondition.RESOURCE_CONSTRAINT,
    Cause.SPOOL_UNREADABLE: StreamCondition.RESOURCE_CONSTRAINT,
}
#: Causes that can pass by themselves. A certificate or a policy must be changed by an administrator.
_PASSING = (Layer.DNS, Layer.TCP, Layer.STREAM)
#: Causes that depend on our policy for the claimed domain, or on our records of it.
_UNPROVEN = frozenset({Cause.NOT_PROVEN, Cause.ADDRESS_MISMATCH})
_UNPROVEN_LAYERS = (Layer.PKIX, Layer.AUTH)
_BARRED = "This server has no streams with that domain. Ask its administrator."


def refusal(ending: Ending) -> Refusal:
    """Return the stream error for `ending`: the fault, the reason, and whether to try again (R2, R15)."""
    condition = _CONDITIONS.get(ending.cause, StreamCondition.POLICY_VIOLATION)
    passing = ending.layer in _PASSING and not ending.final and ending.cause not in MISTAKES
    again = " Trying again later may help." if passing else ""
    detail = f" ({ending.detail})" if ending.detail else ""
    text = f"{ending.layer}: {ending.account.remedy}{detail}{again}"
    return Refusal(condition, text, Ending(ending.cause, ending.detail, ending.by, condition.value))


def barred(bar: Ending) -> Refusal:
    """Return the refusal of a peer that the policy bars. It does not name the key or list."""
    condition = StreamCondition.POLICY_VIOLATION
    return Refusal(condition, f"{Layer.POLICY}: {_BARRED}", replace(bar, condition=condition.value))


def refusal_of_unproven(ending: Ending, claimed: Domain, chain: Sequence[bytes], at: datetime) -> Refusal:
    """Return the stream error for a peer that claims to be `claimed`, presented `chain`, and has proven nothing."""
    if ending.cause in _UNPROVEN or ending.layer in _UNPROVEN_LAYERS:
        return _not_proven(ending, claimed, chain, at)
    if ending.cause in (Cause.NOT_ALLOWED, Cause.DENY_LISTED):
        return barred(ending)
    if ending.layer is Layer.DNS:
        return refusal(ending)
    return _with_full_record(refusal(replace(ending, detail="")), ending)


def _not_proven(ending: Ending, claimed: Domain, chain: Sequence[bytes], at: datetime) -> Refusal:
    found = faults(chain, claimed, at) or ["its issuer is not trusted here, or the policy requires more"]
    text = f"{Layer.AUTH}: {claimed} is not proven as this server requires. The certificate: {'; '.join(found)}."
    return _with_full_record(Refusal(StreamCondition.POLICY_VIOLATION, text, ending), ending)


def _with_full_record(told: Refusal, ending: Ending) -> Refusal:
    return replace(told, ending=replace(ending, condition=told.condition.value))


def policy_changed(peer: Domain) -> Refusal:
    """Return the refusal of a stream whose peer was judged by a policy that is in force no more. A new stream is judged anew."""
    text = f"the policy for {peer} has changed meanwhile: open a new stream"
    return Refusal(StreamCondition.RESET, text, Ending(Cause.RECONFIGURED, text, condition=StreamCondition.RESET.value))
