"""Deny lists: texts with one domain on each line, from files or the web."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from s2sgw.xmpp.jid import Domain, InvalidJID

#: A canonical name. Nearly all names of a long list are canonical, and need no further check.
_PLAIN = re.compile(r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}\Z", re.ASCII)
_LINE = re.compile(r"[^\r\n]+")
#: The most names that operators can deny by hand. Longer lists belong in a deny list of the configuration.
MOST_BY_HAND = 1000
#: Characters of a name in the DNS.
_NAME_CHARACTERS = 253


@dataclass(frozen=True, slots=True)
class DenyList:
    """The names of one list, in A-labels; "*." and a domain stands for all subdomains. `source` is the name of the list.

    `unread` counts the lines without a valid name. `binding`: the list also binds a peer whose own section has `allow = true`.
    The names are the keys of a dict: a set of as many names takes five times as long to be freed.
    """

    source: str
    names: Mapping[str, None]
    unread: int = 0
    binding: bool = False

    @classmethod
    def parse(cls, source: str, text: str) -> DenyList:
        """Return a list from its text; `#` begins a comment. Raises `ValueError` if most of it is something else (a web page)."""
        names: dict[str, None] = {}
        lines = unread = 0
        for line in _lines(text):
            name = _name(line)
            lines += 1
            if name is None:
                unread += 1
            else:
                names[name] = None
        if unread > lines - unread:
            raise ValueError(f"is no list of domains: {unread} of its {lines} lines name none")
        return cls(source, names, unread)

    def names_peer(self, peer: Domain) -> bool:
        """Return whether the list has `peer`, or a domain above it."""
        name = peer.ascii
        if name in self.names:
            return True
        while not peer.is_address and (name := name.partition(".")[2]):
            if "*." + name in self.names:
                return True
        return False


def _lines(text: str) -> Iterator[str]:
    """Yield the lines one by one: splitting a long text at once would block all other threads."""
    for line in _LINE.finditer(text.removeprefix("\ufeff")):
        entry = line[0].partition("#")[0].strip()
        if entry:
            yield entry


def _name(entry: str) -> str | None:
    if len(entry) <= _NAME_CHARACTERS and _PLAIN.match(entry) and "xn--" not in entry:
        return entry
    prefix = "*." if entry.startswith("*.") else ""
    try:
        return prefix + Domain.registered(entry.removeprefix(prefix)).ascii
    except InvalidJID:
        return None
