"""The shapes of answers that are tables: certificates that wait, keys, changes, reload. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from s2sgw.admin.protocol import MissingRow
from s2sgw.admin.queue_ages import AgesRow


class CertificateSummary(TypedDict):
    """The content of one certificate of a chain (`trust.certificate.Summary.row`)."""

    sha256: str
    key: str  # `sha256:` of the public key
    kind: str  # "RSA 2048", "EC secp256r1", …
    subject: str
    issuer: str
    self_signed: bool
    names: list[str]
    serial: str
    unreadable: str  # why it cannot be read; "" if it can
    not_before: float | None
    not_after: float | None


class KeyEntry(TypedDict):
    """A key that is remembered of a peer."""

    peer: str
    key: str
    origin: str  # "operator", "first-use", "configuration"
    at: float | None
    expires: float | None
    revoked: float | None
    note: str
    certificate: CertificateSummary | None


class KeyRow(KeyEntry):
    """A key, and whether it proves its peer now."""

    counts: bool


class PendingRow(TypedDict):
    """A certificate that waits for approval."""

    peer: str
    key: str
    first: float
    last: float
    times: int
    direction: str
    local: str
    address: str
    cause: str
    reasons: list[str]
    dns: dict[str, Any]
    chain: list[CertificateSummary]
    waiting: int  # stanzas that wait for the peer
    remembered: list[KeyEntry]


class RevokedKey(TypedDict):
    """A key that was revoked or forgotten, and how many streams were closed."""

    peer: str
    key: str
    forgotten: bool
    closed: int


class Changed(TypedDict):
    """The number of lanes and stanzas that a change affected."""

    lanes: int
    stanzas: int
    node: NotRequired[str]  # in a cluster: the home of the peer, which has done it


class Released(Changed):
    """The same for a release, with the number of holds that ended."""

    holds: int
    held: NotRequired[list[str]]  # the holds of the peer, or of the whole lane, that still hold the target back


class ReloadAnswer(TypedDict):
    """The result of a reload (`admin.reload.ReloadResult`)."""

    ok: bool
    config: str
    complaints: list[str]
    warnings: list[str]
    changes: list[dict[str, Any]]  # {"key", "old", "new"}
    more_changes: int
    certificates: list[str]
    closed: list[dict[str, str]]


class Drained(TypedDict):
    """The beginning of a stop: waiting stanzas, whether the spool keeps them, and how many of them are on no disk."""

    waiting: int
    kept: bool
    unsaved: int  # in memory only, because the disk is full or fails; lost unless delivered in time


class Token(TypedDict):
    """A token that logs in to the console once."""

    user: str
    role: str  # "operator", "read-only"
    token: str
    expires: float
    address: str  # of the page that logs in; "" if the configuration does not tell


class Explanation(TypedDict):
    """The policy of a peer, its records, and the present decision."""

    peer: str
    local: str
    file: str
    planned: bool
    changed: bool
    bar: str | None
    objects: list[dict[str, Any]]
    keys: list[dict[str, Any]]
    certificate: dict[str, Any] | None
    dns: dict[str, Any] | None  # None if nothing was looked up
    past: list[dict[str, Any]]
    remembered: list[dict[str, Any]]
    pending: list[dict[str, Any]]
    now: dict[str, Any]
    refusals: list[dict[str, Any]]
    lanes: list[dict[str, Any]]  # waiting stanzas from and to the peer
    node: NotRequired[str]  # in a cluster: the home of the peer, which has answered


class Replayed(TypedDict):
    """The number of handshakes that were judged again, and those with another verdict."""

    file: str
    handshakes: int
    seconds: float
    changed: list[dict[str, Any]]


class ProbeAnswer(TypedDict):
    """The report of a probe."""

    version: int
    domain: str
    local: str
    steps: list[dict[str, Any]]  # `runtime.probe_report.ProbeStep.row`
    verdict: str  # "federates" or "fails"


class LiveCheckAnswer(TypedDict):
    """The facts that were checked."""

    ok: bool
    live: list[dict[str, Any]]  # `runtime.live_check.LiveFact.row`


class DailyReportAnswer(TypedDict):
    """One day of the daily report."""

    version: int
    day: str
    domains: list[str]
    written: int
    peers: list[dict[str, Any]]  # `reporting.daily_report.PeerDay.row`; in a cluster with the `node` of each
    missing: NotRequired[list[MissingRow]]


class ReloadPlan(TypedDict):
    """The changes that a reload of a file would make. `ok`: a reload is enough."""

    ok: bool
    config: str
    complaints: list[str]
    warnings: list[str]
    changes: list[dict[str, Any]]
    more_changes: int


class ClosedStream(TypedDict):
    """A stream that a change of the policy closed."""

    direction: str
    peer: str
    local: str
    address: str
    cause: str
    detail: str


class CloseAnswer(TypedDict):
    """The result of `close`."""

    peer: str
    closed: int
    node: NotRequired[str]  # in a cluster: the home of the peer, which has done it


class ClusterAnswer(TypedDict):
    """The answer to `cluster status`: this node of a cluster. Durations are seconds."""

    node: str
    session: str | None  # None: it has not joined, or was declared dead
    homes: int  # peers whose home it is
    takeovers: int  # peers that it took over with their stanzas since its start
    lease: float  # for how long it may still send to other servers; 0: it may not
    heartbeat: float | None  # since the last heartbeat that the engine acknowledged was sent
    engine: dict[str, Any]  # {"connected": …, "problem": …}
    others: list[dict[str, str]]  # {"node", "state": "alive" or "silent", "listener"}
    nodes: NotRequired[list[dict[str, Any]]]  # the same of the other nodes; without `here`
    missing: NotRequired[list[MissingRow]]  # those that gave no answer


class SpreadAnswer(TypedDict):
    """The result of one step of `cluster spread`."""

    node: str  # this node
    homes: dict[str, int]  # the number of homes of each node, after the step
    plan: list[dict[str, Any]]  # moves that are left, or all with `dry_run`: {"from", "to", "homes"}; none: the homes are even
    moved: list[dict[str, str]]  # {"peer", "from", "to"}
    kept: list[dict[str, str]]  # peers that could not be moved: {"peer", "node", "why"}
    missing: list[MissingRow]  # nodes that gave no answer, or take no peers now


class DenyAnswer(TypedDict):
    """The result of `deny`."""

    peer: str
    denied: bool
    changed: bool
    closed: list[ClosedStream]
    node: NotRequired[str]  # in a cluster: this node, the others that have done it, and those that gave no answer
    nodes: NotRequired[list[str]]
    missing: NotRequired[list[MissingRow]]


class ForgetAnswer(TypedDict):
    """The result of `forget`."""

    peer: str
    proofs: bool
    keys: int
    pending: int
    refusals: int
    node: NotRequired[str]  # as in `DenyAnswer`
    nodes: NotRequired[list[str]]
    missing: NotRequired[list[MissingRow]]


class LogLevelAnswer(TypedDict):
    """The result of `log level`."""

    level: str
    before: str


class AgesAnswer(TypedDict):
    """The result of `queue ages`. `ages` of a row has one number more than `bounds`."""

    bounds: list[float]
    rows: list[AgesRow]
    missing: NotRequired[list[MissingRow]]  # in a cluster: the nodes that gave no answer
