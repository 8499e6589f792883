"""Decides which names give way if too many are remembered: the oldest of the registered domain that has the most.

Strangers choose the names. Sub-domains of one domain therefore remove each other, and not the names of other domains.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Mapping

from s2sgw.xmpp.registered_domain import registered_domain


class FairShares:
    """Names with their sizes, at most `names` of them and `size` in all."""

    def __init__(self, names: int, size: int) -> None:
        self._most_names = names
        self._most_size = size
        self._number = self.size = 0
        self._sites: dict[str, OrderedDict[str, int]] = {}
        self._sizes: dict[str, int] = {}
        #: (less the size of a site, the site); outdated entries are skipped
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return self._number

    def fill(self, sizes: Mapping[str, int]) -> list[str]:
        """Add all of these names at once, in the order of their last use. Return those that give way."""
        for name, size in sizes.items():
            site = registered_domain(name)
            names = self._sites.get(site)
            if names is None:
                names = self._sites[site] = OrderedDict()
                self._sizes[site] = 0
            names[name] = size
            self._sizes[site] += size
        self._number, self.size = len(sizes), sum(sizes.values())
        self._order()
        return self._give_way()

    def put(self, name: str, size: int) -> list[str]:
        """Note that `name` was used, and has `size` now. Return the names that give way, which are forgotten.

        If `name` is the only one of its domain, and no domain has more, `name` itself gives way.
        """
        site = registered_domain(name)
        self._drop(site, name)
        self._sites.setdefault(site, OrderedDict())[name] = size
        self._add(site, 1, size)
        return self._give_way()

    def _give_way(self) -> list[str]:
        gone = []
        while self._number > self._most_names or self.size > self._most_size:
            largest = self._largest()
            gone.append(next(iter(self._sites[largest])))
            self._drop(largest, gone[-1])
        return gone

    def forget(self, name: str) -> None:
        """Forget a name."""
        self._drop(registered_domain(name), name)

    def _drop(self, site: str, name: str) -> None:
        names = self._sites.get(site)
        size = names.pop(name, None) if names is not None else None
        if size is not None:
            self._add(site, -1, -size)

    def _add(self, site: str, number: int, size: int) -> None:
        self._number += number
        self.size += size
        total = self._sizes[site] = self._sizes.get(site, 0) + size
        if self._sites[site]:
            heapq.heappush(self._heap, (-total, site))
        else:
            del self._sites[site], self._sizes[site]
        if len(self._heap) > 4 * len(self._sites) + 64:
            self._order()

    def _order(self) -> None:
        self._heap = [(-total, site) for site, total in self._sizes.items()]
        heapq.heapify(self._heap)

    def _largest(self) -> str:
        """Return the site with the largest size."""
        while (entry := self._heap[0])[0] != -self._sizes.get(entry[1], -1):
            heapq.heappop(self._heap)
        return entry[1]
