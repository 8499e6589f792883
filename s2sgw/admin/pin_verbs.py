"""The verbs of `s2sgw pending` and `s2sgw pins`: certificates that wait for approval, and remembered keys of peers (R20).

Each decision is written to the audit log before it takes effect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from s2sgw.admin.server import Arguments, Rows, Verb, VerbError, asked_by
from s2sgw.admin.verbs import domain_argument, flag_argument, limit_asked, peer_asked, seconds_argument
from s2sgw.peerdb.keys import RememberedKey
from s2sgw.peerdb.peer_records import PeerRecords
from s2sgw.peerdb.pending import PendingCertificate
from s2sgw.policy.peers import PeerPolicies
from s2sgw.reporting.audit import AuditLog
from s2sgw.trust.pins import Fingerprint, InvalidFingerprint
from s2sgw.xmpp.jid import Domain

#: The longest note that goes with a key.
NOTE = 500


class PinVerbs:
    """Answers the verbs from the records of peers.

    `waiting` counts the stanzas that wait for a peer. `approved` retries them. `revoked` closes the streams that used a key.
    """

    def __init__(
        self, peer_records: PeerRecords, peers: PeerPolicies, audit: AuditLog, now: Callable[[], float], *,
        waiting: Callable[[Domain], int], approved: Callable[[Domain], None], revoked: Callable[[Domain, Fingerprint], int],
    ) -> None:
        self._peer_records = peer_records
        self._peers = peers
        self._audit = audit
        self._now = now
        self._waiting = waiting
        self._approved = approved
        self._revoked = revoked

    def verbs(self) -> dict[str, Verb]:
        """Return the verbs by name."""
        return {
            "pending": self.pending, "pins list": self.list, "pins add": self.add, "pins approve": self.approve,
            "pins revoke": self.revoke,
        }

    # --- reading ---

    def pending(self, arguments: Arguments) -> Rows:
        """Return the waiting certificates, the newest last, each with the keys that were remembered before.

        With `limit`, only the last ones.
        """
        domain = peer_asked(arguments)
        first = -limit_asked(arguments) if arguments.get("limit") is not None else None
        return Rows(self._pending_row(each) for each in self._peer_records.pending_certificates.list(domain)[first:])

    def _pending_row(self, pending: PendingCertificate) -> dict[str, Any]:
        domain = Domain.parse(pending.domain)
        remembered = [each.row() for each in self._peer_records.keys.of(domain) if each.key != pending.key]
        return {**pending.row(), "waiting": self._waiting(domain), "remembered": remembered}

    def list(self, arguments: Arguments) -> Rows:
        """Return every remembered key, and the keys that the configuration pins."""
        return Rows(self._keys(peer_asked(arguments), self._now()))

    def _keys(self, domain: Domain | None, now: float) -> Iterator[dict[str, Any] | None]:
        for each in self._peer_records.keys.of(domain):
            yield {**each.row(), "counts": each.counts(now)}
        written = self._peers.written
        named = written if domain is None else self._peers.policy(domain).objects
        for name in tuple(named):  # a reload empties the old tables
            peer = written.get(name)
            yield None
            for pin in (peer and peer.pins) or ():
                yield {
                    "peer": name, "key": pin, "origin": "configuration", "at": None, "expires": None, "revoked": None, "note": "",
                    "certificate": None, "counts": True,
                }

    # --- deciding ---

    async def add(self, arguments: Arguments) -> dict[str, Any]:
        """Approve a key that the operator knows, whether or not a certificate with it waits."""
        domain, key = domain_argument(arguments), _fingerprint(arguments)
        found = self._peer_records.pending_certificates.find(domain, key)
        return await self._remember("pins add", domain, key, arguments, found.chain[0] if found and found.chain else b"")

    async def approve(self, arguments: Arguments) -> dict[str, Any]:
        """Approve a pending certificate: the only one of the peer, or the one with the given key."""
        domain = domain_argument(arguments)
        waiting = self._peer_records.pending_certificates.list(domain)
        if not waiting:
            raise VerbError(f"no certificate of {domain} waits")
        if arguments.get("key") is None and len(waiting) > 1:
            keys = ", ".join(str(each.key) for each in waiting)
            raise VerbError(f"{len(waiting)} certificates of {domain} wait; name the key: {keys}", "usage")
        key = waiting[0].key if arguments.get("key") is None else _fingerprint(arguments)
        found = next((each for each in waiting if each.key == key), None)
        if found is None:
            raise VerbError(f"no certificate of {domain} with the key {key} waits")
        return await self._remember("pins approve", domain, key, arguments, found.chain[0] if found.chain else b"")

    async def _remember(
        self, action: str, domain: Domain, key: Fingerprint, arguments: Arguments, certificate: bytes,
    ) -> dict[str, Any]:
        now, lasts, note = self._now(), seconds_argument(arguments, "lasts", least=1), str(arguments.get("note") or "")[:NOTE]
        replaces = flag_argument(arguments, "replace")
        entry = RememberedKey(domain.ascii, key, "operator", now, None if lasts is None else now + lasts, None, note, certificate)
        approve = partial(self._peer_records.keys.approve, entry)
        await self._decide(arguments, action, domain, key, approve, expires=entry.expires, comment=note)
        if replaces:
            await self._revoke_others(arguments, domain, key, now)
        await self._peer_records.pending_certificates.take(domain, key)
        self._approved(domain)
        policy = self._peers.policy(domain)
        heard = "pin" in policy.proofs or policy.unknown_issuer != "reject"
        return {**entry.row(), "counts": heard}

    async def _revoke_others(self, arguments: Arguments, domain: Domain, key: Fingerprint, now: float) -> None:
        """Revoke the other keys of a peer, after `key` is approved: so the peer is never without a key. Raises `VerbError`."""
        for each in self._peer_records.keys.of(domain):
            if each.key != key and each.counts(now):
                revoke = partial(self._peer_records.keys.revoke, domain, each.key, now)
                try:
                    await self._decide(arguments, "pins revoke", domain, each.key, revoke)
                except VerbError as error:
                    raise VerbError(f"{key} is approved, but {each.key} is not revoked: {error}") from None

    async def revoke(self, arguments: Arguments) -> dict[str, Any]:
        """Revoke a key. It no longer proves the peer, and is not learned again."""
        domain, key = domain_argument(arguments), _fingerprint(arguments)
        forget, keys = flag_argument(arguments, "forget"), self._peer_records.keys
        change = partial(keys.forget, domain, key) if forget else partial(keys.revoke, domain, key, self._now())
        done = await self._decide(arguments, "pins forget" if forget else "pins revoke", domain, key, change)
        if not done:
            raise VerbError(f"{key} is not remembered for {domain}, or is revoked already")
        return {"peer": domain.ascii, "key": str(key), "forgotten": forget, "closed": self._revoked(domain, key)}

    async def _decide(
        self, arguments: Arguments, action: str, domain: Domain, key: Fingerprint, change: Callable[[], Awaitable[Any]],
        **facts: object,
    ) -> Any:
        """Write a decision to the audit log, then make the change. Raises `VerbError` if either cannot be written."""
        try:
            self._audit.note(action, by=asked_by(arguments), peer=domain.ascii, key=str(key), **facts)
            return await change()
        except TimeoutError as error:
            raise VerbError(f"it is not known whether this was changed: {error}; s2sgw pins list shows it") from None
        except OSError as error:
            raise VerbError(f"nothing was changed: {error}") from None


def _fingerprint(arguments: Arguments) -> Fingerprint:
    try:
        return Fingerprint.parse(str(arguments.get("key")))
    except InvalidFingerprint as error:
        raise VerbError(str(error), "usage") from None
