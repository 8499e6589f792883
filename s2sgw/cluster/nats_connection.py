"""One connection to the servers of NATS: requests with their answers, subscriptions, and a new connection when one is lost.

This is the only module that imports nats. It runs on an asyncio loop. Nothing is kept for a later connection: a request that is
lost with its connection fails at once with `Unanswered`, and its outcome is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from itertools import count, cycle
from math import inf
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoServersError
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.cluster.engine import EngineUnfit
from s2sgw.cluster.requests import Message, NoResponders, Requests, Unanswered

#: Seconds for a connection to one server, and between attempts.
_CONNECT_SECONDS = 3.0
_PAUSE = 0.2
#: A silent connection is lost after about three of these, in seconds.
_PING_SECONDS = 1
#: The most bytes of answers that wait to be read by this process.
_PENDING_BYTES = 64 * 1024 * 1024
#: Reasons that are remembered so that each is logged once.
_REASONS = 64
#: The client's words for a server that closes before its first line.
_NO_GREETING = "empty response from server"
#: asyncio's words for the end of a connection with TLS that the client opened. They say nothing of the connection.
_TLS_END = "returning true from eof_received() has no effect when using ssl"


class Login(NamedTuple):
    """The user of the servers that this node is. The password is in no log."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


_Reply = Callable[[Message], None]


class NATSConnection(Requests):
    """Keeps one connection, to one of `servers` after the other.

    With `tls`, the handshake is the first thing on each connection. By the usual order of NATS the server says that it wants TLS,
    and the client believes it: a machine in between could remove that word, and read the password.
    """

    _log = Logger()

    def __init__(
        self,
        servers: Sequence[str],
        tls: ssl.SSLContext | None,
        loop: asyncio.AbstractEventLoop,
        check: Callable[[tuple[int, int], int], None] | None = None,
        login: Login | None = None,
    ) -> None:
        """`check` gets a server's version and largest message, and raises `EngineUnfit` if it cannot serve. It is then left."""
        logging.getLogger("asyncio").addFilter(_is_of_use)  # it is added once
        self._servers = list(servers)
        self._tls = tls
        self._login = login
        self._loop = loop
        self._inbox = f"_INBOX.s2sgw.{secrets.token_hex(12)}"
        self._tokens = count(1)
        self._replies: dict[str, tuple[asyncio.Future[Any], _Reply]] = {}
        self._subscriptions: list[tuple[str, _Reply]] = [(f"{self._inbox}.*", self._take)]
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._check = check
        self._told: set[str] = set()
        #: The servers that were connected to once: their TLS and ours agree.
        self._known: set[str] = set()
        #: The server that is connected to, or that is tried.
        self._server = ""
        #: Why there is no connection.
        self.problem = ""
        #: Why a server was left that cannot serve.
        self.unfit: EngineUnfit | None = None

    def open(self) -> None:
        """Connect, and stay connected."""
        random.shuffle(self._servers)
        self.start(self._stay_connected())

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that ends with this connection at the latest."""
        if self._closed:
            coroutine.close()
            return
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._log.failure("engine: a task failed", Failure(error))

    async def close(self) -> None:
        """End every request and every task."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=_PAUSE)
        await self._drop()

    def tell(self, reason: str) -> None:
        """Log why the server cannot be used now, once for each reason until this is over."""
        text = f"{_shown(self._server)}: {reason}"
        if text not in self._told and len(self._told) < _REASONS:
            self._told.add(text)
            self._log.warn("engine: {text}", text=text)

    def _failed(self, error: BaseException, connected: bool = False) -> None:
        known = connected or self._server in self._known
        reason = _words(error) if connected else _reason(error, self._tls is not None, known)
        self.problem = f"{_shown(self._server)}: {reason}"
        self.tell(reason)

    # --- what is known of the server ---

    @property
    def connected(self) -> bool:
        return self._client is not None

    @property
    def max_payload(self) -> int:
        """Return the most bytes of one message, headers included; 0 without a connection."""
        return self._client.max_payload if self._client is not None else 0

    async def wait_up(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._up.wait(), seconds)
        except TimeoutError:
            raise Unanswered(f"no connection: {self.problem or 'no server answers'}") from None

    def hop(self) -> None:
        self._lost.set()

    # --- messages ---

    def subscribe(self, subject: str, heard: _Reply) -> None:
        """Call `heard` with each message to `subject`, on this connection and the next ones."""
        self._subscriptions.append((subject, heard))
        if self._client is not None:
            self.start(self._subscribe_now(self._client, subject, heard))

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        client = self._client
        if client is None:
            raise Unanswered(f"no connection: {self.problem}")
        try:
            await client.publish(subject, data, reply, dict(headers) if headers else None)
        except Exception as error:
            raise Unanswered(str(error)) from error

    async def request(
        self, subject: str, data: bytes, seconds: float, headers: Mapping[str, str] | None = None, many: bool = False,
        again: float = inf,
    ) -> list[Message]:
        if self._client is None:
            await self.wait_up(seconds)
        answers: list[Message] = []
        future: asyncio.Future[None] = self._loop.create_future()

        def take(message: Message) -> None:
            if future.done():
                return  # two servers may answer one request, if both take themselves for the leader
            answers.append(message)
            if message.status or not many:
                future.set_result(None)

        token = str(next(self._tokens))
        self._replies[token] = (future, take)
        timer = self._loop.call_later(seconds, _give_up, future, f"no answer within {seconds:g} s")
        try:
            await self.publish(subject, data, headers, f"{self._inbox}.{token}")
            while again < seconds and not (await asyncio.wait([future], timeout=again))[0]:
                await self.publish(subject, data, headers, f"{self._inbox}.{token}")
            await future
        finally:
            timer.cancel()
            del self._replies[token]
            if future.done() and not future.cancelled():
                future.exception()
        if answers[-1].status == 503:
            raise NoResponders("no receiver is there (no responders)")
        return answers

    def _take(self, message: Message) -> None:
        reply = self._replies.get(message.subject.rpartition(".")[2])
        if reply is not None:
            reply[1](message)

    # --- connections ---

    async def _stay_connected(self) -> None:
        for server in cycle(self._servers):
            self._server = server
            try:
                client = await self._connect(server)
            except NoServersError:
                await asyncio.sleep(_PAUSE)
                continue
            except EngineUnfit as error:
                self.unfit = error
                self._failed(error)
                await asyncio.sleep(_PAUSE)
                continue
            except Exception as error:
                self._failed(error)
                await asyncio.sleep(_PAUSE)
                continue
            if self._closed:
                await _close(client)
                return
            self._log.info("engine: connected to {server}", server=_shown(server))
            self._told.clear()
            self._known.add(server)
            self._client = client
            self._up.set()
            await self._until_lost(client)
            self.problem = f"{_shown(server)}: connection lost"
            self._log.info("engine: the connection to {server} is lost", server=_shown(server))
            await self._drop()
            await asyncio.sleep(random.uniform(0, _PAUSE))

    async def _until_lost(self, client: Client) -> None:
        """Wait until the connection is lost. The client does not call `closed_cb` if the socket breaks while it closes."""
        while client.is_connected and not self._lost.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _PING_SECONDS)

    async def _connect(self, server: str) -> Client:
        client = Client()
        lost = self._lost = asyncio.Event()

        async def closed() -> None:
            lost.set()

        def reading_ended(task: asyncio.Task[Any]) -> None:
            if not task.cancelled():
                task.exception()  # otherwise asyncio logs it
            lost.set()

        async def failed(error: Exception) -> None:
            self._failed(error, client is self._client)

        try:
            await asyncio.wait_for(client.connect(
                [server], name="s2sgw", allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0, connect_timeout=2,
                ping_interval=_PING_SECONDS, max_outstanding_pings=2, tls=self._tls, tls_handshake_first=self._tls is not None,
                user=self._login and self._login.user, password=self._login and self._login.password,
                closed_cb=closed, error_cb=failed,
            ), _CONNECT_SECONDS)  # fmt: skip
            if client._reading_task is not None:
                client._reading_task.add_done_callback(reading_ended)
            if self._check is not None:
                self._check(_version(client), client.max_payload)
            for subject, heard in self._subscriptions:
                await self._subscribe(client, subject, heard)
        except BaseException:
            await _close(client)
            raise
        return client

    async def _subscribe_now(self, client: Client, subject: str, heard: _Reply) -> None:
        try:
            await self._subscribe(client, subject, heard)
        except Exception as error:
            self.problem = str(error)
            self.hop()

    async def _subscribe(self, client: Client, subject: str, heard: _Reply) -> None:
        async def take(message: Msg) -> None:
            try:
                heard(_message(message))
            except Exception:
                self._log.failure("engine: a message to {subject} could not be taken", subject=subject)

        await client.subscribe(subject, cb=take, pending_msgs_limit=0, pending_bytes_limit=_PENDING_BYTES)

    async def _drop(self) -> None:
        client, self._client = self._client, None
        self._up.clear()
        for future, _ in list(self._replies.values()):
            _give_up(future, "the connection was lost")
        if client is not None:
            await _close(client)


async def _close(client: Client) -> None:
    """Close a connection. The client leaves tasks and its socket behind if the socket breaks while it closes."""
    subscriptions = list(client._subs.values())
    with suppress(Exception):
        await asyncio.wait_for(client.close(), 1.0)
    tasks: list[asyncio.Task[None] | None] = [each._wait_for_msgs_task for each in subscriptions]
    for task in tasks:
        if task is not None:
            task.cancel()
    if client._transport is not None:
        client._transport.close()


def _version(client: Client) -> tuple[int, int]:
    """Return the first two numbers of a server's version; (0, 0) if they cannot be read."""
    try:
        return client.connected_server_version.major, client.connected_server_version.minor
    except ValueError:
        return 0, 0


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether a line of asyncio's log is of use to an operator."""
    return record.msg != _TLS_END


def _reason(error: BaseException, tls: bool, known: bool = False) -> str:
    """Return why a connection failed, with a remedy for a server with other TLS than ours.

    A server that is `known`, because it was connected to before, has our TLS: it stops, or was stopped.
    A server that does not expect TLS first is never silent: it speaks first. One that expects it waits for our handshake.
    """
    words = _words(error)
    if isinstance(error, TimeoutError):
        hint = "" if tls or known else ", or it has TLS, and cluster.tls must be set"
        return f"no answer: the server hangs, or cannot be reached{hint}"
    broken = isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError)
    if known or not (broken or _NO_GREETING in words) or isinstance(error, ssl.SSLCertVerificationError):
        return words
    if tls:
        return f"{words}: with cluster.tls, the server needs a tls block with handshake_first: true"
    return f"{words}: if the server has TLS, cluster.tls must be set"


def _give_up(future: asyncio.Future[None], why: str) -> None:
    if not future.done():
        future.set_exception(Unanswered(why))


def _message(message: Msg) -> Message:
    headers: dict[str, str] = message.headers or {}
    status = headers.get("Status", "") if not message.data else ""
    return Message(message.subject, message.reply, headers, message.data, int(status) if status.isdigit() else 0)


def _shown(server: str) -> str:
    """Return a server's URL without user and password."""
    scheme, _, rest = server.rpartition("://")
    return f"{scheme or 'nats'}://{rest.rpartition('@')[2]}"
