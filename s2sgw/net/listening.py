"""Accepting connections: endpoints as Twisted spells them, and how many connections there may be."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import ServerFactory

from s2sgw.net.connection import StreamConnection
from s2sgw.net.endpoint_strings import EndpointString
from s2sgw.xmpp.ending import Cause, Ending

#: The first file descriptor that systemd hands over (sd_listen_fds(3)).
_FIRST_HANDED_OVER = 3
#: An IPv6 site has at least so many bits of its own: addresses within count as one.
_SITE = 64


@dataclass(frozen=True, slots=True)
class AcceptanceLimits:
    """Connections open at once: in all, and from one address (IPv6: one /64). 0 is no limit."""

    total: int = 20_000
    per_address: int = 200


class Admission:
    """Counts what is open. One serves all listeners that share its limits."""

    def __init__(self, limits: AcceptanceLimits = AcceptanceLimits()) -> None:
        self.limits = limits
        self.refused = 0
        self._open: dict[str, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    def admit(self, address: str) -> Ending | None:
        """Count one more from `address`, to be released again; or why it may not be."""
        site = site_of(address)
        if self.limits.total and self._total >= self.limits.total:
            return self._refuse(f"{self._total} connections are open, which is the limit")
        if self.limits.per_address and self._open.get(site, 0) >= self.limits.per_address:
            return self._refuse(f"{site} has {self._open[site]} connections open, which is the limit")
        self._open[site] = self._open.get(site, 0) + 1
        self._total += 1
        return None

    def release(self, address: str) -> None:
        """One of those admitted is gone."""
        site = site_of(address)
        self._total -= 1
        left = self._open[site] - 1
        if left:
            self._open[site] = left
        else:
            del self._open[site]

    def _refuse(self, detail: str) -> Ending:
        self.refused += 1
        return Ending(Cause.TOO_MANY_STREAMS, detail)


class StreamFactory(ServerFactory):
    """Builds a connection for each transport that `admission` has room for; `refused` hears of the others."""

    noisy = False

    def __init__(
        self, build: Callable[[], StreamConnection], admission: Admission,
        refused: Callable[[str, Ending], None] = lambda address, ending: None,
    ) -> None:
        self._build = build
        self._admission = admission
        self._refused = refused

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """None has Twisted close the transport."""
        address = str(getattr(addr, "host", ""))
        ending = self._admission.admit(address)
        if ending is not None:
            self._refused(address, ending)
            return None
        connection = self._build()
        connection.when_closed().addCallback(lambda _: self._admission.release(address))
        return connection


def listen(reactor: Any, endpoint: str, factory: ServerFactory) -> list[Deferred[IListeningPort]]:
    """Listen at an endpoint string (`net.endpoint_strings`): one port, or two for a TCP port of both families.

    Each fails with Twisted's `CannotListenError`, or with `ValueError` where systemd has handed over no such socket. A host
    without IPv6 listens on IPv4 alone.
    """
    place = EndpointString.parse(endpoint)
    if place.socket_name is not None:
        return _listen_systemd(reactor, endpoint, place.socket_name, factory)
    if place.every_family and place.port and has_ipv6():
        return [_listen_tcp4(reactor, place, factory), _listen_tcp6(reactor, place, factory)]
    if place.families:
        return [(_listen_tcp6 if place.families == {6} else _listen_tcp4)(reactor, place, factory)]
    try:
        return [serverFromString(reactor, endpoint).listen(factory)]
    except LookupError:
        return [fail(ValueError(f"{endpoint}: systemd has handed over no such socket"))]


def _listen_systemd(reactor: Any, endpoint: str, name: str, factory: ServerFactory) -> list[Deferred[IListeningPort]]:
    """Listen on every socket that systemd has handed over by `name` (sd_listen_fds(3)), whatever its family."""
    found = handed_over(name)
    if not found:
        return [fail(ValueError(f"{endpoint}: systemd has handed over no such socket"))]
    return [maybeDeferred(_adopt, reactor, each, factory) for each in found]


def handed_over(name: str, environ: Mapping[str, str] = os.environ) -> list[int]:
    """Return the file descriptors that systemd handed to this process under `name`."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or not environ.get("LISTEN_FDS", "").isdecimal():
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    return [_FIRST_HANDED_OVER + at for at in range(int(environ["LISTEN_FDS"])) if at < len(names) and names[at] == name]


def _adopt(reactor: Any, descriptor: int, factory: ServerFactory) -> IListeningPort:
    with socket.socket(fileno=os.dup(descriptor)) as handed:
        handed.setblocking(False)
        port: IListeningPort = reactor.adoptStreamPort(handed.fileno(), handed.family, factory)
    return port


def has_ipv6() -> bool:
    """Return whether this host can listen on IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _listen_tcp4(reactor: Any, place: EndpointString, factory: ServerFactory) -> Deferred[IListeningPort]:
    return maybeDeferred(reactor.listenTCP, place.port, factory, place.backlog, place.interface or "0.0.0.0")


def _listen_tcp6(reactor: Any, place: EndpointString, factory: ServerFactory) -> Deferred[IListeningPort]:
    """Listen on IPv6 alone (IPV6_V6ONLY), so that addresses of IPv4 never come mapped, whatever the system's default is."""
    return maybeDeferred(_adopt_tcp6, reactor, place, factory)


def _adopt_tcp6(reactor: Any, place: EndpointString, factory: ServerFactory) -> IListeningPort:
    interface = place.interface or "::"
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as opened:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            opened.bind((interface, place.port))
            opened.listen(place.backlog)
        except OSError as problem:
            raise CannotListenError(interface, place.port, problem) from None
        port: IListeningPort = reactor.adoptStreamPort(opened.fileno(), socket.AF_INET6, factory)
    return port


def site_of(address: str) -> str:
    """What is counted together: an IPv4 address (a mapped one too), an IPv6 /64, or the text of anything else."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, _SITE), strict=False))
    return str(parsed)
