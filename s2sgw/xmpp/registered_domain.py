"""The registered domain of a name, by the Public Suffix List (publicsuffix.org). For fair shares only."""

from __future__ import annotations

from functools import lru_cache

from publicsuffixlist import PublicSuffixList

from s2sgw.xmpp.host_port import is_address

#: The list as of the installed release of the library. It takes 0.1 s to read, so it is read at the start.
_PUBLIC_SUFFIXES = PublicSuffixList()
#: Names whose registered domain is remembered.
_CACHED = 4096


@lru_cache(_CACHED)
def registered_domain(name: str) -> str:
    """Return `example.org` for `a.b.example.org`, and `example.co.uk` for `a.example.co.uk` (A-labels, lower case).

    Below the name of a provider (the list's private part, such as `duckdns.org`), it is the name that one customer has. A
    public suffix, and an IP address, are returned as they are.
    """
    if name.startswith("[") or (name[-1:].isdecimal() and is_address(name)):
        return name
    return _PUBLIC_SUFFIXES.privatesuffix(name) or name
