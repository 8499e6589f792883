"""One DNS question put to a list of servers, with failover.

Each attempt goes out from a fresh socket (a random port) with a fresh random id, over UDP, then TCP where the answer is
truncated; dnspython checks id and question of what comes back and passes over everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dns.asyncquery
import dns.entropy
import dns.rcode
from dns.edns import EDECode, EDEOption
from dns.message import Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from s2sgw.net.addresses import HostPort, is_address
from s2sgw.net.dns_transport import Reactor, TwistedBackend

DNS_PORT = 53
#: RFC 9715 §3.1: what passes without fragments.
EDNS_PAYLOAD = 1232
#: Seconds a server gets, in the first round over all servers and in the second.
ATTEMPT_TIMEOUTS = (2.0, 4.0)
#: Seconds for which a server that did not answer is asked last.
DOWN_FOR = 30.0
#: The system's resolvers used, at most (resolv.conf(5)).
_SYSTEM_SERVERS = 3
_REASON_LENGTH = 200


class NoAnswer(Exception):
    """No server gave an answer; the message says what each did instead.

    It names them by their place in the configuration: the words may reach a peer, and our resolvers are none of its business.
    """


class ServerFailed(Exception):
    """A server answered that it cannot answer (SERVFAIL, REFUSED, …): asking it again at once does not help."""

    def __init__(self, message: Message) -> None:
        super().__init__(_failure_text(message))


def system_servers(path: str = "/etc/resolv.conf") -> list[str]:
    """The resolvers of this machine, as `host` texts; 127.0.0.1 where none is named (resolv.conf(5))."""
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = [words[1] for words in map(str.split, lines) if len(words) > 1 and words[0] == "nameserver"]
    return [text for text in named if is_address(text)][:_SYSTEM_SERVERS] or ["127.0.0.1"]


def parse_servers(texts: Sequence[str]) -> tuple[HostPort, ...]:
    """Name servers as written, `address` or `address:port`; raises `ValueError` for what is none."""
    servers = tuple(HostPort.parse(text, DNS_PORT) for text in texts)
    for server in servers:
        if not server.is_address:
            raise ValueError(f"{server.host!r} is no address: a name server is given by its address")
    return servers


class Upstream:
    """The servers that are asked, those that answer before those that lately did not."""

    def __init__(self, reactor: Reactor, servers: Sequence[HostPort], timeouts: Sequence[float] = ATTEMPT_TIMEOUTS) -> None:
        self.servers = tuple(dict.fromkeys(servers))
        self._reactor = reactor
        self._backend = TwistedBackend(reactor)
        self._timeouts = timeouts
        self._down: dict[HostPort, float] = {}

    async def ask(self, query: Message) -> tuple[Message, HostPort]:
        """The first answer (NOERROR or NXDOMAIN) and who gave it; raises `NoAnswer`. `query` gets an id per attempt."""
        complaints: dict[HostPort, str] = {}
        failed: set[HostPort] = set()
        for timeout in self._timeouts:
            for server in self._in_order():
                if server in failed:
                    continue
                try:
                    return await self._attempt(server, query, timeout), server
                except CancelledError:
                    raise
                except Exception as error:  # whatever one server's answer makes dnspython or a socket raise, the next is asked
                    complaints[server] = _words(error, timeout)
                    if isinstance(error, ServerFailed):
                        failed.add(server)
                    else:
                        self._down[server] = self._reactor.seconds() + DOWN_FOR
        raise NoAnswer(self._told(complaints))

    def _told(self, complaints: dict[HostPort, str]) -> str:
        if len(self.servers) == 1:
            return complaints[self.servers[0]]
        said = (f"name server {number}: {complaints[server]}" for number, server in enumerate(self.servers, 1))
        return "; ".join(said) or "no name server is configured"

    def _in_order(self) -> list[HostPort]:
        now = self._reactor.seconds()
        return sorted(self.servers, key=lambda server: self._down.get(server, 0.0) > now)

    async def _attempt(self, server: HostPort, query: Message, timeout: float) -> Message:
        query.id = dns.entropy.random_16()
        exchange = dns.asyncquery.udp_with_fallback(
            query, server.host, None, server.port, ignore_unexpected=True, backend=self._backend, ignore_errors=True
        )
        message, _ = await Deferred.fromCoroutine(exchange).addTimeout(timeout, self._reactor)
        self._down.pop(server, None)
        if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise ServerFailed(message)
        return message


def _failure_text(message: Message) -> str:
    """SERVFAIL with the extended errors (RFC 8914) that tell a bogus signature from a dead server."""
    extended = [f"{_code(error)} {error.text or ''}".strip() for error in message.extended_errors()]
    return ", ".join([dns.rcode.to_text(message.rcode()), *extended])[:_REASON_LENGTH]


def _code(error: EDEOption) -> str:
    return EDECode.to_text(error.code).replace("_", " ").lower()


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, DeferredTimeout):
        return f"no answer in {timeout:g} s"
    return str(error)[:_REASON_LENGTH] or type(error).__name__
