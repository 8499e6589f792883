"""The stream header: reading a peer's, writing ours, and repeating its namespace declarations on each slice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from s2sgw.xmpp.element import escape_attribute
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.namespaces import DIALBACK, SERVER, STREAM, XML

#: RFC 6120 §4.4.
CLOSING_TAG = b"</stream:stream>"

#: A whole start tag or empty-element tag. It is only matched against bytes that expat has accepted.
START_TAG = re.compile(rb"""<[^"'>]*(?:"[^"]*"[^"'>]*|'[^']*'[^"'>]*)*>""")
_DECLARATION = re.compile(rb"""\sxmlns:([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')|"[^"]*"|'[^']*'""")
#: Declarations of headers that are kept.
_KEPT = 64
LANG = f"{XML}}}lang"
_BEGINNING = f"<?xml version='1.0'?><stream:stream xmlns='{SERVER}' xmlns:stream='{STREAM}' xmlns:db='{DIALBACK}'"


@dataclass(frozen=True, slots=True)
class Header:
    """A stream header as received (RFC 6120 §4.7). Absent attributes are None. Only the namespaces were checked."""

    to: str | None
    from_: str | None
    id: str | None
    version: str | None
    namespace: str = SERVER
    dialback: bool = False  # declares jabber:server:dialback


def read_header(tag: bytes, name: str, attributes: Mapping[str, str], declared: Mapping[str | None, str]) -> Header:
    """Return the header in the root's start `tag`. expat parsed it as `name` and `attributes`; `declared`: prefix -> namespace.

    Raises `RemoteFault` if it is not `stream:stream` in its namespace over jabber:server (RFC 6120 §4.8, R14, R38).
    """
    namespace, _, local = name.rpartition("}")
    if namespace != STREAM:
        raise RemoteFault(StreamCondition.INVALID_NAMESPACE, f"the root element is not in the namespace {STREAM}")
    if local != "stream":
        raise RemoteFault(StreamCondition.BAD_FORMAT, "the root element is not a stream")
    if not tag.startswith(b"<stream:"):
        raise RemoteFault(StreamCondition.BAD_NAMESPACE_PREFIX, "the prefix of the root element is not `stream`")
    if declared.get(None) != SERVER:
        raise RemoteFault(StreamCondition.INVALID_NAMESPACE, f"the default namespace is not {SERVER}")
    get = attributes.get
    return Header(get("to"), get("from"), get("id"), get("version"), dialback=DIALBACK in declared.values())


def stream_header(
    *, to: str | None = None, from_: str | None = None, id: str | None = None, version: str | None = "1.0",
    lang: str | None = None,
) -> bytes:
    """Return the header that we send. `lang` is for answers to a person; between servers it is left out."""
    written = [_BEGINNING]
    for name, value in (("from", from_), ("to", to), ("id", id), ("version", version), ("xml:lang", lang)):
        if value is not None:
            written.append(f" {name}='{escape_attribute(value)}'")
    return f"{''.join(written)}>".encode()


class Declarations:
    """The declarations of a stream header, which apply to everything on its stream. `complete` makes a slice independent of them.

    Every prefix is declared again on the slice, unless its own start tag does it. The stream's xml:lang is added to a slice
    without one. Not declared again: the prefix `stream`, which our headers declare too, and an unused `db`.
    """

    __slots__ = ("_db", "_lang", "_prefixes", "adds", "namespaces", "size")

    def __init__(self, declared: Mapping[str | None, str], lang: str | None) -> None:
        """Take the declarations. `declared`: prefix -> namespace in the header; the prefix None is the default namespace."""
        again = {
            prefix.encode(): f" xmlns:{prefix}='{escape_attribute(namespace)}'".encode()
            for prefix, namespace in declared.items() if prefix and prefix != "stream"
        }
        self._db = again.pop(b"db", b"") if declared.get("db") == DIALBACK else b""
        self._prefixes = again
        #: all that are declared
        self.namespaces = tuple(declared.values())
        self._lang = f" xml:lang='{escape_attribute(lang)}'".encode() if lang else b""
        #: something may be added to any slice; else only to one in which `db:` stands
        self.adds = bool(again or self._lang)
        #: the most bytes that are added to a slice
        self.size = sum(map(len, again.values())) + len(self._db) + len(self._lang)

    def complete(self, data: bytes, length: int, lang: bool) -> bytes:
        """Return the slice `data` made independent of its stream. `length`: of `<` and its name; `lang`: it has a language."""
        added = b"" if lang else self._lang
        if self._db and b"db:" in data:
            added += self._undeclared(data, {b"db": self._db})
        if self._prefixes:
            added += self._undeclared(data, self._prefixes)
        return data[:length] + added + data[length:] if added else data

    def _undeclared(self, data: bytes, prefixes: Mapping[bytes, bytes]) -> bytes:
        own = _own_prefixes(data) if b"xmlns:" in data else ()
        return b"".join(declaration for prefix, declaration in prefixes.items() if prefix not in own)


@lru_cache(_KEPT)
def declarations(declared: tuple[tuple[str | None, str], ...], lang: str | None) -> Declarations:
    """Return the declarations of a header. Streams whose headers declare the same share one object."""
    return Declarations(dict(declared), lang)


def _own_prefixes(data: bytes) -> list[bytes]:
    """Return the prefixes that the start tag of `data` declares."""
    tag = START_TAG.match(data)
    assert tag is not None
    return _DECLARATION.findall(tag[0])
