"""The verbs `close`, `deny`, `deny list` and `forget`: an operator's changes to one peer.

Each is written to the audit log first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.admin.server import Arguments, Verb, VerbError, asked_by
from s2sgw.admin.verbs import domain_argument, flag_argument
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.policy.values import parse_peer_name
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime.operator_denials import OperatorDenials, TooManyDenied
from s2sgw.runtime.policy_change import Closed, PeerStreams
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.xmpp.jid import Domain


@dataclass(frozen=True, slots=True)
class PeerServices:
    """The services that the verbs use. `apply_bars` closes the streams of peers that are denied now."""

    streams: PeerStreams
    denials: OperatorDenials
    apply_bars: Callable[[], Deferred[list[Closed]]]
    peer_records: PeerRecords
    record: EventRecord
    extensions: ExtensionMemory
    is_local: Callable[[Domain], bool]


class PeerVerbs:
    """Answers the verbs."""

    def __init__(self, services: PeerServices, audit: AuditLog) -> None:
        self._services = services
        self._audit = audit

    def verbs(self) -> dict[str, Verb]:
        """Return the verbs by name."""
        return {"close": self.close, "deny": self.deny, "deny list": self.denied, "forget": self.forget}

    def close(self, arguments: Arguments) -> dict[str, Any]:
        """Close all streams with a peer. Both sides may open new ones at once."""
        peer = self._peer(arguments)
        self._note(arguments, "close", peer=peer.ascii)
        return {"peer": peer.ascii, "closed": self._services.streams.disconnect(peer, "closed by an administrator")}

    async def deny(self, arguments: Arguments) -> dict[str, Any]:
        """Deny a peer, or with `undo` stop denying it. Its streams are closed, and its waiting stanzas are bounced."""
        name, undo, denials = _name(arguments), flag_argument(arguments, "undo"), self._services.denials
        if name == "default" or self._services.is_local(Domain.parse(name.removeprefix("*."))):
            raise VerbError("a local domain, or all peers, cannot be denied", "usage")
        if (name in denials.names) == undo or name in denials.learnt:
            self._note(arguments, "deny undone" if undo else "deny", peer=name)
        try:
            changed = await (denials.remove(name) if undo else denials.add(name))
        except TimeoutError as error:
            if denials.learnt.get(name) != (not undo):
                raise VerbError(str(error)) from None
            changed = True  # the change was told, and only the answer to the write is missing
        except (OSError, TooManyDenied) as error:
            raise VerbError(f"nothing was changed: {error}") from None
        changed |= denials.learnt.pop(name, None) is not None  # written by the node that asks, or told before the answer
        closed = await self._services.apply_bars() if changed else []
        return {"peer": name, "denied": not undo, "changed": changed, "closed": [each._asdict() for each in closed]}

    def denied(self, arguments: Arguments) -> list[str]:
        """Return the names that were denied by hand."""
        return sorted(self._services.denials.names)

    async def forget(self, arguments: Arguments) -> dict[str, Any]:
        """Forget what is remembered of a peer. Keys that an operator approved or revoked stay, unless `keys` is set."""
        peer, also_keys, records = self._peer(arguments), flag_argument(arguments, "keys"), self._services.peer_records
        self._note(arguments, "forget", peer=peer.ascii, keys=also_keys)
        try:
            keys = [each for each in records.keys.of(peer) if also_keys or each.is_first_use]
            for key in keys:
                await records.keys.forget(peer, key.key)
            waiting = records.pending_certificates.list(peer)
            for pending in waiting:
                await records.pending_certificates.take(peer, pending.key)
            proofs = await records.forget(peer)
        except OSError as error:
            raise VerbError(f"not everything was forgotten: {error}") from None
        self._services.extensions.forget(peer.ascii)
        return {
            "peer": peer.ascii, "proofs": proofs, "keys": len(keys), "pending": len(waiting),
            "refusals": self._services.record.forget({peer.ascii, peer.text}),
        }

    def _peer(self, arguments: Arguments) -> Domain:
        peer = domain_argument(arguments)
        if self._services.is_local(peer):
            raise VerbError(f"{peer} is a local domain; name a peer", "usage")
        return peer

    def _note(self, arguments: Arguments, action: str, **facts: object) -> None:
        """Write the change to the audit log. Raises `VerbError`: a change that cannot be recorded is not made."""
        try:
            self._audit.note(action, by=asked_by(arguments), **facts)
        except OSError as error:
            raise VerbError(f"nothing was changed: the audit log cannot be written: {error}") from None


def _name(arguments: Arguments) -> str:
    try:
        return parse_peer_name(arguments.get("peer"))
    except ValueError:
        raise VerbError('peer must be a domain name, or "*." and a domain name', "usage") from None
