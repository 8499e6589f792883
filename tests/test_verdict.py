"""The verdict, over the full product of its inputs, against the reference table in verdict_table.txt."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple, get_args

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.model import ALL_PROOFS, Dialback, Encryption, PeerPolicy, Proof, Resolve, UnknownIssuer
from s2sgw.policy.values import TLSVersion
from s2sgw.policy.verdict import Verdict, decide
from s2sgw.trust.evidence import Attempt, Role
from s2sgw.xmpp.ending import Cause, Ending

TABLE = Path(__file__).with_name("verdict_table.txt")

PROVEN_PKIX = Attempt("pkix", True, reasons=("a name matches",))
PROVEN_PIN = Attempt("pin", True, reasons=("the key is pinned",))
SELF_SIGNED = Attempt("pkix", False, Cause.SELF_SIGNED, ("self-signed",))
UNKNOWN_ISSUER = Attempt("pkix", False, Cause.UNKNOWN_ISSUER, ("unknown issuer",))
NO_PIN = Attempt("pin", False, Cause.NOT_PROVEN, ("no key is pinned",))
OTHER_PIN = Attempt("pin", False, Cause.PIN_MISMATCH, ("another key",))

EVIDENCE: dict[str, tuple[Attempt, ...]] = {
    "untried": (),
    "no-certificate": (Attempt("pin", False, Cause.NO_CERTIFICATE), Attempt("pkix", False, Cause.NO_CERTIFICATE)),
    "valid": (NO_PIN, PROVEN_PKIX),
    "self-signed": (NO_PIN, SELF_SIGNED),
    "pinned": (PROVEN_PIN, SELF_SIGNED),
    "mismatch": (SELF_SIGNED, OTHER_PIN),
    "valid-mismatch": (OTHER_PIN, PROVEN_PKIX),
    "valid-pinned": (PROVEN_PIN, PROVEN_PKIX),
    "several": (Attempt("posh", False, Cause.UNKNOWN_ISSUER), Attempt("pkix", False, Cause.EXPIRED), NO_PIN),
    "published": (UNKNOWN_ISSUER, Attempt("posh", False), Attempt("dane", True), NO_PIN),
}
PROOFS: dict[str, tuple[Proof, ...]] = {
    "all": ALL_PROOFS, "pkix": ("pkix",), "pin": ("pin",), "pin-first": ("pin", "pkix"), "nothing": (),
}
STREAMS = ("none", "unknown", "TLSv1.1", "TLSv1.2", "TLSv1.3")
UNRESOLVED = Ending(Cause.DNS_UNREACHABLE, "SERVFAIL")
PINS = ((), ("sha256:" + "0" * 64,))

Row = tuple[tuple[frozenset[str], ...], tuple[str, ...]]


class Inputs(NamedTuple):
    resolved: str
    allow: str
    tls: Encryption
    stream: str
    minimum: TLSVersion
    dialback: Dialback
    unknown_issuer: UnknownIssuer
    resolve: Resolve
    role: Role
    evidence: str
    proofs: str
    pins: tuple[str, ...]


def everything() -> list[Inputs]:
    """The full product."""
    return [
        Inputs(*each)
        for each in product(
            ("yes", "no"), ("yes", "no"), get_args(Encryption), STREAMS, get_args(TLSVersion), get_args(Dialback),
            get_args(UnknownIssuer), get_args(Resolve), get_args(Role), EVIDENCE, PROOFS, PINS,
        )
    ]


@cache
def tables() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for line in TABLE.read_text("utf-8").splitlines():
        if line.startswith("["):
            rows = found[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            inputs, outputs = line.split("->")
            rows.append((tuple(frozenset(cell.split("|")) for cell in inputs.split()), tuple(outputs.split())))
    return found


def matching(row: Row, values: tuple[str, ...]) -> bool:
    return len(row[0]) == len(values) and all(cell == {"*"} or value in cell for cell, value in zip(row[0], values, strict=True))


@cache
def look_up(table: str, *values: str) -> tuple[int, tuple[str, ...]]:
    """The number of the one row that `values` match, and its outputs."""
    found = [(number, row[1]) for number, row in enumerate(tables()[table]) if matching(row, values)]
    assert len(found) == 1, f"[{table}] {values} matches {len(found)} rows"
    return found[0]


class Expected(NamedTuple):
    external: bool
    dialback: bool
    proven_by: str | None
    cause: Cause | None


def expected(given: Inputs, used: Counter[tuple[str, int]]) -> Expected:
    """What the table says."""
    channel_row, (channel,) = look_up("channel", given.stream, given.minimum)
    proof_row, (proof, cause) = look_up("proof", given.evidence, given.proofs)
    row, (external, dialback, proven_by, ending) = look_up(
        "verdict", given.resolved, given.allow, given.tls, channel, given.dialback, given.role, proof,
    )
    used.update([("channel", channel_row), ("proof", proof_row), ("verdict", row)])
    named = {"-": None, "=": cause, "unresolved": UNRESOLVED.cause.value}
    ended = named.get(ending, ending)
    return Expected(
        external == "yes", dialback == "yes", {"-": None, "=": proof}.get(proven_by, proven_by), Cause(ended) if ended else None,
    )


def verdict(given: Inputs) -> Verdict:
    policy = PeerPolicy(
        allow=given.allow == "yes", tls=given.tls, minimum=given.minimum, dialback=given.dialback, proofs=PROOFS[given.proofs],
        unknown_issuer=given.unknown_issuer, resolve=given.resolve, pins=given.pins,
    )
    return decide(
        policy, EVIDENCE[given.evidence], role=given.role, secured=given.stream != "none",
        tls_version=given.stream if given.stream.startswith("TLS") else None,
        unresolved=UNRESOLVED if given.resolved == "no" else None,
    )


class TableTests(SynchronousTestCase):
    """The table is a function, and the code is that function."""

    def test_full_product(self) -> None:
        """R2, R8, R12, R20, R24: every combination of inputs has the verdict of the one row that it matches, every row is matched."""
        used: Counter[tuple[str, int]] = Counter()
        wrong = []
        for given in everything():
            told, found = expected(given, used), verdict(given)
            if told != (found.external, found.dialback, found.proven_by, found.ending and found.ending.cause):
                wrong.append((given, told, found))
        self.assertEqual([], wrong[:3])
        rows = {(table, number) for table, rows in tables().items() for number in range(len(rows))}
        self.assertEqual(set(), rows - set(used))

    def test_refusal_or_way(self) -> None:
        """A verdict refuses, or offers a way to authenticate, never both and never neither; and it always has its reasons."""
        for given in everything():
            found = verdict(given)
            self.assertEqual(found.ending is None, found.external or found.dialback, given)
            self.assertTrue(found.reasons and all(found.reasons), given)

    def test_no_weaker_policy_refuses_more(self) -> None:
        """Whatever `dialback = "never"` lets pass, "with-tls" does, and what that lets pass, "always" does."""
        for given in everything():
            passing = [verdict(given._replace(dialback=each)).ending is None for each in get_args(Dialback)]
            self.assertEqual(sorted(passing), passing, given)


class ReasonTests(SynchronousTestCase):
    """What the verdict says in words."""

    def test_every_attempt_is_told(self) -> None:
        """Each attempt is told with its outcome and reasons, and one that the policy does not accept is marked so."""
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
        """An attempt with no reasons is told by its outcome alone."""
        found = decide(PeerPolicy(), (Attempt("dane", True),), role="initiating", secured=True)
        self.assertEqual(("dane: proven", 'dialback = "never"'), found.reasons)

    def test_unresolved(self) -> None:
        """R2: the ending of the resolution is the verdict's own, whatever else is proven."""
        found = decide(PeerPolicy(), (PROVEN_PKIX,), role="initiating", secured=True, unresolved=UNRESOLVED)
        self.assertIs(UNRESOLVED, found.ending)

    def test_unresolved_without_words(self) -> None:
        """An ending without a detail is told by its cause."""
        found = decide(PeerPolicy(), (), role="initiating", secured=True, unresolved=Ending(Cause.NO_SUCH_DOMAIN))
        self.assertEqual(("no-such-domain",), found.reasons)

    def test_too_old(self) -> None:
        """R8: a stream whose TLS is too old for this peer is told which it has and which it needs."""
        found = decide(PeerPolicy(minimum="1.3"), (), role="initiating", secured=True, tls_version="TLSv1.2")
        self.assertEqual(("the stream has TLSv1.2, the policy for this peer requires TLS 1.3",), found.reasons)
