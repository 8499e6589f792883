"""One HTTPS GET, bounded in time and size, to permitted addresses.

Twisted's Agent implements HTTP. Finding the host, choosing an address and checking the certificate are done here. No redirect is
followed, and no connection is kept.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

#: Seconds for the whole fetch, and for one connection.
TIMEOUT = 5.0
CONNECT_TIMEOUT = 3.0
#: Bytes of an answer's body, and of everything else that the server may send.
BODY_BYTES = 65536
AROUND_BYTES = 65536
#: Bytes that are read in one turn of the reactor: tiny chunks, headers or TLS messages take a microsecond for each byte.
READ_BYTES = 16384
#: Addresses of a host that are tried, the families in turns.
ADDRESSES = 2
_AGENT = b"s2sgw"


class Unfetched(Exception):
    """Nothing was fetched. The text says why."""


class Busy(Unfetched):
    """Nothing was fetched because our own resources were short. Another try may succeed."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer of a server. `location` is the target of a redirect."""

    status: int
    location: str | None
    body: bytes


class TrustRoots(typing.Protocol):
    """The trust anchors of web servers."""

    def current(self) -> Any:
        """Return the present anchors, in the form that Twisted's TLS takes (`twisted.internet.ssl`)."""


class HTTPS:
    """Fetches from web servers, whose names may come from strangers.

    `resolve(host)` returns the permitted addresses of a host, or raises `Unfetched`. `trust` has the anchors for the servers'
    certificates.
    """

    def __init__(
        self, reactor: Any, resolve: Callable[[str], Awaitable[Sequence[str]]], trust: TrustRoots,
        *, limit: int = BODY_BYTES, timeout: float = TIMEOUT,
    ) -> None:
        self._reactor = reactor
        self._limit = limit
        self._timeout = timeout
        self._agent = Agent.usingEndpointFactory(reactor, _Endpoints(reactor, resolve, trust, limit + AROUND_BYTES))

    def get(self, url: str) -> Deferred[Fetched]:
        """Return the answer to a GET of `url`. Fails with `Unfetched`."""
        fetching = Deferred.fromCoroutine(self._get(url))
        fetching.addTimeout(self._timeout, self._reactor, _too_slow)
        return fetching.addErrback(_unfetched, url)

    async def _get(self, url: str) -> Fetched:
        response = await self._agent.request(b"GET", url.encode("ascii"), Headers({b"User-Agent": [_AGENT]}))
        if response.code != 200:
            response.deliverBody(_Body(0))
            [location] = response.headers.getRawHeaders(b"location", [b""])[:1]
            return Fetched(response.code, location.decode("ascii", "replace") or None, b"")
        body = _Body(self._limit)
        response.deliverBody(body)
        return Fetched(response.code, None, await body.done)


class _Body(Protocol):
    """Collects a body of up to `limit` bytes, and gives up on a longer one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.done: Deferred[bytes] = Deferred(self._drop)

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > self._limit:
            self._drop()
            if self._limit and not self.done.called:
                self.done.errback(Unfetched(f"the answer is longer than {self._limit} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            whole = reason.check(ResponseDone)
            lost = Unfetched("the connection was lost during the answer")
            self.done.callback(bytes(self._data)) if whole else self.done.errback(lost)
            self.done.addErrback(lambda failure: None if not self._limit else failure)

    def _drop(self, _: object = None) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(
        self, reactor: Any, resolve: Callable[[str], Awaitable[Sequence[str]]], trust: TrustRoots, total: int,
    ) -> None:
        self.reactor = reactor
        self.resolve = resolve
        self.trust = trust
        self.total = total

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        if uri.scheme != b"https":
            raise Unfetched("only https is fetched")
        return _Endpoint(self, uri.host.decode("ascii").strip("[]"), uri.port)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """A web server: its addresses are tried in turn until one connects."""

    def __init__(self, endpoints: _Endpoints, host: str, port: int) -> None:
        self._endpoints = endpoints
        self._host = host
        self._port = port

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        options = optionsForClientTLS(self._host, trustRoot=self._endpoints.trust.current())
        why = f"{self._host} has no address that may be asked"
        for address in list(await self._endpoints.resolve(self._host))[:ADDRESSES]:
            kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            plain = kind(self._endpoints.reactor, address, self._port, timeout=CONNECT_TIMEOUT)
            try:
                wrapper: Any = await wrapClientTLS(options, plain).connect(_Bounding(factory, self._endpoints.total))
            except ConnectError:  # the reason is hidden: a stranger may have named any host and port
                why = f"{self._host}:{self._port} cannot be connected to"
            else:
                return wrapper.wrappedProtocol
        raise Unfetched(why)


class _Bounded(ProtocolWrapper):
    """Ends a connection that sends too much, and reads little at once."""

    factory: _Bounding
    heard = 0

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)
        while isinstance(transport, ProtocolWrapper):  # TLS
            transport = transport.transport
        transport.bufferSize = READ_BYTES

    def dataReceived(self, data: bytes) -> None:
        self.heard += len(data)
        if self.heard > self.factory.total:
            self.transport.abortConnection()  # type: ignore[union-attr]
        else:
            super().dataReceived(data)


class _Bounding(WrappingFactory):
    protocol = _Bounded
    noisy = False

    def __init__(self, factory: IProtocolFactory, total: int) -> None:
        super().__init__(factory)
        self.total = total


def _too_slow(_result: object, seconds: float) -> Any:
    raise Unfetched(f"no answer in {seconds:g} s")


def _unfetched(failure: Failure, url: str) -> Any:
    """Return any failure as `Unfetched`, with the text of its first cause."""
    if failure.check(Unfetched):
        return failure
    error = failure.value
    if isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    raise Unfetched(f"{url}: {_words(error)}") from None


def _words(error: BaseException | None) -> str:
    queue = error.args[0] if error is not None and error.args and isinstance(error.args[0], list) else None
    if queue:  # an OpenSSL error
        return "; ".join(str(entry[-1]) for entry in queue)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
