"""A stanza in the relay: its own attributes, its payloads, and its original bytes (docs/decisions.md#framing)."""

from __future__ import annotations

from typing import Literal

from s2sgw.xmpp.element import child_names

Kind = Literal["message", "presence", "iq"]


class Stanza:
    """One stanza, framed and not rebuilt.

    `data` is ready for any stream whose default namespace is jabber:server: the prefixes that its own stream header
    declared and the stream's xml:lang are in its start tag. `payloads` names its children as `namespace}name`; None: they are
    read from `data` on request.
    """

    __slots__ = ("_payloads", "data", "from_", "id", "kind", "to", "type")

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

    @property
    def payloads(self) -> tuple[str, ...]:
        """The names of its children, in order."""
        if self._payloads is None:
            self._payloads = child_names(self.data)
        return self._payloads

    @payloads.setter
    def payloads(self, payloads: tuple[str, ...]) -> None:
        self._payloads = payloads

    @property
    def is_request(self) -> bool:
        """Whether it is an IQ request: it expects an answer, and may change something."""
        return self.kind == "iq" and self.type in ("get", "set")

    def __repr__(self) -> str:
        return f"<{self.kind} type={self.type!r} {self.from_!r} -> {self.to!r} id={self.id!r} {len(self.data)} bytes>"
