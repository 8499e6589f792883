"""Tests of the verdict, over the full product of its inputs, against the reference table in verdict_table.txt."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple, get_args

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.model import ALL_PROOFS, Dialback, Encryption, PeerPolicy, Proof, UnknownIssuer
from s2sgw.policy.values import TLSVersion
from s2sgw.policy.verdict import KeyStanding, Verdict, decide
from s2sgw.trust.evidence import Attempt, Role
from s2sgw.xmpp.ending import Cause, Ending
from tests.support import policy_page
from tests.support.verdict_reference import look_up, tables, used


def failed(method: str, *causes: Cause, veto: bool = False) -> Attempt:
    return Attempt(method, False, causes[0], tuple(map(str, causes)), causes, veto)  # type: ignore[arg-type]


PROVEN_PKIX = Attempt("pkix", True, reasons=("a name matches",))
PROVEN_PIN = Attempt("pin", True, reasons=("the key is pinned",))
SELF_SIGNED = Attempt("pkix", False, Cause.SELF_SIGNED, ("self-signed",), (Cause.SELF_SIGNED,))
UNKNOWN_ISSUER = failed("pkix", Cause.UNKNOWN_ISSUER)
NO_PIN = failed("pin", Cause.NOT_PROVEN)
OTHER_PIN = failed("pin", Cause.PIN_MISMATCH)

EVIDENCE: dict[str, tuple[Attempt, ...]] = {
    "untried": (),
    "no-certificate": (failed("pin", Cause.NO_CERTIFICATE), failed("pkix", Cause.NO_CERTIFICATE)),
    "valid": (NO_PIN, PROVEN_PKIX, failed("posh", Cause.NOT_PROVEN)),
    "self-signed": (NO_PIN, SELF_SIGNED),
    "misnamed": (failed("pkix", Cause.UNKNOWN_ISSUER, Cause.NAME_MISMATCH),),
    "expired": (failed("pkix", Cause.EXPIRED, Cause.SELF_SIGNED), failed("dane", Cause.NOT_PROVEN)),
    "pinned": (PROVEN_PIN, SELF_SIGNED),
    "other-pin": (SELF_SIGNED, OTHER_PIN),
    "valid-other-pin": (OTHER_PIN, PROVEN_PKIX),
    "first-used": (Attempt("trust-first-use", True), SELF_SIGNED),
    "dane": (SELF_SIGNED, Attempt("dane", True)),
    "dane-expired": (failed("pkix", Cause.EXPIRED, Cause.SELF_SIGNED), Attempt("dane", True)),
    "posh": (UNKNOWN_ISSUER, Attempt("posh", True), NO_PIN),
    "other-dane": (SELF_SIGNED, failed("dane", Cause.DANE_MISMATCH)),
    "vetoed": (PROVEN_PKIX, PROVEN_PIN, failed("dane", Cause.DANE_MISMATCH, veto=True)),
}
PROOFS: dict[str, tuple[Proof, ...]] = {
    "all": ALL_PROOFS, "pkix": ("pkix",), "pin": ("pin",), "dns": ("dane", "posh"), "nothing": (),
}
VERSIONS = ("none", "unknown", "TLSv1.1", "TLSv1.2", "TLSv1.3")
UNRESOLVED = Ending(Cause.DNS_UNREACHABLE, "SERVFAIL")


class Inputs(NamedTuple):
    state: str
    tls: Encryption
    version: str
    minimum: TLSVersion
    dialback: Dialback
    role: Role
    evidence: str
    proofs: str
    unknown_issuer: UnknownIssuer
    key: KeyStanding
    remembered: str


def everything() -> list[Inputs]:
    """Yield the full product, with the TLS versions that channels have (`ChannelTests` has all)."""
    return [
        Inputs(*each)
        for each in product(
            ("unresolved", "not-allowed", "good"), get_args(Encryption), ("none", "TLSv1.1", "TLSv1.3"), ("1.2",), get_args(Dialback),
            get_args(Role), EVIDENCE, PROOFS, get_args(UnknownIssuer), get_args(KeyStanding), ("nothing", "report", "refuse"),
        )
    ]


class Expected(NamedTuple):
    external: bool
    dialback: bool
    proven_by: str | None
    cause: str | None
    hold: bool
    learn: str
    report: bool


def expected(given: Inputs) -> Expected:
    """Return the verdict of the table."""
    (channel,) = look_up("channel", given.version, given.minimum)
    (stream,) = look_up("stream", given.tls, channel)
    (fallback,) = look_up("fallback", given.dialback, stream)
    proof, cause, veto, issuer_fault = _seen(given) if channel != "plain" else ("none", _plain(given.role), "no", "no")
    (held,) = look_up("pending", given.unknown_issuer, given.key, issuer_fault)
    (candidate,) = look_up("first-use", given.unknown_issuer, given.key, issuer_fault)
    (learn,) = look_up("learning", given.unknown_issuer, given.key, proof, issuer_fault)
    (past_proof,) = look_up("past-proof", given.remembered, given.proofs)
    (refusal,) = look_up("refusal", cause, held)
    said = look_up("verdict", given.state, stream, fallback, given.role, given.key, past_proof, proof, veto, candidate)
    external, dialback, proven_by, ending, hold, learned, report = said
    told = cause if refusal == "=" else refusal
    return Expected(
        external == "yes", dialback == "yes", {"-": None, "=": proof}.get(proven_by, proven_by),
        {"-": None, "=": told}.get(ending, ending), (held if hold == "=" else hold) == "yes", learn if learned == "=" else learned,
        past_proof == "report" if report == "=" else report == "yes",
    )


def _seen(given: Inputs) -> tuple[str, str, str, str]:
    proof, cause = look_up("proof", given.evidence, given.proofs, given.unknown_issuer)
    (veto,) = look_up("veto", given.evidence, given.proofs)
    (issuer_fault,) = look_up("issuer-fault", given.evidence)
    return proof, cause, veto, issuer_fault


def _plain(role: Role) -> str:
    return "encryption-required" if role == "initiating" else "tls-not-offered"


def with_secret(given: Inputs, without: Expected) -> tuple[Expected, bool]:
    """Return the verdict of the table with a shared secret, and whether the secret may be used."""
    (channel,) = look_up("channel", given.version, given.minimum)
    (stream,) = look_up("stream", given.tls, channel)
    (veto,) = look_up("veto", given.evidence, given.proofs)
    (change,) = look_up("secret", given.state, stream, given.key, veto, "accepted" if without.cause is None else "refused")
    if change != "instead":
        return without, change == "beside"
    return Expected(False, False, "secret" if given.role == "receiving" else None, None, False, "no", False), True


def verdict(given: Inputs, secret_file: Path | None = None) -> Verdict:
    policy = PeerPolicy(
        allow=given.state != "not-allowed", tls=given.tls, minimum=given.minimum, dialback=given.dialback, proofs=PROOFS[given.proofs],
        unknown_issuer=given.unknown_issuer, secret_file=secret_file, lost_proof="refuse" if given.remembered == "refuse" else "report",
    )
    return decide(
        policy, EVIDENCE[given.evidence], role=given.role, secured=given.version != "none",
        tls_version=given.version if given.version.startswith("TLS") else None,
        unresolved=UNRESOLVED if given.state == "unresolved" else None, key=given.key,
        remembered=None if given.remembered == "nothing" else "pkix",
    )


def seen(found: Verdict) -> Expected:
    cause = found.ending.cause.value if found.ending else None
    return Expected(found.external, found.dialback, found.proven_by, cause, found.hold, found.learn, found.report is not None)


class TableTests(SynchronousTestCase):
    """The table is a function, and the code implements it."""

    def test_full_product(self) -> None:
        """R2, R8, R12, R20, R22, R24: every combination of inputs has the verdict of its row, and every row is used."""
        wrong: list[object] = []
        for given in everything():
            told, found = expected(given), verdict(given)
            if told != seen(found):
                wrong.append((given, told, seen(found)))
            if (found.ending is None) != (found.external or found.dialback) or not (found.reasons and all(found.reasons)):
                wrong.append((given, "a way or a refusal, and its reasons", found))
        self.assertEqual([], wrong[:2], len(wrong))
        self.channels()
        self.secrets()
        rows = {(name, number) for name, table in tables().items() for number in range(len(table.rows))}
        self.assertEqual(set(), rows - used)

    def secrets(self) -> None:
        """R26: the same holds with a shared secret."""
        wrong: list[object] = []
        for given in everything():
            told, found = with_secret(given, expected(given)), verdict(given, Path("secret"))
            if told != (seen(found), found.secret) or not found.reasons:
                wrong.append((given, told, found))
        self.assertEqual([], wrong[:2], len(wrong))

    def channels(self) -> None:
        for version, minimum, tls in product(VERSIONS, get_args(TLSVersion), get_args(Encryption)):
            given = Inputs("good", tls, version, minimum, "always", "initiating", "valid", "all", "reject", "unknown", "nothing")
            self.assertEqual(expected(given), seen(verdict(given)), given)

    def test_no_weaker_policy_refuses_more(self) -> None:
        """"with-tls" accepts everything that `dialback = "never"` accepts, and "always" everything that "with-tls" accepts."""
        for given in everything():
            if given.dialback == "never":
                passing = [verdict(given._replace(dialback=each)).ending is None for each in get_args(Dialback)]
                self.assertEqual(sorted(passing), passing, given)

    def test_page(self) -> None:
        """docs/policy.md is generated from this table (`python -m tests.support.policy_page`)."""
        self.assertEqual(policy_page.page(), policy_page.PAGE.read_text("utf-8"))


class ReasonTests(SynchronousTestCase):
    """Tests of the texts of a verdict."""

    def test_every_attempt_is_told(self) -> None:
        """Each attempt has its outcome and reasons. One that the policy does not accept is marked."""
        found = decide(PeerPolicy(proofs=("pkix",)), (SELF_SIGNED, PROVEN_PIN), role="receiving", secured=True)
        self.assertEqual(
            (
                "pkix: not proven: self-signed",
                "pin: proven (not among the proofs that the policy accepts): the key is pinned",
                'dialback = "never"',
            ),
            found.reasons,
        )
        assert found.ending is not None
        self.assertEqual("; ".join(found.reasons), found.ending.detail)

    def test_attempt_without_words(self) -> None:
        """An attempt without reasons has only its outcome."""
        found = decide(PeerPolicy(), (Attempt("dane", True),), role="initiating", secured=True)
        self.assertEqual(("dane: proven", 'dialback = "never"'), found.reasons)

    def test_contradicted(self) -> None:
        """R22: inbound, TLSA records for another key are no veto, but no stanza of ours is sent on that stream (R36)."""
        other = failed("dane", Cause.DANE_MISMATCH)
        found = decide(PeerPolicy(), (PROVEN_PKIX, other), role="initiating", secured=True)
        self.assertEqual((found.external, found.contradicted), (True, True))
        self.assertFalse(decide(PeerPolicy(), (PROVEN_PKIX,), role="initiating", secured=True).contradicted)
        self.assertFalse(decide(PeerPolicy(proofs=("pkix",)), (PROVEN_PKIX, other), role="initiating", secured=True).contradicted)

    def test_unresolved(self) -> None:
        """R2: the ending of the resolution is the verdict's, whatever else is proven."""
        found = decide(PeerPolicy(), (PROVEN_PKIX,), role="initiating", secured=True, unresolved=UNRESOLVED)
        self.assertIs(UNRESOLVED, found.ending)

    def test_unresolved_without_words(self) -> None:
        """An ending without a detail gives its cause."""
        found = decide(PeerPolicy(), (), role="initiating", secured=True, unresolved=Ending(Cause.NO_SUCH_DOMAIN))
        self.assertEqual(("no-such-domain",), found.reasons)

    def test_revoked(self) -> None:
        """R26: a shared secret makes up for a certificate's defects, but not for its revocation."""
        policy = PeerPolicy(secret_file=Path("secret"))
        for causes, ending in (((Cause.EXPIRED,), None), ((Cause.EXPIRED, Cause.REVOKED), Cause.EXPIRED)):
            found = decide(policy, (failed("pkix", *causes),), role="initiating", secured=True)
            self.assertEqual(ending, found.ending and found.ending.cause)
            self.assertEqual(ending is None, found.secret)

    def test_too_old(self) -> None:
        """R8: for a stream whose TLS is too old for the peer, both versions are given."""
        found = decide(PeerPolicy(minimum="1.3"), (), role="initiating", secured=True, tls_version="TLSv1.2")
        self.assertEqual(("the stream has TLSv1.2, the policy for this peer requires TLS 1.3",), found.reasons)
