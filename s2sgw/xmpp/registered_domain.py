"""The registered part of a domain name, estimated from the name alone. For fair shares only."""

from __future__ import annotations

import re

from s2sgw.xmpp.host_port import is_address

#: Second-level names below which national registries register domains: `co.uk`, `com.br`, `ac.jp`.
_SECOND_LEVEL = re.compile(
    r"(ac|asn|asso|co|com|edu|firm|gen|go|gob|gouv|gov|govt|gub|gv|id|in|ind|info|ltd|me|mil|ne|net|nhs|nic|nom|or|org|plc|priv"
    r"|sch|school|web)\.[a-z]{2}\Z"
)

#: Countries whose registries register all names directly below the country's. There `web.de` or `id.nl` has one owner, who must
#: not have any number of shares. `_SOLD`: the names under which others sell domains there.
_DIRECT = frozenset((
    "ca", "cc", "cf", "ch", "de", "dk", "eu", "fi", "fo", "ga", "gq", "is", "li", "lu", "nl", "nu", "pm", "si", "td", "tf",
    "tk", "tv", "wf",
))
_SOLD = frozenset(("co.ca", "co.de", "co.dk", "co.nl", "com.de"))


def registered_domain(name: str) -> str:
    """Return `example.org` for `a.b.example.org`, and `example.co.uk` for `a.example.co.uk` (A-labels, lower case).

    An IP address is returned as it is.
    """
    labels = name.split(".")
    if name.startswith("[") or (labels[-1].isdecimal() and is_address(name)):
        return name
    last = ".".join(labels[-2:])
    suffix = 2 if _SECOND_LEVEL.match(last) and (labels[-1] not in _DIRECT or last in _SOLD) else 1
    return ".".join(labels[-suffix - 1 :])
