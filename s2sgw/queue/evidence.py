"""The evidence that settles the receipt of a stanza. A settled receipt lets the previous hop forget the stanza.

An accepted stanza has exactly one owner at any time. Its receipt is settled when the next owner is known. The type of the
evidence tells the owner: the next hop, the disk, the sender (by an error stanza that is safe itself), or none, by a rule in
docs/custody.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Rule(StrEnum):
    """The rules for dropping a stanza on purpose (docs/custody.md, "What is dropped")."""

    #: it answered one of the gateway's own pings (R41)
    PING_REPLY = "ping-reply"
    #: it answered a request that we had already answered by an error (R33)
    LATE_REPLY = "late-reply"
    #: a newer presence took its place while it waited (R40)
    SUPERSEDED_PRESENCE = "superseded-presence"
    #: it could not be delivered, and no error may answer it (R33): an error, a result, a presence that expects no answer
    UNANSWERABLE = "unanswerable"
    #: a filter or a rate limit of the policy refused it, and the policy says that such stanzas are dropped
    FILTERED = "filtered"
    #: an operator dropped it quietly
    OPERATOR_DROP = "operator-drop"
    #: its addresses were altered on the disk, so no error can be sent
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class ReceiptEvidence:
    """One of the classes below. `label` is the name by which settled receipts are counted."""

    label: ClassVar[str]


@dataclass(frozen=True, slots=True)
class PassedOn(ReceiptEvidence):
    """The next hop acknowledged the stanza."""

    label: ClassVar[str] = "passed_on"


@dataclass(frozen=True, slots=True)
class Written(ReceiptEvidence):
    """The stanza was written to a next hop that acknowledges nothing: by configuration, or because it answers no pings (R41)."""

    label: ClassVar[str] = "written"


@dataclass(frozen=True, slots=True)
class OnDisk(ReceiptEvidence):
    """The commit with the stanza is done."""

    label: ClassVar[str] = "on_disk"


@dataclass(frozen=True, slots=True)
class ErrorInCustody(ReceiptEvidence):
    """An error stanza answers it, and the error is safe by `error`."""

    error: ReceiptEvidence
    label: ClassVar[str] = "answered"


@dataclass(frozen=True, slots=True)
class DroppedByRule(ReceiptEvidence):
    """The stanza was dropped by `rule`."""

    rule: Rule
    label: ClassVar[str] = "dropped_by_rule"


PASSED_ON = PassedOn()
WRITTEN = Written()
ON_DISK = OnDisk()
DROPPED: Mapping[Rule, DroppedByRule] = {rule: DroppedByRule(rule) for rule in Rule}

#: The labels, for metrics.
LABELS = tuple(each.label for each in (PassedOn, Written, OnDisk, ErrorInCustody, DroppedByRule))
