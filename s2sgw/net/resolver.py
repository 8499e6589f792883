"""Look-ups in the DNS through recursive resolvers: joined, shared fairly, bounded, and cached.

Strangers (`net.requester`) have half of the slots, shared by their addresses. The other half is the gateway's own, which no
stranger can take. A look-up without a waiting caller is cancelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
from dns.message import ChainingResult, QueryMessage
from dns.rdatatype import RdataType
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from s2sgw.net.dns_answer import Answer, Question, Status
from s2sgw.net.dns_cache import RECORDS as CACHED_RECORDS
from s2sgw.net.dns_cache import Cache
from s2sgw.net.dns_transport import Reactor
from s2sgw.net.dns_upstream import Query, ResolverUnreachable, Upstream, parse_servers, system_servers
from s2sgw.net.fair_slots import Owner, Reason, SlotLost
from s2sgw.net.joined_calls import JoinedCalls
from s2sgw.net.requester import Requester
from s2sgw.net.requester_slots import RequesterSlots
from s2sgw.net.silent_zones import SilentZones
from s2sgw.xmpp.host_port import HostPort, is_address

#: Seconds for one look-up, over all servers and including the wait for a slot.
TIMEOUT = 10.0
#: Look-ups under way at once, half of them for strangers.
LOOKUPS = 256
#: DNS questions a second that strangers at one address may cause.
QUESTIONS_PER_SECOND = 100
#: Records kept of one answer.
RECORDS = 64
#: Seconds that an answer, a negative answer (RFC 2308 §5) and a failure (RFC 9520 §3.2) are kept, at most.
TTL = 3600
NEGATIVE_TTL = 600
FAILURE_TTL = 5
#: Seconds without an answer after which a name counts as silent, however the look-up ended.
SILENT_SECONDS = 2.0
#: Seconds without an answer after which an abandoned look-up is kept as a failure. Strangers may ask for any name: with a
#: shorter time they could have slow but honest servers taken for silent.
HOPELESS_SECONDS = 4.0

#: Questions that are kept, parsed: names as callers spell them.
_CACHED = 1024

#: No server is asked for the addresses of this machine (RFC 6761 §6.3).
_LOCALHOST = dns.name.from_text("localhost.")
_LOOPBACK = {kind: dns.rdata.from_text("IN", kind, text) for kind, text in ((RdataType.A, "127.0.0.1"), (RdataType.AAAA, "::1"))}
#: Why a look-up got no slot, or lost it.
_WHY_BUSY: dict[Reason, str] = {
    "displaced": "too many look-ups at once, and this one took longest",
    "line-full": "too many look-ups at once",
    "rate": "too many look-ups for this address",
}
#: The owner of look-ups that every caller may join.
_OURS: Owner = ()


class Resolver:
    """Look-ups through recursive resolvers.

    `servers`: "address" or "address:port"; none: the system's. `trust_ad`: trust the AD flag of servers that are not on
    this machine too (their network must be trusted). `lookups`: how many are under way at once.
    Raises `ValueError` for a server that is not an address.
    """

    def __init__(
        self,
        reactor: Reactor,
        servers: Sequence[str] = (),
        *,
        trust_ad: bool = False,
        timeout: float = TIMEOUT,
        lookups: int = LOOKUPS,
        questions_per_second: float = QUESTIONS_PER_SECOND,
        cached: int = CACHED_RECORDS,
    ) -> None:
        self._reactor = reactor
        self._upstream = Upstream(reactor, parse_servers(servers or system_servers()))
        self._trust_ad = trust_ad
        self._timeout = timeout
        self._slots: RequesterSlots[Answer] = RequesterSlots(reactor, lookups, questions_per_second)
        self._joined: JoinedCalls[tuple[Owner, Question], Answer] = JoinedCalls()
        self._silent_zones = SilentZones(reactor)
        self._given_up: Counter[str] = Counter()
        self.cache = Cache(reactor, cached)

    def configure(self, servers: Sequence[str], trust_ad: bool) -> None:
        """Use other servers from now on, and forget the answers of the old ones. Raises `ValueError`."""
        found = parse_servers(servers or system_servers())
        if (found, trust_ad) != (self._upstream.servers, self._trust_ad):
            self._upstream, self._trust_ad = Upstream(self._reactor, found), trust_ad
            self.cache.clear()

    @property
    def servers(self) -> tuple[HostPort, ...]:
        """Return the servers that are asked, in the order of the configuration."""
        return self._upstream.servers

    @property
    def in_flight(self) -> int:
        """Return the number of look-ups that hold a slot."""
        return self._slots.in_flight

    @property
    def in_line(self) -> int:
        """Return the number of look-ups that wait for a slot."""
        return self._slots.in_line

    @property
    def given_up(self) -> Counter[str]:
        """Return the number of look-ups that were not made, or not finished, since the start, by reason."""
        return self._given_up + self._slots.given_up

    def query(self, name: str | dns.name.Name, rdtype: str | RdataType, requester: Requester | None = None) -> Deferred[Answer]:
        """Return the records of `name` (A-labels), for `requester` (None: the gateway itself). The Deferred never fails.

        It can be cancelled. The look-up ends when all callers have cancelled.
        """
        known = self.known(name, rdtype, requester)
        if known is not None:
            return succeed(known)
        question = _question(name, rdtype)
        asker = requester or Requester.ourselves(question.name.to_text())
        return self._look_up(question, asker).addCallback(asker.note, question)

    def known(self, name: str | dns.name.Name, rdtype: str | RdataType, requester: Requester | None = None) -> Answer | None:
        """Return the answer if no server has to be asked for it, else None."""
        try:
            question = _question(name, rdtype)
        except (dns.exception.DNSException, UnicodeError) as error:
            kind = RdataType.make(rdtype)
            return Answer(dns.name.root, kind, Status.NO_SUCH_NAME, reason=f"not a DNS name: {error}")
        absolute, kind = question.name, question.rdtype
        if kind in _LOOPBACK and absolute == _LOCALHOST:
            return Answer(absolute, kind, Status.FOUND, (_LOOPBACK[kind],), canonical=absolute)
        if requester is None:
            return self.cache.get(question)
        known = requester.recall(question) or self.cache.get(question)
        return None if known is None else requester.note(known, question)

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return every address of `host`, IPv4 first; if `host` is an address, only that."""
        if is_address(host):
            return (host,)
        answers = [await self.query(host, family) for family in ("A", "AAAA")]
        return tuple(record.to_text() for answer in answers for record in answer.records)

    # --- admission ---

    def _look_up(self, question: Question, requester: Requester) -> Deferred[Answer]:
        """Let strangers join a look-up of the gateway. The gateway never joins a stranger's, which may wait or be dropped."""
        if not requester.is_stranger or (_OURS, question) in self._joined:
            return self._joined.join((_OURS, question), self._begin, question, requester)
        place = (requester.owner, question)
        if place not in self._joined:
            refusal = self._charge(question, requester)
            if refusal is not None:
                return succeed(refusal)
        return self._joined.join(place, self._begin, question, requester)

    def _charge(self, question: Question, stranger: Requester) -> Answer | None:
        """Charge `stranger` for one question, or return why the question is refused."""
        if self._silent_zones.is_silent(question.name, stranger.owner[0]):
            return self._silent(question)
        if stranger.questions_left <= 0:
            self._given_up["questions"] += 1
            return _failure(question, "the claim of one name takes too many DNS questions", ttl=0)
        stranger.questions_left -= 1
        return None

    def _silent(self, question: Question) -> Answer:
        self._given_up["silent-zone"] += 1
        return _failure(question, "the name servers of the zone did not answer lately", ttl=0)

    def _begin(self, question: Question, requester: Requester) -> Deferred[Answer]:
        look_up = _LookUp(question, requester.owner[0], requester.is_stranger)
        looking = self._slots.run(requester, self._ask, look_up)
        looking.addTimeout(self._timeout, self._reactor, lambda failure, _: self._late(failure, look_up))
        return looking.addErrback(self._failed, look_up).addCallback(self._keep, question)

    # --- one look-up ---

    async def _ask(self, look_up: _LookUp) -> Answer:
        if look_up.is_strangers and self._silent_zones.is_silent(look_up.question.name, look_up.site):  # known since it waited
            await deferLater(self._reactor, 0)  # a long line does not fail in one turn
            return self._silent(look_up.question)
        look_up.asked_at = self._reactor.seconds()
        try:
            message, server = await self._upstream.ask(Query(look_up.question))
        finally:
            self._note_silence(look_up)
        self._silent_zones.answered(look_up.question.name)
        return self._answer(look_up.question, message, self._trust_ad or server.is_loopback)

    def _note_silence(self, look_up: _LookUp) -> None:
        """Note that the name's servers were silent, unless the resolver answered nothing else in that time either."""
        assert look_up.asked_at is not None
        silence = self._reactor.seconds() - look_up.asked_at
        if silence >= SILENT_SECONDS and self._upstream.answered_at > look_up.asked_at:
            self._silent_zones.silent(look_up.question.name, look_up.site)

    def _answer(self, question: Question, message: dns.message.Message, believed: bool) -> Answer:
        asked = (question.name, question.rdtype)
        assert isinstance(message, QueryMessage)
        chain = _short_chain(message) or message.resolve_chaining()
        secure = believed and bool(message.flags & dns.flags.AD)
        # the answer is kept: its own name is not to be in memory twice
        canonical = question.name if chain.canonical_name == question.name else chain.canonical_name
        if chain.answer is not None:
            records = tuple(chain.answer)[:RECORDS]
            return Answer(*asked, Status.FOUND, records, secure, min(chain.minimum_ttl, TTL), canonical)
        status = Status.NO_SUCH_NAME if message.rcode() else Status.NO_DATA
        return Answer(*asked, status, (), secure, min(chain.minimum_ttl, NEGATIVE_TTL), canonical)

    def _late(self, cancelled: Answer | Failure, look_up: _LookUp) -> Answer:
        if isinstance(cancelled, Answer):
            return cancelled
        if look_up.asked_at is None or self._reactor.seconds() - look_up.asked_at < self._timeout / 2:
            self._given_up["not-asked"] += 1
            return _busy(look_up.question, f"the look-up did not get its turn in {self._timeout:g} s")
        self._given_up["no-answer"] += 1
        return _failure(look_up.question, f"no answer in {self._timeout:g} s")

    def _failed(self, failure: Failure, look_up: _LookUp) -> Answer:
        error = failure.value
        if isinstance(error, CancelledError):
            self._given_up["abandoned"] += 1
            self._keep_silence(look_up)
            raise error
        if isinstance(error, SlotLost):
            return _busy(look_up.question, _WHY_BUSY[error.reason])
        self._given_up["no-answer"] += 1
        if isinstance(error, ResolverUnreachable):
            return _busy(look_up.question, str(error))
        return _failure(look_up.question, str(error) or type(error).__name__)

    def _keep_silence(self, look_up: _LookUp) -> None:
        """Keep a look-up as a failure if it was silent until its last caller left. So the next caller need not wait as long."""
        silence = 0.0 if look_up.asked_at is None else self._reactor.seconds() - look_up.asked_at
        if silence >= HOPELESS_SECONDS:
            self._keep(_failure(look_up.question, f"no answer in {silence:.0f} s"), look_up.question)

    def _keep(self, answer: Answer, question: Question) -> Answer:
        self.cache.put(question, answer)
        return answer


class _LookUp:
    """One look-up: the question, its network (or zone, for ourselves), and the time of its start (None: it has not started)."""

    __slots__ = ("asked_at", "is_strangers", "question", "site")

    def __init__(self, question: Question, site: str, is_strangers: bool) -> None:
        self.question = question
        self.site = site
        self.is_strangers = is_strangers
        self.asked_at: float | None = None


def _question(name: str | dns.name.Name, rdtype: str | RdataType) -> Question:
    """Return the question about a name, which is absolute. Texts are A-labels: IDNA is not applied here."""
    return _parsed(name, rdtype) if isinstance(name, str) else Question(name, RdataType.make(rdtype))


@lru_cache(_CACHED)
def _parsed(name: str, rdtype: str | RdataType) -> Question:
    return Question(dns.name.from_text(name.encode("ascii")), RdataType.make(rdtype))


def _short_chain(message: QueryMessage) -> ChainingResult | None:
    """Return what `resolve_chaining` does, for a usual response: it has the records of the name itself, or a SOA record alone.

    None: it is another one. dnspython searches for each name that may be there, with ten times the work.
    """
    if len(message.question) != 1 or len(message.answer or message.authority) != 1:
        return None
    [question], [found] = message.question, message.answer or message.authority
    name = question.name
    if found.rdclass != question.rdclass:
        return None
    if message.answer:
        is_other = found.rdtype != question.rdtype or message.rcode() == dns.rcode.NXDOMAIN or found.name != name
        return None if is_other else ChainingResult(name, found, found.ttl, [])
    if found.rdtype != RdataType.SOA or not name.is_subdomain(found.name):
        return None
    return ChainingResult(name, None, min(found.ttl, found[0].minimum), [])


def _failure(question: Question, reason: str, ttl: float = FAILURE_TTL) -> Answer:
    return Answer(question.name, question.rdtype, Status.FAILED, ttl=ttl, reason=reason)


def _busy(question: Question, reason: str) -> Answer:
    """Return a failure of our own, which is not kept: the next look-up may succeed."""
    return Answer(question.name, question.rdtype, Status.BUSY, reason=reason)
