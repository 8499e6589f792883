"""Zones whose name servers do not answer.

A look-up below such a zone takes a slot for seconds, and fails. When a few names below one domain were silent, further names
below it fail at once for a minute, for the networks that asked for them. Other networks can still look them up. So the owner of
some names below a domain, or a stranger that claims them, blocks no other name. One answer for any name below it ends the minute.
"""

from __future__ import annotations

from collections.abc import Iterator

import dns.name
from twisted.internet.interfaces import IReactorTime

from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.fair_dict import FairDict
from s2sgw.xmpp.registered_domain import registered_domain

#: Different silent names directly below a domain after which it counts as silent, and for how many seconds.
SILENT_NAMES = 4
SILENT_SECONDS = 60.0
#: Domains that are remembered. The network that was the first to ask for most of them loses those least recently noted.
REMEMBERED = 4096
#: Levels of names that are checked, from the registered domain downwards.
LEVELS = 4

#: Networks that are remembered of one domain.
SITES = 256

Labels = tuple[bytes, ...]


class _Zone:
    """A domain with silent names below it: the labels directly below it, the sites that asked, and the end of its time."""

    __slots__ = ("first", "names", "sites", "until")

    def __init__(self, first: str) -> None:
        """Begin, with the first site that asked."""
        self.first = first
        self.names: set[bytes] = set()
        self.sites: BoundedDict[str, None] = BoundedDict(SITES)
        self.until = 0.0


class SilentZones:
    """Remembers which domains have silent name servers."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._zones: FairDict[Labels, _Zone] = FairDict(REMEMBERED, _owner)

    def is_silent(self, name: dns.name.Name, site: str) -> bool:
        """Return whether `name`, looked up by the network `site`, is below a zone that was silent to this network."""
        if not self._zones:
            return False
        now = self._clock.seconds()
        for zone, _ in _above(name):
            known = self._zones.get(zone)
            if known is not None and known.until > now and len(known.names) >= SILENT_NAMES and site in known.sites:
                return True
        return False

    def silent(self, name: dns.name.Name, site: str) -> None:
        """Note that the name servers of `name`, looked up by the network `site`, did not answer."""
        now = self._clock.seconds()
        for zone, below in _above(name):
            known = self._zones.get(zone)
            if known is None or known.until <= now:
                known = _Zone(site)
            if len(known.names) < SILENT_NAMES:
                known.names.add(below)
            known.until = now + SILENT_SECONDS
            known.sites[site] = None
            self._zones[zone] = known

    def answered(self, name: dns.name.Name) -> None:
        """Note that the name servers of `name` answered."""
        if self._zones:
            for zone, _ in _above(name):
                self._zones.discard(zone)


def _owner(zone: Labels, known: _Zone) -> str:
    return known.first


def _above(name: dns.name.Name) -> Iterator[tuple[Labels, bytes]]:
    """Yield the domains above `name` with the label directly below each, from the registered domain downwards.

    Labels of services (`_xmpp-server._tcp`) are left out. Domains above the registered one do not count: there the owner of
    some names would decide for others.
    """
    labels = tuple(label.lower() for label in name.labels if label and not label.startswith(b"_"))
    registered = registered_domain(b".".join(labels).decode("latin-1")).count(".") + 1
    for start in range(len(labels) - registered, max(len(labels) - registered - LEVELS, 0), -1):
        yield labels[start:], labels[start - 1]
