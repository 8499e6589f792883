"""Presence that waits is worth only its newest value, where nobody can tell the difference (R40)."""

from __future__ import annotations

from s2sgw.queue.entries import QueuedStanza
from s2sgw.xmpp.namespaces import MUC, MUC_USER
from s2sgw.xmpp.stanza import Stanza

Addresses = tuple[str, str]
_ROOMS = (f"{MUC}}}", f"{MUC_USER}}}")


def replaceable(stanza: Stanza) -> bool:
    """Available or unavailable, of one resource, and no business of a chat room, where joins and leaves count each."""
    if stanza.kind != "presence" or stanza.type not in (None, "unavailable") or "/" not in stanza.from_:
        return False
    return not any(payload.startswith(_ROOMS) for payload in stanza.payloads)


class LatestPresence:
    """The waiting presence of each pair of addresses that the next one may take the place of."""

    def __init__(self) -> None:
        self._waiting: dict[Addresses, QueuedStanza] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def note(self, held: QueuedStanza) -> QueuedStanza | None:
        """`held` begins to wait; the presence that it makes worthless, if there is one. Anything else between two keeps both."""
        addresses = (held.stanza.from_, held.stanza.to)
        older = self._waiting.pop(addresses, None)
        if not replaceable(held.stanza):
            return None
        self._waiting[addresses] = held
        return None if older is None or older.gone or older.written else older

    def forget(self, held: QueuedStanza) -> None:
        """`held` waits no longer."""
        addresses = (held.stanza.from_, held.stanza.to)
        if self._waiting.get(addresses) is held:
            del self._waiting[addresses]
