"""Asks a list of servers one DNS question, with failover.

Each attempt uses a new socket (a random port) and a new random id. It uses UDP, then TCP if the answer is truncated.
dnspython checks the id and the question of each answer, and ignores anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from struct import pack
from typing import Any

import dns.asyncquery
import dns.entropy
import dns.flags
import dns.rcode
from dns.edns import EDECode, EDEOption
from dns.message import Message, QueryMessage
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from dns.rrset import RRset
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import CannotListenError

from s2sgw.net.dns_answer import Question
from s2sgw.net.dns_bounds import AnswerTooLarge
from s2sgw.net.dns_transport import Reactor, TwistedBackend
from s2sgw.xmpp.host_port import DNS_PORT, HostPort, is_address

#: RFC 9715 §3.1: bytes of an answer that passes without fragments.
EDNS_PAYLOAD = 1232
#: Seconds in which a server must answer, in the first round over all servers and in the second.
ATTEMPT_TIMEOUTS = (2.0, 4.0)
#: Seconds for which a server that did not answer is asked last.
DOWN_FOR = 30.0
#: The number of the system's resolvers that are used (resolv.conf(5)).
_SYSTEM_SERVERS = 3
_REASON_LENGTH = 200
#: RFC 6891 §6.1.2: the OPT record, without options.
_OPT = pack("!BHHIH", 0, RdataType.OPT, EDNS_PAYLOAD, 0, 0)


class NoAnswer(Exception):
    """No server gave an answer. The message has the failure of each.

    It names each server by its place in the configuration, not by its address, because the text may be sent to a peer.
    """


class ResolverUnreachable(NoAnswer):
    """No server could be asked: no socket, or each refused the packets. The name itself may be good."""


class ServerFailed(Exception):
    """A server answered that it cannot answer (SERVFAIL, REFUSED, …). It is not asked the same again at once."""

    def __init__(self, message: Message) -> None:
        super().__init__(_failure_text(message))


def system_servers(path: str = "/etc/resolv.conf") -> list[str]:
    """Return the addresses of this machine's resolvers; 127.0.0.1 if none is configured (resolv.conf(5))."""
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = [words[1] for words in map(str.split, lines) if len(words) > 1 and words[0] == "nameserver"]
    return [text for text in named if is_address(text)][:_SYSTEM_SERVERS] or ["127.0.0.1"]


def parse_servers(texts: Sequence[str]) -> tuple[HostPort, ...]:
    """Return the name servers in `texts`, each `address` or `address:port`. Raises `ValueError` for anything else."""
    servers = tuple(HostPort.parse(text, DNS_PORT) for text in texts)
    for server in servers:
        if not server.is_address:
            raise ValueError(f"{server.host!r} is not an address: a name server is given by its address")
    return servers


class Query(QueryMessage):
    """A query for recursion, with EDNS. It asks for the answer's DNSSEC status without the signatures (RFC 6840 §5.7).

    The message is built here: dnspython takes ten times as long, and strangers cause many queries.
    """

    def __init__(self, question: Question) -> None:
        super().__init__(id=0)
        self.flags = dns.flags.RD | dns.flags.AD
        self.question = [RRset(question.name, RdataClass.IN, question.rdtype)]
        self._rest = (question.name.to_wire() or b"") + pack("!HH", question.rdtype, RdataClass.IN) + _OPT

    def to_wire(self, *_arguments: Any, **_options: Any) -> bytes:
        """Return the message in wire format, for every transport."""
        return pack("!HHHHHH", self.id, self.flags, 1, 0, 0, 1) + self._rest


class Upstream:
    """The servers. A server that did not answer lately is asked last."""

    def __init__(self, reactor: Reactor, servers: Sequence[HostPort], timeouts: Sequence[float] = ATTEMPT_TIMEOUTS) -> None:
        self.servers = tuple(dict.fromkeys(servers))
        self._reactor = reactor
        self._backend = TwistedBackend(reactor)
        self._timeouts = timeouts
        self._down: dict[HostPort, float] = {}
        #: the time of a server's last answer of any kind
        self.answered_at = float("-inf")

    async def ask(self, query: Message) -> tuple[Message, HostPort]:
        """Return the first answer (NOERROR or NXDOMAIN) and the server that gave it. Raises `NoAnswer`.

        `query` gets a new id for each attempt.
        """
        complaints: dict[HostPort, str] = {}
        failed: set[HostPort] = set()
        reached: set[HostPort] = set()
        for timeout in self._timeouts:
            for server in self._in_order():
                if server in failed:
                    continue
                try:
                    return await self._attempt(server, query, timeout), server
                except CancelledError:
                    raise
                except Exception as error:  # dnspython and sockets raise many kinds; in each case the next server is asked
                    complaints[server] = _words(error, timeout)
                    if not isinstance(error, OSError | CannotListenError):
                        reached.add(server)
                    if isinstance(error, ServerFailed | AnswerTooLarge):
                        failed.add(server)
                    else:
                        self._down[server] = self._reactor.seconds() + DOWN_FOR
        raise (NoAnswer if reached else ResolverUnreachable)(self._told(complaints))

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
        self.answered_at = self._reactor.seconds()
        if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise ServerFailed(message)
        return message


def _failure_text(message: Message) -> str:
    """Return the response code with the extended errors (RFC 8914), which distinguish a bogus signature from a dead server."""
    extended = [f"{_code(error)} {error.text or ''}".strip() for error in message.extended_errors()]
    return ", ".join([dns.rcode.to_text(message.rcode()), *extended])[:_REASON_LENGTH]


def _code(error: EDEOption) -> str:
    return EDECode.to_text(error.code).replace("_", " ").lower()


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, DeferredTimeout):
        return f"no answer in {timeout:g} s"
    return str(error)[:_REASON_LENGTH] or type(error).__name__
