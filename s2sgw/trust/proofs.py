"""The methods to prove a peer: pure functions from evidence to an `Attempt` with all faults."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from s2sgw.trust.anchors import Anchors
from s2sgw.trust.evidence import Attempt, Evidence, Failure, Role
from s2sgw.trust.identity import Constraints, matches, matches_host
from s2sgw.trust.path import PresentedChain, validate
from s2sgw.trust.pem import unarmoured
from s2sgw.trust.pins import Fingerprint
from s2sgw.trust.revocation import RevocationLists
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain, InvalidJID

#: Of several causes, the first in this order is the attempt's: causes that no operator's approval can heal come first.
PRECEDENCE = (
    Cause.NO_CERTIFICATE, Cause.REVOKED, Cause.BAD_CHAIN, Cause.EXPIRED, Cause.NOT_YET_VALID, Cause.WEAK_KEY,
    Cause.WRONG_USAGE, Cause.SELF_SIGNED, Cause.UNKNOWN_ISSUER, Cause.NAME_MISMATCH,
)


def prove_pkix(
    evidence: Evidence, anchors: Anchors, *, revocations: RevocationLists | None = None, insist_on_xmpp_addr: bool = False,
    secure_delegation: bool = False, presented: PresentedChain | None = None,
) -> Attempt:
    """Return whether there is a chain to one of `anchors`, and a name that is the requested domain (R13, R17–R19, R21).

    `revocations`: lists that may revoke certificates on the path. `insist_on_xmpp_addr`: a certificate with an xmppAddr is judged
    by it alone. `secure_delegation`: the target of an SRV record that DNSSEC secured counts as the domain too, if we connected to
    it. `presented` is the parsed `evidence.chain`: paths that were searched are not searched again.
    """
    chain = presented or PresentedChain(evidence.chain)
    found = validate(chain, anchors, evidence.at, revocations)
    if not evidence.chain:
        return _failed(found.failures)
    named = chain.names.within([Constraints.of(each) for each in found.path[1:]])
    match = matches(named, evidence.domain, insist_on_xmpp_addr=insist_on_xmpp_addr)
    if match.name is None and secure_delegation and evidence.target_secure and evidence.role == "receiving":
        match = match._replace(name=matches_host(named, evidence.target or "").name)
    if match.name is None:
        return _failed((*found.failures, *(Failure(Cause.NAME_MISMATCH, reason) for reason in match.reasons)))
    if not found.valid:
        return _failed(found.failures)
    return Attempt("pkix", True, reasons=(f"{match.name} matches, on a chain to a trusted anchor",))


def _failed(failures: Collection[Failure]) -> Attempt:
    causes = sorted({failure.cause for failure in failures}, key=PRECEDENCE.index)
    return Attempt("pkix", False, causes[0], tuple(failure.text for failure in failures), tuple(causes))


def prove_pin(evidence: Evidence, pins: Collection[Fingerprint]) -> Attempt:
    """Return whether the certificate's key is an approved one (R20). Its names, dates and issuer are not checked.

    Without pins there is no mismatch: the cause is `NOT_PROVEN`.
    """
    if not evidence.chain:
        return _unpinned(Cause.NO_CERTIFICATE, "no certificate was presented")
    try:
        presented = Fingerprint.of(evidence.chain[0])
    except ValueError as error:
        return _unpinned(Cause.BAD_CHAIN, f"the certificate cannot be read: {error}")
    if not pins:
        return _unpinned(Cause.NOT_PROVEN, f"no key is pinned; the peer's is {presented}")
    if presented not in pins:
        approved = ", ".join(sorted(map(str, pins)))
        return _unpinned(Cause.PIN_MISMATCH, f"the peer's key is {presented}, approved is {approved}")
    return Attempt("pin", True, reasons=(f"the key {presented} is pinned",))


def _unpinned(cause: Cause, reason: str) -> Attempt:
    return Attempt("pin", False, cause, (reason,), (cause,))


def validate_peer(
    chain: bytes | Collection[bytes], anchors: Anchors | bytes | Collection[bytes], domain: str, at: datetime,
    role: Role = "receiving", *, crls: bytes | Collection[bytes] = (), insist_on_xmpp_addr: bool = False,
) -> Attempt:
    """Return whether `chain` proves `domain` by PKIX at the time `at`, with trust in `anchors`; and all reasons if not.

    This is one call for test suites of path validation. The gateway itself uses the same code, from `prove_pkix` on.

    `chain` is the leaf and then the other certificates that the peer sends, in any order: one PEM text, or DER or PEM pieces.
    `anchors` are PEM texts or DER certificates, or a ready `Anchors`. `domain` is the XMPP domain as text, U-labels or
    A-labels; `at` an aware datetime. `role` is the peer's role on the stream; either accepts the same certificates (R21).
    `crls` are revocation lists, in PEM or DER. Unusable ones are ignored.

    The answer's `proven` is the result; `cause` is the most important `Cause`, `causes` has all, `reasons` has each in words.
    Only a naive `at` raises, a `ValueError`. A text that is no domain matches no name.
    """
    if at.tzinfo is None:
        raise ValueError("the time must say its zone")
    pieces = tuple(der for piece in _pieces(chain) for der in unarmoured(piece))
    trusted = anchors if isinstance(anchors, Anchors) else Anchors.parse(*_pieces(anchors))
    revocations = RevocationLists.parse(*_pieces(crls))
    try:
        evidence = Evidence(Domain.registered(domain), role, at, pieces)
    except InvalidJID as error:
        return _failed((*validate(pieces, trusted, at, revocations).failures, Failure(Cause.NAME_MISMATCH, str(error))))
    return prove_pkix(evidence, trusted, revocations=revocations, insist_on_xmpp_addr=insist_on_xmpp_addr)


def _pieces(material: bytes | Collection[bytes]) -> Collection[bytes]:
    return (material,) if isinstance(material, bytes) else material
