"""A stanza in the relay: its own attributes, its payloads, and its original bytes (docs/decisions.md#framing)."""

from __future__ import annotations

from typing import Literal

from s2sgw.xmpp.element import child_names

Kind = Literal["message", "presence", "iq"]

#: Bytes of the addresses, the type and the id of a usual stanza. Fewer are part of the fixed cost of a stanza (`queue.entries`).
USUAL_TEXT = 256
#: Bytes of one character, if not all are of ASCII: four in the text, and one for the same text in UTF-8.
CHARACTER_BYTES = 5
#: Bytes of the name of a child, beside its characters.
NAME_BYTES = 64
#: Bytes of the names of children of a usual stanza. Fewer are part of its fixed cost too.
USUAL_NAMES = 240
#: Names that were read from `data` are kept if they have at most so many bytes. They are not counted: the cost is fixed by then.
KEPT_NAMES = 512


class Stanza:
    """One stanza, framed and not rebuilt.

    `data` is ready for any stream whose default namespace is jabber:server: the prefixes that its own stream header
    declared and the stream's xml:lang are in its start tag. `payloads` names its children as `namespace}name`; None: they are
    read from `data` on request.

    `text_cost`: the bytes of memory of the other texts, if these are more than a usual stanza has. A stanza of 4 kB may have
    addresses of 20 kB in memory, and one of 3 kB names of children of 40 kB.
    """

    __slots__ = ("_payloads", "data", "from_", "id", "kind", "text_cost", "to", "type")

    def __init__(
        self, kind: Kind, data: bytes, to: str, from_: str, type: str | None = None, id: str | None = None,
        payloads: tuple[str, ...] | None = (),
    ) -> None:
        self.kind = kind
        self.data = data
        self.to = to
        self.from_ = from_
        self.type = type
        self.id = id
        self._payloads = payloads
        text = f"{to}{from_}{type}{id}"
        size = len(text) if text.isascii() else CHARACTER_BYTES * len(text)
        self.text_cost = size if size > USUAL_TEXT else 0
        if payloads:
            self.payloads = payloads

    @property
    def payloads(self) -> tuple[str, ...]:
        """The names of its children, in order."""
        payloads = self._payloads
        if payloads is None:
            payloads = child_names(self.data)
            if names_cost(payloads) <= KEPT_NAMES:
                self._payloads = payloads
        return payloads

    @payloads.setter
    def payloads(self, payloads: tuple[str, ...]) -> None:
        """Set the names of the children, which the stanza has not had before."""
        self._payloads = payloads
        size = names_cost(payloads) if payloads else 0
        self.text_cost += size if size > USUAL_NAMES else 0

    @property
    def is_request(self) -> bool:
        """Whether it is an IQ request: it expects an answer, and may change something."""
        return self.kind == "iq" and self.type in ("get", "set")

    def __repr__(self) -> str:
        return f"<{self.kind} type={self.type!r} {self.from_!r} -> {self.to!r} id={self.id!r} {len(self.data)} bytes>"


def names_cost(names: tuple[str, ...]) -> int:
    """Return the bytes of memory of the names of children."""
    text = "".join(names)
    return NAME_BYTES * len(names) + (len(text) if text.isascii() else CHARACTER_BYTES * len(text))
