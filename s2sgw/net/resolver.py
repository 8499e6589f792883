"""Look-ups in the DNS: joined, bounded in number and time, cached by TTL, with DNSSEC's word where it can be trusted.

"Does not exist" (NXDOMAIN), "has no such data" and "could not be asked" are told apart: R2 hangs on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
from dns.rdatatype import RdataType
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.python.failure import Failure

from s2sgw.net.addresses import HostPort, is_address
from s2sgw.net.dns_transport import Reactor
from s2sgw.net.dns_upstream import EDNS_PAYLOAD, Upstream, parse_servers, system_servers

#: Seconds for one look-up, over all servers and waiting for its turn.
TIMEOUT = 10.0
#: Look-ups under way at once, and those that may wait for their turn; one more fails at once.
CONCURRENT = 256
WAITING = 1024
#: Records kept of one answer, and what the cache holds in all, in records of up to 256 bytes (no record counts as one).
RECORDS = 64
CACHED = 16384
_RECORD_BYTES = 256
#: Seconds that an answer, a negative answer (RFC 2308 §5) and a failure (RFC 9520 §3.2) are kept, at most.
TTL = 3600
NEGATIVE_TTL = 600
FAILURE_TTL = 5

#: Nobody is asked for the addresses of this machine (RFC 6761 §6.3).
_LOCALHOST = dns.name.from_text("localhost.")
_LOOPBACK = {kind: dns.rdata.from_text("IN", kind, text) for kind, text in ((RdataType.A, "127.0.0.1"), (RdataType.AAAA, "::1"))}

Key = tuple[dns.name.Name, RdataType]


class Status(StrEnum):
    """What came of a look-up."""

    FOUND = "found"
    NO_DATA = "no-data"
    NO_SUCH_NAME = "no-such-name"
    FAILED = "failed"  # could not be asked: SERVFAIL, time-out, too busy


@dataclass(frozen=True, slots=True)
class Answer:
    """`records` of the type asked for, behind CNAMEs too (`canonical` is the name at their end).

    `secure`: DNSSEC secured the whole answer, be it the absence of records, as told by a resolver that may be believed.
    `ttl`: seconds it may be kept, from when it came. `reason`: of a failure, in words.
    """

    name: dns.name.Name
    rdtype: RdataType
    status: Status
    records: tuple[dns.rdata.Rdata, ...] = ()
    secure: bool = False
    ttl: float = 0.0
    canonical: dns.name.Name = dns.name.root
    reason: str = ""

    @property
    def found(self) -> bool:
        return self.status is Status.FOUND

    @property
    def failed(self) -> bool:
        return self.status is Status.FAILED


class Resolver:
    """Look-ups through recursive resolvers.

    `servers`: "address" or "address:port", none for the system's. `trust_ad`: believe the AD flag of servers that are not
    on this machine too (their network must be trusted). Raises `ValueError` for a server that is no address.
    """

    def __init__(
        self,
        reactor: Reactor,
        servers: Sequence[str] = (),
        *,
        trust_ad: bool = False,
        timeout: float = TIMEOUT,
        concurrent: int = CONCURRENT,
        waiting: int = WAITING,
        cached: int = CACHED,
    ) -> None:
        self._reactor = reactor
        self._upstream = Upstream(reactor, parse_servers(servers or system_servers()))
        self._trust_ad = trust_ad
        self._timeout = timeout
        self._turns = DeferredSemaphore(concurrent)
        self._waiting = waiting
        self._pending: dict[Key, list[Deferred[Answer]]] = {}
        self.cache = Cache(reactor, cached)

    @property
    def servers(self) -> tuple[HostPort, ...]:
        """Whom we ask, in the order of the configuration."""
        return self._upstream.servers

    @property
    def in_flight(self) -> int:
        """Look-ups under way or waiting for their turn."""
        return len(self._pending)

    def query(self, name: str | dns.name.Name, rdtype: str | RdataType) -> Deferred[Answer]:
        """The records of `name` (A-labels). The Deferred never fails, but it can be cancelled: only its caller leaves."""
        kind = RdataType.make(rdtype)
        try:
            absolute = _absolute(name)
        except (dns.exception.DNSException, UnicodeError) as error:
            return _fired(Answer(dns.name.root, kind, Status.NO_SUCH_NAME, reason=f"no name for the DNS: {error}"))
        if absolute == _LOCALHOST and kind in _LOOPBACK:
            return _fired(Answer(absolute, kind, Status.FOUND, (_LOOPBACK[kind],), canonical=absolute))
        known = self.cache.get((absolute, kind))
        return _fired(known) if known is not None else self._join((absolute, kind))

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Every address of `host`, IPv4 first; itself where it is one."""
        if is_address(host):
            return (host,)
        answers = [await self.query(host, family) for family in ("A", "AAAA")]
        return tuple(record.to_text() for answer in answers for record in answer.records)

    def _join(self, key: Key) -> Deferred[Answer]:
        if key not in self._pending and len(self._turns.waiting) >= self._waiting:
            return _fired(_failure(key, "too many look-ups at once"))
        waiter: Deferred[Answer] = Deferred(lambda cancelled: self._leave(key, cancelled))
        if key in self._pending:
            self._pending[key].append(waiter)
        else:
            self._pending[key] = [waiter]
            looking = Deferred.fromCoroutine(self._look_up(key)).addTimeout(self._timeout, self._reactor)
            looking.addErrback(self._failed, key).addCallback(self._arrived, key)
        return waiter

    def _leave(self, key: Key, waiter: Deferred[Answer]) -> None:
        """The look-up itself goes on: it is bounded, and its answer is kept."""
        self._pending[key].remove(waiter)

    async def _look_up(self, key: Key) -> Answer:
        await self._turns.acquire()
        try:
            # AD asks for the answer's DNSSEC status without the signatures (RFC 6840 §5.7)
            flags = dns.flags.RD | dns.flags.AD
            query = dns.message.make_query(*key, use_edns=0, payload=EDNS_PAYLOAD, flags=flags)
            message, server = await self._upstream.ask(query)
        finally:
            self._turns.release()
        return self._answer(key, message, self._trust_ad or server.is_loopback)

    def _answer(self, key: Key, message: dns.message.Message, believed: bool) -> Answer:
        assert isinstance(message, dns.message.QueryMessage)
        chain = message.resolve_chaining()
        secure = believed and bool(message.flags & dns.flags.AD)
        if chain.answer is not None:
            records = tuple(chain.answer)[:RECORDS]
            return Answer(*key, Status.FOUND, records, secure, min(chain.minimum_ttl, TTL), chain.canonical_name)
        status = Status.NO_SUCH_NAME if message.rcode() else Status.NO_DATA
        return Answer(*key, status, (), secure, min(chain.minimum_ttl, NEGATIVE_TTL), chain.canonical_name)

    def _failed(self, failure: Failure, key: Key) -> Answer:
        if isinstance(failure.value, DeferredTimeout):
            return _failure(key, f"no answer in {self._timeout:g} s")
        return _failure(key, str(failure.value) or type(failure.value).__name__)

    def _arrived(self, answer: Answer, key: Key) -> None:
        self.cache.put((answer.name, answer.rdtype), answer)
        for waiter in self._pending.pop(key):
            waiter.callback(answer)


class Cache:
    """Answers until their TTL is over; the least recently used go first where they weigh more than `limit`."""

    def __init__(self, clock: Reactor, limit: int = CACHED) -> None:
        self._clock = clock
        self._limit = limit
        self._answers: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Key) -> Answer | None:
        """The answer, `ttl` being what is left of it."""
        if key not in self._answers:
            return None
        until, answer = self._answers[key]
        left = until - self._clock.seconds()
        if left <= 0:
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return replace(answer, ttl=left)

    def put(self, key: Key, answer: Answer) -> None:
        """Keep `answer`; one without a lifetime is not kept."""
        self._drop(key)
        if answer.ttl <= 0:
            return
        self._answers[key] = (self._clock.seconds() + answer.ttl, answer)
        self.weight += _weight(answer)
        while self.weight > self._limit:
            self._drop(next(iter(self._answers)))

    def clear(self) -> None:
        self._answers.clear()
        self.weight = 0

    def _drop(self, key: Key) -> None:
        entry = self._answers.pop(key, None)
        if entry is not None:
            self.weight -= _weight(entry[1])


def _weight(answer: Answer) -> int:
    return max(sum(1 + len(record.to_wire() or b"") // _RECORD_BYTES for record in answer.records), 1)


def _absolute(name: str | dns.name.Name) -> dns.name.Name:
    """The name (they compare whatever their case); A-labels: no other reading of IDNA comes in here."""
    return name if isinstance(name, dns.name.Name) else dns.name.from_text(name.encode("ascii"))


def _failure(key: Key, reason: str) -> Answer:
    return Answer(*key, Status.FAILED, ttl=FAILURE_TTL, reason=reason)


def _fired(answer: Answer) -> Deferred[Answer]:
    fired: Deferred[Answer] = Deferred()
    fired.callback(answer)
    return fired
