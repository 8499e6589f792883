"""The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): the true address of a client behind a load balancer.

A listener either expects the header or does not; nothing is guessed. Only listed proxies may connect, because any other client
could choose its own address. (Twisted's `haproxy:` endpoints have no such list, and close on a header that comes in pieces.)
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from s2sgw.net.dialing import Build, Dialler
from s2sgw.net.handover import HandoverProtocol, RelayedTransport
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.timer import cancel

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = IPv4Address | IPv6Address

#: Seconds in which the header must come. A proxy sends it first.
HEADER_TIMEOUT = 5.0
#: The most bytes of a header's variable part. The addresses take 36, the rest are extensions.
EXTENSION_BYTES = 2048

_V1, _V1_BYTES = b"PROXY ", 107
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = 16
#: A header of version 2 without addresses: for a connection of the proxy itself.
LOCAL = _V2 + struct.pack("!BBH", 0x20, 0, 0)


class MalformedHeader(ValueError):
    """The input does not begin with a PROXY header. The text says why."""


class ProxyHeader(NamedTuple):
    """A header of `size` bytes. Without ends, the connection is the proxy's own, such as a health check.

    `extensions`: what follows the addresses in version 2, not parsed.
    """

    size: int
    source: Address | None = None
    destination: Address | None = None
    extensions: bytes = b""


def parse(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of `data`; None: more input is needed. Raises `MalformedHeader`."""
    if data.startswith(_V2):
        return _parse_v2(data)
    if data.startswith(_V1):
        return _parse_v1(data)
    if _V2.startswith(data) or _V1.startswith(data):
        return None
    raise MalformedHeader("it is of neither version")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    """Parse one line: PROXY TCP4|TCP6|UNKNOWN source destination port port."""
    line, end, _ = data[:_V1_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= _V1_BYTES:
            raise MalformedHeader(f"its line is longer than {_V1_BYTES} bytes")
        return None
    size = len(line) + 2
    family, *ends = line.decode("ascii", "replace").split(" ")[1:]
    if family == "UNKNOWN":
        return ProxyHeader(size)
    if family not in ("TCP4", "TCP6") or len(ends) != 4:
        raise MalformedHeader("its line lacks the fields of version 1")
    source, destination, *ports = ends
    version = int(family[-1])
    return ProxyHeader(size, _end(source, ports[0], version), _end(destination, ports[1], version))


def _end(host: str, port: str, version: int) -> Address:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise MalformedHeader("it has an invalid address") from None
    if address.version != version or not (port.isdigit() and int(port) <= 0xFFFF):
        raise MalformedHeader("it has an address of another family, or an invalid port")
    return _address(address, int(port))


def _parse_v2(data: bytes) -> ProxyHeader | None:
    """Parse 16 bytes, then as many as they announce: addresses, and extensions that are not parsed."""
    if len(data) < _V2_FIXED:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(_V2))
    if command not in (0x20, 0x21):
        raise MalformedHeader("it has an unknown version or command")
    if family >> 4 > 3 or family & 0x0F > 2:
        raise MalformedHeader("it has an unknown address family or transport")
    if length > EXTENSION_BYTES:
        raise MalformedHeader(f"it is longer than {EXTENSION_BYTES} bytes")
    size = _V2_FIXED + length
    if len(data) < size:
        return None
    if command == 0x20 or family not in (0x11, 0x21):  # LOCAL, or not TCP
        return ProxyHeader(size)
    width = 4 if family == 0x11 else 16
    if length < 2 * width + 4:
        raise MalformedHeader("it is too short for its addresses")
    source, destination, *ports = struct.unpack_from(f"!{width}s{width}sHH", data, _V2_FIXED)
    ends = [ipaddress.ip_address(end) for end in (source, destination)]
    extensions = data[_V2_FIXED + 2 * width + 4 : size]
    return ProxyHeader(size, _address(ends[0], ports[0]), _address(ends[1], ports[1]), extensions)


def _address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Address:
    kind = IPv4Address if address.version == 4 else IPv6Address
    return kind("TCP", str(address), port)


def write(source: HostPort, destination: HostPort, extensions: bytes = b"") -> bytes:
    """Return a header of version 2 for a connection between two IP addresses.

    For different families it has no addresses, and no extensions.
    """
    ends = [ipaddress.ip_address(end.host) for end in (source, destination)]
    if ends[0].version != ends[1].version:
        return LOCAL
    addresses = b"".join(end.packed for end in ends) + struct.pack("!HH", source.port, destination.port)
    body = addresses + extensions
    return _V2 + struct.pack("!BBH", 0x21, 0x11 if ends[0].version == 4 else 0x21, len(body)) + body


class ProxyFactory(ServerFactory):
    """Builds connections of `factory` for clients of the listed proxies. `refused` is called for all other connections."""

    noisy = False
    #: why a client that is not listed is refused
    unlisted = "only listed proxies may connect here"

    def __init__(
        self, factory: ServerFactory, trusted: Iterable[Network], clock: IReactorTime,
        refused: Callable[[str, Ending], None] = lambda address, ending: None,
    ) -> None:
        self.factory = factory
        self.clock = clock
        self.refused = refused
        self._trusted = tuple(trusted)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol; None: Twisted closes the transport."""
        host = str(getattr(addr, "host", ""))
        if self._is_trusted(host):
            return _Receiver(self, host)
        self.refused(host, Ending(Cause.NOT_ALLOWED, self.unlisted))
        return None

    def factory_for(self, header: ProxyHeader) -> ServerFactory | None:
        """Return the factory of a connection with this header; None: the connection is refused."""
        return self.factory

    def built(self, header: ProxyHeader, connection: IProtocol) -> None:
        """Note a new connection with this header."""

    def _is_trusted(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)


class _Receiver(HandoverProtocol):
    """Reads the header, then builds the connection."""

    def __init__(self, factory: ProxyFactory, proxy: str) -> None:
        self._factory = factory
        self._proxy = proxy
        self._data = b""
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header, and read at once: it often follows directly after the TCP handshake.

        So a crowd is refused as fast as it is accepted, and its connections do not pile up unread.
        """
        self._deadline = self._factory.clock.callLater(HEADER_TIMEOUT, self._refuse, "no PROXY header came in time")
        if type(self.transport) is tcp.Server:
            self.transport.doRead()  # the reactor reports an end or an error again

    def prefaceReceived(self, data: bytes) -> None:
        if self._deadline is None:
            return  # refused
        self._data += data
        try:
            header = parse(self._data)
        except MalformedHeader as error:
            self._refuse(f"the PROXY header is malformed: {error}")
            return
        if header is not None:
            self._stop()
            self._build(header)

    def prefaceLost(self, reason: Failure) -> None:
        self._stop()

    def _build(self, header: ProxyHeader) -> None:
        factory = self._factory.factory_for(header)
        if factory is None:
            self._refuse("the PROXY header is not accepted here")
            return
        peer = header.source or self.transport.getPeer()
        inner = factory.buildProtocol(peer)
        if inner is None:
            self.transport.abortConnection()
            return
        self._factory.built(header, inner)
        host = header.destination or self.transport.getHost()
        self.hand_over(inner, RelayedTransport(self.transport, peer, host), self._data[header.size :])

    def _refuse(self, why: str) -> None:
        self._stop()
        self._factory.refused(self._proxy, Ending(Cause.PROTOCOL_ERROR, why, "them"))
        self.transport.abortConnection()

    def _stop(self) -> None:
        cancel(self._deadline)
        self._deadline = None


def announcing(dialler: Dialler, header: bytes) -> Dialler:
    """Return a dialler that sends `header` before anything else."""

    def dial(address: str, port: int, build: Build) -> Deferred[None]:
        def announcer() -> IProtocol | None:
            inner = build()
            return None if inner is None else _Announcer(header, inner)

        return dialler(address, port, announcer)

    return dial


class _Announcer(HandoverProtocol):
    def __init__(self, header: bytes, inner: IProtocol) -> None:
        self._header = header
        self._waiting = inner

    def connectionMade(self) -> None:
        self.transport.write(self._header)
        self.hand_over(self._waiting, self.transport)
