"""File descriptors: how many the process may have, and how many connections that leaves room for.

Each accepted connection takes one. Without a bound of their own they would take those that look-ups, streams of ours, the
existing server and the spool need, and the gateway could neither accept nor send.
"""

from __future__ import annotations

import os
import resource

#: Descriptors kept for look-ups, documents, the spool and its checkpoints, the log, the console and the admin socket.
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


def number_open() -> int:
    """Return how many descriptors are open; 0 where the system does not tell."""
    folder = "/proc/self/fd"
    try:
        return os.stat(folder).st_size or len(os.listdir(folder))  # the size is their number since Linux 6.2
    except OSError:
        return 0


def connections_possible(wanted: int, streams: int, descriptors: int) -> int:
    """Return how many of `wanted` connections there is room for, beside `streams` of our own and all else.

    What is kept for all else is half of the descriptors at most.
    """
    kept = min(OTHERS + streams, descriptors // 2)
    return max(1, min(wanted, descriptors - kept))


def _bounded(number: int) -> int:
    return _UNLIMITED if number == resource.RLIM_INFINITY else min(number, _UNLIMITED)
