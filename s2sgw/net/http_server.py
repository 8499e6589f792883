"""An HTTP server with bounds: bytes and fields of a request, time for it and for its answer, connections in all and of one site.

Twisted's own server (twisted.web) bounds the head of a request and idle connections. But it writes large bodies to temporary
files, and parses forms of any kind with any number of fields, which holds the reactor for long. A client may take any time to
send a request, as long as a byte comes now and then.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import Any, cast

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from s2sgw.net import sites
from s2sgw.xmpp.timer import cancel

#: Bytes of a body; fields of a head, and of a query and a form together; slashes of a URL; bytes of a Content-Type.
BODY_BYTES = 65536
FIELDS = 100
SEGMENTS = 100
CONTENT_TYPE_BYTES = 256
#: Connections of one server at once, and of one site (an IPv4 address, an IPv6 /64).
CONNECTIONS = 128
CONNECTIONS_PER_SITE = 32
#: Seconds for which a connection without a request is kept, for a whole request to arrive, and for its answer to be read.
IDLE_SECONDS = 60
REQUEST_SECONDS = 15
ANSWER_SECONDS = 150


class BoundedRequest(Request):
    """One request. Its body has an announced length of at most `BODY_BYTES`. A body that is costly to parse is refused unparsed.

    The values of all headers are UTF-8.
    """

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory.

        Refuse a body that is announced too large, and one in chunks, since each chunk may be one byte.
        """
        self.content = BytesIO()
        if length is None:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the body must have a Content-Length")
        elif length > BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {BODY_BYTES} bytes")

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Process the request, unless it was refused or is refused now."""
        if cast(BoundedChannel, self.channel).refused:
            return
        fault = self._fault(path)
        if fault is not None:
            cast(BoundedChannel, self.channel).refuse(*fault, with_body=command != b"HEAD")
        else:
            super().requestReceived(command, path, version)

    def _fault(self, path: bytes) -> tuple[HTTPStatus, str] | None:
        """Return status and reason for the refusal of a request that cannot be parsed cheaply; None: it can be parsed."""
        kinds = self.requestHeaders.getRawHeaders(b"content-type", [])
        if any(b"multipart" in kind.lower() for kind in kinds):
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "multipart forms are not accepted"
        fields = path.count(b"&")
        if not (kinds and kinds[0].lower().startswith(b"application/json")):
            fields += cast(BytesIO, self.content).getvalue().count(b"&")
        if fields >= FIELDS:
            return HTTPStatus.BAD_REQUEST, f"a request has at most {FIELDS} fields in its query and its form"
        if path.count(b"/") > SEGMENTS:
            return HTTPStatus.BAD_REQUEST, f"a path has at most {SEGMENTS} slashes"
        if any(len(kind) > CONTENT_TYPE_BYTES for kind in kinds):
            return HTTPStatus.BAD_REQUEST, f"a Content-Type has at most {CONTENT_TYPE_BYTES} bytes"
        return None if self._is_utf8() else (HTTPStatus.BAD_REQUEST, "the headers must be UTF-8")

    def _is_utf8(self) -> bool:
        """Return whether the values of all headers are UTF-8, as `getHeader` with a str expects."""
        try:
            b"\n".join(value for _, values in self.requestHeaders.getAllRawHeaders() for value in values).decode()
        except UnicodeDecodeError:
            return False
        return True

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        cast(BoundedChannel, self.channel).refuse(status, text)

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status, with the standard's words for it, also for those that Twisted does not have (421, 429)."""
        super().setResponseCode(code, HTTPStatus(code).phrase.encode("ascii") if message is None else message)

    @property
    def host_name(self) -> str:
        """Return the name in the Host header, in lower case, without port and brackets; "" if there is not exactly one."""
        values = self.requestHeaders.getRawHeaders("host", [])
        if len(values) != 1:
            return ""
        name = values[0].lower()
        if name.startswith("["):
            return name[1:].partition("]")[0]
        return name.partition(":")[0]


class BoundedChannel(HTTPChannel):
    """One connection."""

    site: BoundedSite
    maxHeaders = FIELDS

    def __init__(self) -> None:
        super().__init__()
        self._deadline: Any = None
        #: whether a request was refused; after that nothing more is read
        self.refused = False
        #: the timed call that goes on with the next request, in a later turn of the reactor
        self._next: Any = None
        #: the request whose answer is under way, and is read before the next request is handled
        self._unread: Any = None
        #: whether the client may send more; whether the answer under way is a stream of events
        self._sends_more = True
        self._endless = False
        #: the connection is being closed, because the client sends nothing more
        self._parting = False
        #: the networks that the connection comes from, the widest first, and whether a user has logged in on it
        self.client_path: sites.Site = ()
        self.trusted = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self._wait(REQUEST_SECONDS)

    def dataReceived(self, data: bytes) -> None:
        if self._deadline is None and not self._handlingRequest:
            self._wait(REQUEST_SECONDS)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Read a line of the head of a request, unless one was refused."""
        if not self.refused:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """Read a part of a body, unless the request was refused."""
        if not self.refused:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        self._wait(ANSWER_SECONDS)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        """Go on with the next request in a later turn, and only when the client has read enough of this answer.

        Otherwise requests that come together would all be answered in one turn, and their answers kept in memory.
        """
        self._endless = False
        if not self.persistent:
            if self._deadline is None:
                self._wait(ANSWER_SECONDS)
            super().requestDone(request)
        elif not (self._buffer or any(self._dataBuffer)):
            self._go_on(request)
        elif self._waitingForTransport:
            self._unread = request
        else:
            self._next = self.callLater(0, partial(self._go_on, request))

    def _go_on(self, request: Any) -> None:
        self._next = None
        self._stop_waiting()
        super().requestDone(request)
        self._close_if_answered()

    def readConnectionLost(self) -> None:
        """Close the connection once the requests that came are answered: the client sends nothing more. Events end at once.

        Called for a connection that can be closed in one direction, as the admin socket's is.
        """
        self._sends_more = False
        self._close_if_answered()

    def _close_if_answered(self) -> None:
        answering = self._handlingRequest or self._next is not None or self._unread is not None
        if not (self._sends_more or self._parting or self.refused) and (self._endless or not answering):
            self._parting = True
            self.loseConnection()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        request, self._unread = self._unread, None
        if request is not None:
            self.requestDone(request)

    def answer_without_end(self) -> None:
        """Set no time limit for the answer under way: it is a stream of events."""
        self._endless = True
        self._stop_waiting()

    def refuse(self, status: HTTPStatus, text: str, with_body: bool = True) -> None:
        """Answer the request that is being read with `status` and a JSON object with the reason, and close the connection.

        An answer to HEAD has no body.
        """
        self.refused = True
        body = json.dumps({"error": text, "kind": "usage"}).encode("ascii") + b"\n"
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        cast(Any, self.transport).write(head.encode("ascii") + (body if with_body else b""))
        self.loseConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Refuse a head that Twisted cannot parse, or that exceeds its limits."""
        if self.refused:
            return
        text = "the request is not valid HTTP"
        if self._receivedHeaderCount > self.maxHeaders:
            text = f"a request has at most {self.maxHeaders} header fields"
        elif self._receivedHeaderSize > self.totalHeadersSize:
            text = f"the head of a request has at most {self.totalHeadersSize} bytes"
        self.refuse(HTTPStatus.BAD_REQUEST, text)

    def timeoutConnection(self) -> None:
        """Close an idle connection."""
        self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_waiting()
        if self._next is not None:
            self._next.cancel()
        self._unread = self._next = None
        self.site.closed(self)
        super().connectionLost(reason)

    def abort(self) -> None:
        """Abort the connection."""
        cast(Any, self.transport).abortConnection()

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._deadline = self.callLater(seconds, self._expired)

    def _stop_waiting(self) -> None:
        cancel(self._deadline)
        self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        self.abort()


class BoundedSite(Site):
    """Serves `root`, with a fair share of connections for each site.

    Connections on which a user has logged in keep their place. Of the others, the oldest of the site with most gives way to a new
    one: the widest networks are compared first (`net.sites`), because an IPv6 /48 has 65,536 narrow ones.
    """

    protocol: Any = BoundedChannel
    displayTracebacks = False
    noisy = False

    def __init__(self, root: IResource, reactor: IReactorTime, request_factory: type[BoundedRequest] = BoundedRequest) -> None:
        super().__init__(root, requestFactory=request_factory, timeout=IDLE_SECONDS, reactor=reactor)
        #: in the order of arrival
        self._channels: dict[BoundedChannel, None] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def __bool__(self) -> bool:
        return True

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection; None: there is no room, and Twisted closes it."""
        path = sites.site_path(str(getattr(addr, "host", "")))
        if not self._make_room(path):
            return None
        channel = cast(BoundedChannel, super().buildProtocol(addr))
        channel.client_path = path
        self._channels[channel] = None
        return channel

    def _make_room(self, path: sites.Site) -> bool:
        untrusted = [channel for channel in self._channels if not channel.trusted]
        own = [channel for channel in untrusted if channel.client_path == path]
        if len(own) >= CONNECTIONS_PER_SITE:
            return self._drop_oldest(own)
        if len(self._channels) >= CONNECTIONS:
            return self._drop_oldest(_of_the_most_crowded(untrusted))
        return True

    def _drop_oldest(self, channels: list[BoundedChannel]) -> bool:
        if not channels:
            return False
        self.closed(channels[0])
        channels[0].abort()
        return True

    def closed(self, channel: BoundedChannel) -> None:
        """Forget a connection."""
        self._channels.pop(channel, None)

    def close(self) -> None:
        """Abort every connection."""
        for channel in list(self._channels):
            channel.abort()

    def log(self, request: Any) -> None:
        """Write no access log: changes are in the audit log."""


def _of_the_most_crowded(channels: list[BoundedChannel]) -> list[BoundedChannel]:
    """Return the channels of the widest site that has most of them, and of these those of the next narrower one, and so on."""
    for depth in range(max((len(channel.client_path) for channel in channels), default=0)):
        numbers = Counter(channel.client_path[: depth + 1] for channel in channels)
        most = max(numbers, key=numbers.__getitem__)
        channels = [channel for channel in channels if channel.client_path[: depth + 1] == most]
    return channels
