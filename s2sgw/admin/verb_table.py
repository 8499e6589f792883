"""The table of verbs: the effect of each, its arguments, its answer, and the role that it needs.

The HTTP interface (`admin.http_api`) and its OpenAPI document (`admin.openapi`) are made from it. `is_read_only` decides for the
members of the group on the admin socket, and for the read-only users of the console.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from s2sgw.admin import answer_types as answers
from s2sgw.admin.protocol import MissingRow
from s2sgw.admin.queue_verbs import PoisonRow, StanzaRow, WaitingRow
from s2sgw.admin.server import VerbError
from s2sgw.admin.verbs import CertificateRow, LaneRow, PeerRow, RefusalRow, StatusReport, StreamRow

#: The types of a parameter; "target" is [peer], [from, to] or [from, to, number].
ParameterKind = Literal["text", "flag", "count", "seconds", "target", "path"]


@dataclass(frozen=True, slots=True)
class VerbParameter:
    """One argument of a verb."""

    name: str
    kind: ParameterKind
    text: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class VerbRow:
    """One verb. `answer` is the type of its result.

    `changes`: it changes something, and needs the role of an operator. `private`: it also needs this role, because its answer may
    have text of users. `local`: so too, because it reads files of this machine; it is answered on the admin socket only.
    """

    name: str
    text: str
    answer: Any
    parameters: tuple[VerbParameter, ...] = ()
    changes: bool = False
    private: bool = False
    local: bool = False

    @property
    def path(self) -> str:
        """The path of the verb below /api/v1/."""
        return self.name.replace(" ", "/")

    @property
    def for_operators(self) -> bool:
        """Whether it needs the role of an operator, with any arguments."""
        return self.changes or self.private or self.local

    def is_read_only(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether a read-only user may use it with these arguments.

        No file is read for such a user. One stanza is shown with its text, so it needs an operator.
        """
        kinds = {each.name: each.kind for each in self.parameters}
        if self.for_operators or not set(arguments) <= set(kinds):
            return False
        targets = [value for name, value in arguments.items() if kinds[name] == "target" and isinstance(value, list)]
        return all(len(target) < 3 for target in targets) and not any(kinds[name] == "path" for name in arguments)


_PEER = VerbParameter("peer", "text", "Only this peer.")
_THE_PEER = VerbParameter("peer", "text", "The peer's domain.", required=True)
_LIMIT = VerbParameter("limit", "count", "Maximum number of rows (default 1000).")
_HERE = VerbParameter("here", "flag", "Ask this node of a cluster alone.")
_TARGET = VerbParameter(
    "target", "target", "One peer, one lane (from, to), or one stanza (from, to, number).", required=True,
)
_KEY = VerbParameter("key", "text", 'The fingerprint of the public key, "sha256:…".', required=True)
_APPROVAL = (
    VerbParameter("lasts", "seconds", "Seconds for which the key counts (default: until it is revoked)."),
    VerbParameter("note", "text", "A comment that is kept with the key."),
    VerbParameter("replace", "flag", "Revoke the peer's other keys."),
)

ROWS = (
    VerbRow("status", "The gateway at a glance.", StatusReport, (_HERE,)),
    VerbRow("streams", "Open streams.", list[StreamRow | MissingRow], (_PEER, _LIMIT, _HERE)),
    VerbRow("lanes", "Queues of pairs of domains.", list[LaneRow | MissingRow], (_PEER, _LIMIT, _HERE)),
    VerbRow("peers", "Peers that were met.", list[PeerRow | MissingRow], (_PEER, _LIMIT, _HERE)),
    VerbRow("refusals", "Refused connections and deliveries, oldest first.", list[RefusalRow | MissingRow], (
        _PEER, _LIMIT, VerbParameter("letter", "flag", "Add a text to the other administrator."), _HERE,
    )),
    VerbRow("names", "Names of known peers that begin with a prefix.", list[str | MissingRow], (
        VerbParameter("prefix", "text", "The beginning of the names."), _LIMIT, _HERE,
    )),
    VerbRow("certs", "The certificates of the local domains.", list[CertificateRow | MissingRow], (_HERE,)),
    VerbRow("pending", "Certificates that wait for approval.", list[answers.PendingRow], (
        _PEER, VerbParameter("limit", "count", "Only the last ones, at most this number."),
    )),
    VerbRow("pins list", "Keys of peers.", list[answers.KeyRow], (_PEER,)),
    VerbRow("pins add", "Approve a key.", answers.KeyRow, (_THE_PEER, _KEY, *_APPROVAL), changes=True),
    VerbRow("pins approve", "Approve a certificate that waits.", answers.KeyRow, (
        _THE_PEER, VerbParameter("key", "text", "Which one, if several wait."), *_APPROVAL,
    ), changes=True),
    VerbRow("pins revoke", "Revoke a key and close what it opened.", answers.RevokedKey, (
        _THE_PEER, _KEY, VerbParameter("forget", "flag", "Forget it: it may be remembered at first use again."),
    ), changes=True),
    VerbRow("explain", "The policy of a peer, the records, and the present decision.", answers.Explanation, (
        _THE_PEER, VerbParameter("local", "text", "The local domain (default: the first)."),
        VerbParameter("look_up", "flag", "Ask the DNS and decide anew (default true)."),
        VerbParameter("with", "path", "A planned configuration; on the admin socket alone."), _HERE,
    )),
    VerbRow("replay", "Judge the last handshakes by a planned configuration.", answers.Replayed, (
        VerbParameter("with", "path", "The planned configuration.", required=True),
        VerbParameter("seconds", "seconds", "The age of the oldest handshake (default: 7 days)."),
    ), local=True),
    VerbRow("close", "Close all streams with a peer.", answers.CloseAnswer, (_THE_PEER,), changes=True),
    VerbRow("deny", "Deny a peer, or undo that.", answers.DenyAnswer, (
        VerbParameter("peer", "text", 'A domain, or "*." and a domain.', required=True),
        VerbParameter("undo", "flag", "Deny it no longer."),
    ), changes=True),
    VerbRow("deny list", "Names that were denied by `deny`.", list[str]),
    VerbRow("cluster status", "This node of a cluster, the others, and the engine.", answers.ClusterAnswer, (_HERE,)),
    VerbRow("cluster spread", "Move homes from nodes with many to nodes with few: one step.", answers.SpreadAnswer, (
        VerbParameter("dry_run", "flag", "Move none, and return the plan."),
        VerbParameter("busy", "flag", "Also move peers from which something came in the last 10 seconds."),
    ), changes=True),
    VerbRow("forget", "Forget what is remembered of a peer.", answers.ForgetAnswer, (
        _THE_PEER, VerbParameter("keys", "flag", "Also keys that an operator approved or revoked."),
    ), changes=True),
    VerbRow("log level", "The level of the log, or set it.", answers.LogLevelAnswer, (
        VerbParameter("level", "text", '"debug", "info", "warn", "error" or "critical".'),
    ), changes=True),
    VerbRow("queue list", "Waiting stanzas by peer.", list[WaitingRow | MissingRow], (_PEER, _LIMIT, _HERE)),
    VerbRow("queue ages", "How long stanzas have waited, by peer.", answers.AgesAnswer, (_PEER, _LIMIT, _HERE)),
    VerbRow(
        "queue show", "The stanzas of a peer or lane, or (for operators) one with its text.",
        list[StanzaRow | MissingRow], (_TARGET, _LIMIT, _HERE),
    ),
    VerbRow("queue poison", "Stanzas on which a server closed its stream.", list[PoisonRow], (_PEER, _LIMIT), private=True),
    VerbRow("queue hold", "Send nothing of the target until it is released.", answers.Changed, (_TARGET,), changes=True),
    VerbRow("queue release", "End a hold.", answers.Released, (_TARGET,), changes=True),
    VerbRow("queue flush", "Try to deliver now.", answers.Changed, (_TARGET,), changes=True),
    VerbRow("queue drop", "Return waiting stanzas to their senders.", answers.Changed, (
        _TARGET, VerbParameter("quietly", "flag", "Delete them without a bounce."),
        VerbParameter("older_than", "seconds", "Only those that have waited at least this long."),
    ), changes=True),
    VerbRow("console token", "A token that logs in to the console once.", answers.Token, (
        VerbParameter("user", "text", 'The name for the audit log (default "operator").'),
        VerbParameter("role", "text", '"operator" (the default) or "read-only".'),
    ), changes=True, local=True),
    VerbRow("probe", "Try to federate with a domain, step by step. It opens connections.", answers.ProbeAnswer, (
        VerbParameter("domain", "text", "The domain.", required=True),
        VerbParameter("local", "text", "The local domain that asks (default: the first)."),
        VerbParameter("inbound", "flag", "Also judge the domain as if it opened the stream."),
    ), changes=True),
    VerbRow("check live", "Check that everything works now. It opens connections.", answers.LiveCheckAnswer, changes=True),
    VerbRow("report", "The daily report, for each peer.", answers.DailyReportAnswer, (
        _PEER, VerbParameter("day", "text", 'The day, e.g. "2026-11-20" (default: today).'), _HERE,
    )),
    VerbRow("reload plan", "The changes of a file that a reload makes, and those that need a restart.", answers.ReloadPlan, (
        VerbParameter("with", "path", "The file (default: the gateway's own)."),
    ), local=True),
    VerbRow("reload", "Read the configuration again.", answers.ReloadAnswer, (
        VerbParameter("keep_streams", "flag", "Close no stream."),
    ), changes=True),
    VerbRow("drain", "Stop the gateway as SIGTERM does.", answers.Drained, changes=True),
)
TABLE: Mapping[str, VerbRow] = MappingProxyType({row.name: row for row in ROWS})


#: The verb that is not in the table: over HTTP it is `/events`, which read-only users may ask too.
WATCH, WATCH_ARGUMENTS = "watch", frozenset({"peer", "here"})


def is_read_only(verb: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a user who may change nothing may use this: a member of the group, or a read-only user of the console."""
    if verb == WATCH:
        return set(arguments) <= WATCH_ARGUMENTS
    row = TABLE.get(verb)
    return row is not None and row.is_read_only(arguments)


def from_query(row: VerbRow, query: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return the arguments in the query of a URL. Raises `VerbError`."""
    known = {each.name: each for each in row.parameters}
    arguments: dict[str, Any] = {}
    for name, values in query.items():
        if name not in known:
            takes = f"{row.name} takes {', '.join(known)}" if known else f"{row.name} takes no arguments"
            raise VerbError(f"there is no argument {name!r}; {takes}", "usage")
        if known[name].kind == "target":
            arguments[name] = values
        elif len(values) > 1:
            raise VerbError(f"{name} is given twice", "usage")
        else:
            arguments[name] = _value(known[name], values[0])
    return arguments


def _value(parameter: VerbParameter, text: str) -> Any:
    try:
        if parameter.kind == "flag":
            return {"true": True, "false": False}[text]
        if parameter.kind == "count":
            return int(text)
        return float(text) if parameter.kind == "seconds" else text
    except (KeyError, ValueError):
        expected = {"flag": "true or false", "count": "a whole number"}.get(parameter.kind, "a number")
        raise VerbError(f"{parameter.name} must be {expected}", "usage") from None
