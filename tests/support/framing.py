"""The events of a framer as values to compare, and a framer that reads every stanza with the handlers of expat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from s2sgw.xmpp.framing import Framer, FramingEvent
from s2sgw.xmpp.stanza import Stanza


@dataclass(frozen=True)
class Framed:
    """A `Stanza` as a value."""

    kind: str
    data: bytes
    to: str = ""
    from_: str = ""
    type: str | None = None
    id: str | None = None
    payloads: tuple[str, ...] = ()


def values(events: Iterable[FramingEvent]) -> list[object]:
    """Return the events with each stanza as a value."""
    return [
        Framed(e.kind, e.data, e.to, e.from_, e.type, e.id, e.payloads) if isinstance(e, Stanza) else e for e in events
    ]


class CarefulFramer(Framer):
    """A framer that takes no stanza for a plain one (docs/decisions.md#plain-stanzas)."""

    __slots__ = ()

    def _allow_plain_stanzas(self) -> None:
        pass
