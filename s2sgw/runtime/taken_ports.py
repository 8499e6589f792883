"""Ports of a node of a cluster that other processes have. `s2sgw check` binds them for a moment, as the start would.

Nothing listens meanwhile, so no connection is taken. Other nodes share a port that can be bound with SO_REUSEPORT only.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import NamedTuple

from s2sgw.config import Config
from s2sgw.net.endpoint_strings import EndpointString
from s2sgw.net.listening import has_ipv6
from s2sgw.runtime.owner_access import as_owner

_SHARED = "other processes share this port (SO_REUSEPORT), as nodes of one machine do: add :reuseport=yes"
_TAKEN = (
    "the port is in use, and the start ends if it still is then. Nodes of one machine can share a port for peers, or for a "
    "server: all need reuseport=yes and one user"
)


class TakenPorts(NamedTuple):
    """Texts about ports that the start could not bind now: those that need another endpoint, and the others."""

    shared: list[str]
    in_use: list[str]


def taken_ports(config: Config) -> TakenPorts:
    """Return the ports of a node that other processes have. Its own gateway must not run. Not for a process with threads."""
    found = TakenPorts([], [])
    with as_owner(config.gateway.state):
        for key, endpoint, sharable in _endpoints(config):
            place = EndpointString.parse(endpoint)
            if all(_can_bind(place, version, place.reuses_port) for version in sorted(place.families)):
                continue
            if sharable and not place.reuses_port and all(_can_bind(place, version, True) for version in sorted(place.families)):
                found.shared.append(f"{key}: {endpoint}: {_SHARED}")
            else:
                found.in_use.append(f"{key}: {endpoint}: {_TAKEN}")
    return found


def _endpoints(config: Config) -> Iterator[tuple[str, str, bool]]:
    """Yield the key of each endpoint, the endpoint, and whether nodes can share it."""
    for each in config.listen:
        yield "listen", each.endpoint, each.tls != "direct"
    for backend in config.backends:
        if backend.kind == "s2s":
            yield "backend.listen", backend.listen, True
    if config.cluster.listen is not None:
        yield "cluster.listen", config.cluster.listen, False
    if config.console.listen is not None:
        yield "console.listen", config.console.listen, False


def _can_bind(place: EndpointString, version: int, shared: bool) -> bool:
    """Return whether a port can be bound, as far as other processes decide it."""
    if version == 6 and not has_ipv6():
        return True
    with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind((place.interface, place.port or 0))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
