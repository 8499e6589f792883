"""Deny lists: texts of one domain on each line, from wherever they come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from s2sgw.xmpp.jid import Domain, InvalidJID

#: A name that is canonical already, as nearly all of a long list are: no more need be asked of it.
_PLAIN = re.compile(r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}\Z", re.ASCII)
#: Characters of a name in the DNS.
_NAME_CHARACTERS = 253


@dataclass(frozen=True, slots=True)
class DenyList:
    """The names of one list, in A-labels; "*." and a domain stands for all that is under it. `source` is how it is called.

    `unread` counts the lines that name nothing.
    """

    source: str
    names: frozenset[str]
    unread: int = 0

    @classmethod
    def parse(cls, source: str, text: str) -> DenyList:
        """A list from its text: `#` begins a comment. Raises `ValueError` where most of it is something else (a web page)."""
        found = [_name(line) for line in _lines(text)]
        names = frozenset(name for name in found if name is not None)
        unread = found.count(None)
        if unread > len(found) - unread:
            raise ValueError(f"is no list of domains: {unread} of its {len(found)} lines name none")
        return cls(source, names, unread)

    def names_peer(self, peer: Domain) -> bool:
        """Whether the list holds `peer`, or something that it is under."""
        name = peer.ascii
        if name in self.names:
            return True
        while not peer.is_address and (name := name.partition(".")[2]):
            if "*." + name in self.names:
                return True
        return False


def _lines(text: str) -> Iterator[str]:
    for line in text.removeprefix("\ufeff").splitlines():
        entry = line.partition("#")[0].strip()
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
