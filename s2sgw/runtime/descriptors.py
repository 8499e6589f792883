"""File descriptors: how many the process may have, and how many connections they allow.

Each accepted connection takes one. Without a bound, accepted connections would use up the descriptors of look-ups, of our
streams, of the existing server and of the spool. Then the gateway could neither accept nor send.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

#: Descriptors kept for look-ups, documents, the spool and its checkpoints, the log, the console and the admin socket. If there
#: are few descriptors, a quarter of them is kept.
OTHERS = 512
#: The number used where the system sets no bound. No process needs more.
_UNLIMITED = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard limit, as far as the system allows. Return the limit then in force."""
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
    """Return how many descriptors a gateway that starts here may have. The gateway raises its limit to this number."""
    return _bounded(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def number_open() -> int:
    """Return how many descriptors are open; 0 if the system does not tell."""
    folder = "/proc/self/fd"
    try:
        return os.stat(folder).st_size or len(os.listdir(folder))  # the size is their number since Linux 6.2
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class DescriptorShares:
    """The room for connections of peers, connections of backends and streams of ours."""

    connections: int
    backend: int
    streams: int


def shares(connections: int, streams: int, descriptors: int) -> DescriptorShares:
    """Divide the descriptors. Each part gets what is wanted, or less if there are few.

    A backend may open as many connections as all peers. Backends and our own streams each get a quarter of the descriptors that
    are not kept, or what they want if that is less. Connections of peers get the rest.
    """
    left = descriptors - min(OTHERS, descriptors // 4)
    if 2 * connections + streams <= left:
        return DescriptorShares(connections, connections, streams)
    backend, ours = (max(1, min(wanted, left // 4)) for wanted in (connections, streams))
    return DescriptorShares(max(1, min(connections, left - backend - ours)), backend, ours)


def _bounded(number: int) -> int:
    return _UNLIMITED if number == resource.RLIM_INFINITY else min(number, _UNLIMITED)
