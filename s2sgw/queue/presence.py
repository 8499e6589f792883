"""Coalescing of waiting presence: only the newest is kept, if no receiver can notice the difference (R40)."""

from __future__ import annotations

from s2sgw.queue.entries import QueuedStanza
from s2sgw.xmpp.namespaces import MUC, MUC_USER
from s2sgw.xmpp.stanza import Stanza

Addresses = tuple[str, str]
_ROOMS = (f"{MUC}}}", f"{MUC_USER}}}")


def replaceable(stanza: Stanza) -> bool:
    """Return whether a presence may be replaced: available or unavailable, of one resource, and not of a chat room."""
    if stanza.kind != "presence" or stanza.type not in (None, "unavailable") or "/" not in stanza.from_:
        return False
    return not any(payload.startswith(_ROOMS) for payload in stanza.payloads)


class LatestPresence:
    """The waiting presence of each pair of addresses that the next one may replace."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Addresses, QueuedStanza] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def note(self, held: QueuedStanza) -> QueuedStanza | None:
        """Note that `held` begins to wait.

        Return the presence that it replaces, if any. Any other stanza between two keeps both.
        """
        addresses = (held.stanza.from_, held.stanza.to)
        older = self._waiting.pop(addresses, None)
        if not replaceable(held.stanza):
            return None
        self._waiting[addresses] = held
        return None if older is None or older.gone or older.written else older

    def forget(self, held: QueuedStanza) -> None:
        """Note that `held` does not wait any more."""
        addresses = (held.stanza.from_, held.stanza.to)
        if self._waiting.get(addresses) is held:
            del self._waiting[addresses]
