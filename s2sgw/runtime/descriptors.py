"""File descriptors: how many the process may have, and how many connections that leaves room for.

Each accepted connection takes one. Without a bound of their own they would take those that look-ups, streams of ours, the
existing server and the spool need, and the gateway could neither accept nor send.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

#: Descriptors kept for look-ups, documents, the spool and its checkpoints, the log, the console and the admin socket; of few
#: descriptors a quarter.
OTHERS = 512
#: No process needs more, where the system sets no bound.
_UNLIMITED = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, as far as the system lets us; return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return _bounded(soft)
    return _bounded(hard)


def limit() -> int:
    """Return how many descriptors the process may have."""
    return _bounded(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def hard_limit() -> int:
    """Return how many descriptors a gateway that starts here may have: it raises its limit to that."""
    return _bounded(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def number_open() -> int:
    """Return how many descriptors are open; 0 where the system does not tell."""
    folder = "/proc/self/fd"
    try:
        return os.stat(folder).st_size or len(os.listdir(folder))  # the size is their number since Linux 6.2
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class DescriptorShares:
    """How many connections of peers, connections of backends and streams of ours there is room for."""

    connections: int
    backend: int
    streams: int


def shares(connections: int, streams: int, descriptors: int) -> DescriptorShares:
    """Divide the descriptors: as much as is wanted, or less where they are few.

    A backend may bring as many connections as peers may. It and our own streams have a quarter each of what is not kept for
    all else, or what they want if that is less; the connections of peers have the rest.
    """
    left = descriptors - min(OTHERS, descriptors // 4)
    if 2 * connections + streams <= left:
        return DescriptorShares(connections, connections, streams)
    backend, ours = (max(1, min(wanted, left // 4)) for wanted in (connections, streams))
    return DescriptorShares(max(1, min(connections, left - backend - ours)), backend, ours)


def _bounded(number: int) -> int:
    return _UNLIMITED if number == resource.RLIM_INFINITY else min(number, _UNLIMITED)
