"""The stream header: what a peer's header says, the one we write, and how its declarations go along with a slice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from s2sgw.xmpp.element import escape_attribute
from s2sgw.xmpp.namespaces import DIALBACK, SERVER, STREAM, XML

#: RFC 6120 §4.4.
CLOSING_TAG = b"</stream:stream>"

#: A whole start tag or empty-element tag. Only ever matched against bytes that expat has accepted.
START_TAG = re.compile(rb"""<[^"'>]*(?:"[^"]*"[^"'>]*|'[^']*'[^"'>]*)*>""")
_DECLARATION = re.compile(rb"""\sxmlns:([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')|"[^"]*"|'[^']*'""")
LANG = f"{XML}}}lang"


@dataclass(frozen=True, slots=True)
class Header:
    """A stream header as received (RFC 6120 §4.7): its attributes, None where absent, unchecked but for namespaces."""

    to: str | None
    from_: str | None
    id: str | None
    version: str | None
    lang: str | None
    namespace: str = SERVER
    dialback: bool = False  # declares jabber:server:dialback


def stream_header(
    *, to: str | None = None, from_: str | None = None, id: str | None = None, version: str | None = "1.0",
    lang: str | None = None,
) -> bytes:
    """The header that we send. `lang` is for answers to a person; on the legs of the relay it is left out (decision 1)."""
    attributes = {"from": from_, "to": to, "id": id, "version": version, "xml:lang": lang}
    written = "".join(f" {name}='{escape_attribute(value)}'" for name, value in attributes.items() if value is not None)
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='{SERVER}' xmlns:stream='{STREAM}' xmlns:db='{DIALBACK}'{written}>"
    ).encode()


class Declarations:
    """What a stream header declares for everything on its stream, and how a slice is made to stand without it.

    Every prefix is declared again on the slice, unless its own start tag does; the stream's xml:lang is stamped on a
    slice that has none. Not declared again: the prefix `stream`, which our headers declare too, and an unused `db`.
    """

    __slots__ = ("_db", "_lang", "_prefixes", "size")

    def __init__(self, prefixes: Mapping[str, str], lang: str | None) -> None:
        """`prefixes`: prefix -> namespace as the header declares them, the default namespace not among them."""
        again = {
            prefix.encode(): f" xmlns:{prefix}='{escape_attribute(namespace)}'".encode()
            for prefix, namespace in prefixes.items() if (prefix, namespace) != ("stream", STREAM)
        }
        self._db = again.pop(b"db", b"") if prefixes.get("db") == DIALBACK else b""
        self._prefixes = again
        self._lang = b"" if lang is None else f" xml:lang='{escape_attribute(lang)}'".encode()
        #: bytes that a slice can grow by
        self.size = sum(map(len, again.values())) + len(self._db) + len(self._lang)

    def complete(self, data: bytes, length: int, attributes: Mapping[str, str]) -> bytes:
        """The slice `data`, whose name with its `<` takes `length` bytes, standing by itself."""
        added = self._lang if self._lang and LANG not in attributes else b""
        if self._db and b"db:" in data:
            added += self._undeclared(data, {b"db": self._db})
        if self._prefixes:
            added += self._undeclared(data, self._prefixes)
        return data[:length] + added + data[length:] if added else data

    def _undeclared(self, data: bytes, prefixes: Mapping[bytes, bytes]) -> bytes:
        tag = START_TAG.match(data)
        own = set(_DECLARATION.findall(data[: tag.end()] if tag else b""))
        return b"".join(declaration for prefix, declaration in prefixes.items() if prefix not in own)
