"""The discovery of a domain: its SRV records, then the addresses of their targets (RFC 6120 §3.2, XEP-0368).

A domain counts as resolved as soon as one target has an address. The addresses of the other targets are looked up shortly before
a connection (`Discovery.locate`). A stranger that claims a name chooses the targets, and each costs two DNS questions.

No look-up here fails. A missing result is an `Ending`. It distinguishes "does not exist" (final) from "could not be asked".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby, zip_longest
from operator import attrgetter
from random import Random
from typing import Literal

import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.TLSA import TLSA as DNSTLSA
from dns.rdtypes.IN.SRV import SRV
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from s2sgw.net.addresses import is_public
from s2sgw.net.dns_answer import Answer, Status
from s2sgw.net.dns_transport import Reactor
from s2sgw.net.fair_slots import Owner
from s2sgw.net.gathering import gather_until, try_in_turn
from s2sgw.net.joined_calls import JoinedCalls
from s2sgw.net.requester import Requester
from s2sgw.net.resolver import Resolver
from s2sgw.trust.evidence import TLSA, TLSALookup
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import S2S_PORT, HostPort, canonical, is_host
from s2sgw.xmpp.jid import Domain

#: Seconds for a whole resolution.
TIMEOUT = 10.0
#: Seconds to wait for the other address family once one was found. Some name servers never answer for AAAA.
GRACE = 1.0
#: Seconds to wait for the other targets of a priority once one has an address, and for the other service once one has targets.
TARGET_GRACE = 3.0
#: Seconds after which the next target is looked up too, while the last one is outstanding.
STAGGER = 2.0
#: The most targets of a domain, the most of them that are looked up for a stranger, and the most addresses of one target.
TARGETS = 16
STRANGER_TARGETS = 3
ADDRESSES = 16
#: Answers that are quoted in the detail of an ending.
_QUOTED = 4

#: A name and a record type.
_Asked = tuple[str | dns.name.Name, str]
#: Returns whether one of our listeners is at a canonical address and a port.
OwnAddresses = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """A host to connect to. `addresses` alternates between the families, IPv6 first.

    `located`: its addresses were looked up. `secure`: DNSSEC secured the name of the host (or that the domain has no SRV
    record and is the host itself). `addresses_secure`: the addresses too. `direct_tls`: TLS from the first byte (XEP-0368).
    `canonical`: the host's name behind CNAMEs, if DNSSEC secured them.
    """

    host: str
    port: int
    addresses: tuple[str, ...]
    priority: int = 0
    weight: int = 0
    direct_tls: bool = False
    secure: bool = False
    addresses_secure: bool = False
    canonical: str | None = None
    located: bool = True

    @property
    def place(self) -> tuple[str, int, bool]:
        """Return its key among the targets of a domain: host, port, and whether it is direct TLS."""
        return self.host, self.port, self.direct_tls


@dataclass(frozen=True, slots=True)
class Resolution:
    """The targets in the order in which they are tried. `ending` None: resolved, at least one target has an address."""

    domain: Domain
    targets: tuple[Target, ...] = ()
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target before its addresses are known."""

    name: dns.name.Name
    port: int
    priority: int = 0
    weight: int = 0
    direct_tls: bool = False
    secure: bool = False

    @classmethod
    def of(cls, target: Target) -> Candidate:
        """Return the candidate of `target`, as before its addresses were looked up."""
        name = dns.name.from_text(target.host)
        return cls(name, target.port, target.priority, target.weight, target.direct_tls, target.secure)


class Discovery:
    """Finds the targets of domains.

    `static`: "host:port" by domain, instead of the DNS. `private_addresses`: "allow" lets a peer's DNS name addresses that
    are not public. `own_addresses` returns whether an address is ours; no peer's DNS may lead there. Neither applies to `static`
    and routes. `relayed`: domains that a proxy reaches by name. Nothing is looked up for them. Raises `ValueError` for a static
    answer that is not a host and port.
    """

    def __init__(
        self,
        reactor: Reactor,
        resolver: Resolver,
        *,
        static: Mapping[str, str] | None = None,
        private_addresses: Literal["refuse", "allow"] = "refuse",
        own_addresses: OwnAddresses | None = None,
        relayed: Callable[[Domain], bool] = lambda domain: False,
        random: Random,
        timeout: float = TIMEOUT,
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._static: dict[str, HostPort] = {}
        self.configure(static or {}, private_addresses)
        self._is_own = own_addresses or _nowhere
        self._relayed = relayed
        self._random = random
        self._timeout = timeout
        self._joined: JoinedCalls[tuple[Owner, str, str | None], Resolution] = JoinedCalls()

    def configure(self, static: Mapping[str, str], private_addresses: Literal["refuse", "allow"]) -> None:
        """Use these settings from now on. Raises `ValueError`."""
        self._static = {Domain.parse(name).ascii: HostPort.parse(text, S2S_PORT) for name, text in static.items()}
        self._allow_private = private_addresses == "allow"

    def resolve(self, domain: Domain, route: str | None = None, requester: Requester | None = None) -> Deferred[Resolution]:
        """Return the targets of `domain`, or those of `route` ("host:port") instead. `requester` None: the gateway itself.

        The same requester gets the same answer again. The result never fails. It can be cancelled. The look-ups end when all
        callers have cancelled.
        """
        asker = requester or Requester.ourselves(domain.ascii)
        known: Resolution | None = asker.resolutions.get((domain.ascii, route))
        if known is not None:
            return succeed(known)
        key = (asker.owner if asker.is_stranger else (), domain.ascii, route)
        return self._joined.join(key, self._begin, domain, route, asker).addCallback(_remembered, asker, route)

    def is_fixed(self, domain: Domain) -> bool:
        """Return whether the configuration names the place of `domain`, or a proxy reaches it by name."""
        return domain.ascii in self._static or self._relayed(domain)

    def _begin(self, domain: Domain, route: str | None, requester: Requester) -> Deferred[Resolution]:
        return Deferred.fromCoroutine(self._resolve(domain, route, requester)).addErrback(_not_resolved, domain)

    def locate(self, targets: Sequence[Target], requester: Requester | None = None) -> Deferred[tuple[Target, ...]]:
        """Return those of `targets` that have addresses to which we may connect. Unknown addresses are looked up.

        All are asked at once: pass the targets of one priority. Never fails; it can be cancelled.
        """
        return Deferred.fromCoroutine(self._locate(targets, requester))

    def tlsa(self, target: Target, requester: Requester | None = None) -> Deferred[TLSALookup]:
        """Return the TLSA records of a target that was found (RFC 7673 §3). Never fails.

        If DNSSEC does not secure the target itself, no query is made: the records could not count, and the name servers of
        unsigned zones often fail on such queries (RFC 7672 §2.2).
        """
        found = TLSALookup(target.host, addresses_secure=target.addresses_secure)
        if not target.secure:
            return succeed(replace(found, failure="its zone is not signed (DNSSEC)"))
        return Deferred.fromCoroutine(self._tlsa(target, found, requester))

    async def _tlsa(self, target: Target, found: TLSALookup, requester: Requester | None) -> TLSALookup:
        deadline = self._reactor.seconds() + self._timeout
        for host in dict.fromkeys([target.canonical or target.host, target.host]):  # RFC 7671 §7
            [answer] = await self._ask([(f"_{target.port}._tcp.{host}", "TLSA")], deadline, requester)
            if answer.failed:
                return replace(found, failure=_said(answer))
            if answer.found:
                break
        return replace(found, records=_keys(answer), secure=answer.secure)

    # --- resolution ---

    async def _resolve(self, domain: Domain, route: str | None, requester: Requester) -> Resolution:
        fixed = HostPort.parse(route, S2S_PORT) if route is not None else self._static.get(domain.ascii)
        deadline = self._reactor.seconds() + self._timeout
        if self._relayed(domain):
            place = fixed or HostPort(domain.ascii.strip("[]"), S2S_PORT)
            return Resolution(domain, (Target(place.host, place.port, (place.host,)),))
        if fixed is not None:
            return await self._fixed(domain, fixed, deadline)
        if domain.is_address:
            address = domain.ascii.strip("[]")
            target = Target(address, S2S_PORT, (address,))
            barred = self._barred([target])
            return Resolution(domain, () if barred else (target,), barred)
        if is_onion(domain.ascii):
            return Resolution(domain, (), Ending(Cause.NO_SUCH_DOMAIN, "an onion service can be reached through a proxy only"))
        candidates = await self._candidates(domain, deadline, requester)
        if isinstance(candidates, Ending):
            return Resolution(domain, (), candidates)
        return await self._first_located(domain, candidates, deadline, requester)

    async def _fixed(self, domain: Domain, place: HostPort, deadline: float) -> Resolution:
        """Return the place in the configuration. It may have any address, and costs a stranger no questions."""
        if place.is_address:
            return Resolution(domain, (Target(place.host, place.port, (place.host,)),))
        candidate = Candidate(dns.name.from_text(place.host), place.port)
        host = await self._addresses(candidate, deadline, Requester.ourselves(place.host))
        return Resolution(domain, (), _no_address(host.answers)) if host.target is None else Resolution(domain, (host.target,))

    async def _candidates(self, domain: Domain, deadline: float, requester: Requester) -> list[Candidate] | Ending:
        """Return the targets by the SRV records of both services, as if they were one set (XEP-0368 §2).

        The domain itself is a target only if there is no record (R36). A target "." of the direct service concerns that service
        alone.
        """
        questions = [(f"{service}._tcp.{domain.ascii}", "SRV") for service in ("_xmpps-server", "_xmpp-server")]
        direct, starttls = answers = await self._ask(questions, deadline, requester, grace=TARGET_GRACE)
        candidates = [*_served(direct, direct_tls=True), *_served(starttls, direct_tls=False)]
        if candidates:
            return in_order(candidates, self._random)[:TARGETS]
        if any(answer.failed for answer in answers):
            return _no_address(answers)
        if starttls.found:
            return Ending(Cause.NO_SUCH_DOMAIN, f"{_asked(starttls)}: the domain has no such service")
        return [Candidate(dns.name.from_text(domain.ascii), S2S_PORT, secure=direct.secure and starttls.secure)]

    async def _first_located(
        self, domain: Domain, candidates: Sequence[Candidate], deadline: float, requester: Requester,
    ) -> Resolution:
        """Look up one candidate after another until one has an address that we may connect to."""
        asked = candidates[:STRANGER_TARGETS] if requester.is_stranger else candidates
        found: list[_Host | None] = [self._known_host(candidates[0], requester)]
        permitted = [None if found[0] is None else self._permitted(found[0].target)]
        if permitted[0] is None:
            calls = [partial(self._look_up, candidate, deadline, requester) for candidate in asked]
            found = await try_in_turn(
                self._reactor, calls, deadline=deadline, stagger=STAGGER, enough=self._is_permitted,
            )
            permitted = [None if host is None else self._permitted(host.target) for host in found]
        rest = [_unlocated(candidate) for candidate in candidates[len(found) :]]
        begun = list(zip(candidates, found, strict=False))
        if not any(permitted):
            hosts = [host or _Host(candidate, [_late(candidate.name, "A")]) for candidate, host in begun]
            return Resolution(domain, (), self._ending(hosts, len(rest)))
        targets = [
            _unlocated(candidate) if host is None else target
            for (candidate, host), target in zip(begun, permitted, strict=True)
        ]
        return Resolution(domain, (*[target for target in targets if target is not None], *rest))

    def _known_host(self, candidate: Candidate, requester: Requester) -> _Host | None:
        """Return the candidate with its addresses, if no server has to be asked for them."""
        answers = self._known(_address_questions(candidate), requester)
        return None if answers is None else _Host(candidate, answers)

    async def _locate(self, targets: Sequence[Target], requester: Requester | None) -> tuple[Target, ...]:
        deadline = self._reactor.seconds() + self._timeout
        missing = [Candidate.of(target) for target in targets if not target.located]
        if not missing:
            return tuple(target for target in targets if target.addresses)
        lookups = [self._look_up(candidate, deadline, requester) for candidate in missing]
        found = await gather_until(
            self._reactor, lookups, deadline=deadline, grace=TARGET_GRACE, enough=_is_located,
        )
        looked_up = iter(self._permitted(host.target) if host is not None else None for host in found)
        both = [target if target.located else next(looked_up) for target in targets]
        return tuple(target for target in both if target is not None and target.addresses)

    def _look_up(self, candidate: Candidate, deadline: float, requester: Requester | None) -> Deferred[_Host]:
        return Deferred.fromCoroutine(self._addresses(candidate, deadline, requester))

    async def _addresses(self, candidate: Candidate, deadline: float, requester: Requester | None) -> _Host:
        return _Host(candidate, await self._ask(_address_questions(candidate), deadline, requester))

    def _known(self, questions: Sequence[_Asked], requester: Requester | None) -> list[Answer] | None:
        """Return an answer to each question, if no server has to be asked for any of them."""
        answers: list[Answer] = []
        for name, kind in questions:
            answer = self._resolver.known(name, kind, requester)
            if answer is None:
                return None
            answers.append(answer)
        return answers

    async def _ask(
        self, questions: Sequence[_Asked], deadline: float, requester: Requester | None, grace: float = GRACE,
    ) -> list[Answer]:
        """Return an answer to each question. An answer that does not come in time is a failure."""
        known = self._known(questions, requester)
        if known is not None:
            return known
        lookups = [self._resolver.query(name, kind, requester) for name, kind in questions]
        answers = await gather_until(self._reactor, lookups, deadline=deadline, grace=grace, enough=attrgetter("found"))
        return [answer or _late(*question) for question, answer in zip(questions, answers, strict=True)]

    # --- limits for a stranger's DNS ---

    def _permitted(self, target: Target | None) -> Target | None:
        """Return the target without the addresses that a stranger's DNS may not lead us to. None: no address is left."""
        if target is None:
            return None
        permitted = _only(target, self._may_be_reached)
        return permitted if permitted.addresses else None

    def _is_permitted(self, host: _Host) -> bool:
        return self._permitted(host.target) is not None

    def _may_be_reached(self, address: str, port: int) -> bool:
        return self._is_reachable(address) and not self._leads_to_us(address, port)

    def _is_reachable(self, address: str) -> bool:
        return self._allow_private or is_public(address)

    def _leads_to_us(self, address: str, port: int) -> bool:
        return self._is_own(canonical(address), port)

    def _barred(self, targets: Sequence[Target]) -> Ending | None:
        """Return why we may connect to none of the addresses of `targets`."""
        if any(self._permitted(target) for target in targets):
            return None
        if any(self._is_reachable(address) for target in targets for address in target.addresses):
            return Ending(Cause.LOOP, "the DNS of the domain leads to this gateway itself")
        found = ", ".join(address for target in targets for address in target.addresses)
        return Ending(Cause.PRIVATE_ADDRESS, f"not public: {found}")

    def _ending(self, hosts: Sequence[_Host], unasked: int) -> Ending:
        """Return why no target can be connected to. `unasked`: further targets that were not looked up."""
        found = [host.target for host in hosts if host.target is not None]
        barred = self._barred(found) if found else None
        return barred or _no_address([answer for host in hosts for answer in host.answers], unasked)


class _Host:
    """A candidate with the answers for its addresses. `target` None: it has no address."""

    def __init__(self, candidate: Candidate, answers: list[Answer]) -> None:
        self.answers = answers
        self.target = _target(candidate, answers) if any(answer.found for answer in answers) else None


def _remembered(resolution: Resolution, requester: Requester, route: str | None) -> Resolution:
    """Remember a success for the transaction of `requester`. A failure is not kept, because the next attempt may succeed."""
    if resolution.ending is None:
        requester.resolutions[resolution.domain.ascii, route] = resolution
    return resolution


def in_order(candidates: Iterable[Candidate], random: Random) -> list[Candidate]:
    """Return the candidates by priority, and within one in an order drawn at random in proportion to the weights (RFC 2782).

    The same place is returned once.
    """
    ordered: dict[tuple[dns.name.Name, int, bool], Candidate] = {}
    for _, group in groupby(sorted(candidates, key=_priority), key=_priority):
        left = list(group)
        random.shuffle(left)  # otherwise records of weight 0 would keep the order of the answer
        left.sort(key=_has_weight)
        while left:
            drawn = left.pop(_drawn([one.weight for one in left], random))
            ordered.setdefault((drawn.name, drawn.port, drawn.direct_tls), drawn)
    return list(ordered.values())


def _drawn(weights: Sequence[int], random: Random) -> int:
    """Return the index of the first running sum that reaches a number drawn from 0 to the sum of all, both included."""
    drawn = random.randint(0, sum(weights))
    return next(index for index, reached in enumerate(accumulate(weights)) if reached >= drawn)


def is_onion(name: str) -> bool:
    """Return whether `name` is an onion service, for which the DNS is never asked (RFC 7686 §2)."""
    return name.rstrip(".").rpartition(".")[2] == "onion"


def _priority(candidate: Candidate) -> int:
    return candidate.priority


def _served(answer: Answer, *, direct_tls: bool) -> list[Candidate]:
    """Return the candidates of SRV records, without the target "." (RFC 2782) and targets that are not host names."""
    records = [record for record in answer.records if isinstance(record, SRV) and is_host(record.target.to_text())]
    return [
        Candidate(record.target.canonicalize(), record.port, record.priority, record.weight, direct_tls, answer.secure)
        for record in records
    ]


def _target(candidate: Candidate, answers: Sequence[Answer]) -> Target:
    found = [answer for answer in answers if answer.found]
    families = [[record.to_text() for record in answer.records] for answer in found]
    in_turns = [address for both in zip_longest(*families) for address in both if address]
    secure = all(answer.secure for answer in found)
    return Target(
        candidate.name.to_text(omit_final_dot=True),
        candidate.port,
        tuple(in_turns[:ADDRESSES]),
        candidate.priority,
        candidate.weight,
        candidate.direct_tls,
        candidate.secure,
        secure,
        found[0].canonical.canonicalize().to_text(omit_final_dot=True) if secure else None,
    )


def _keys(answer: Answer) -> tuple[TLSA, ...]:
    records = [record for record in answer.records if isinstance(record, DNSTLSA)]
    return tuple(TLSA(record.usage, record.selector, record.mtype, record.cert) for record in records)


def _address_questions(candidate: Candidate) -> list[_Asked]:
    return [(candidate.name, "AAAA"), (candidate.name, "A")]


def _only(target: Target, accept: Callable[[str, int], bool]) -> Target:
    accepted = tuple([address for address in target.addresses if accept(address, target.port)])
    return target if accepted == target.addresses else replace(target, addresses=accepted)


def _nowhere(address: str, port: int) -> bool:
    """Return False: none of our listeners is there."""
    return False


def _unlocated(candidate: Candidate) -> Target:
    """Return the target without addresses."""
    return Target(
        candidate.name.to_text(omit_final_dot=True), candidate.port, (), candidate.priority, candidate.weight,
        candidate.direct_tls, candidate.secure, located=False,
    )


def _no_address(answers: Sequence[Answer], unasked: int = 0) -> Ending:
    """Return why no address was found: the name does not exist, could not be asked, or our own resolver is busy."""
    failed = [answer for answer in answers if answer.failed]
    said = "; ".join(map(_said, (failed or answers)[:_QUOTED]))
    if any(answer.busy for answer in failed):
        return Ending(Cause.RESOLVER_BUSY, said)
    if unasked:
        said += f"; {unasked} more targets were not looked up"
    return Ending(Cause.DNS_UNREACHABLE if failed or unasked else Cause.NO_SUCH_DOMAIN, said)


def _late(name: str | dns.name.Name, kind: str) -> Answer:
    asked = name if isinstance(name, dns.name.Name) else dns.name.from_text(name)
    return Answer(asked, dns.rdatatype.from_text(kind), Status.FAILED, reason="no answer in time")


def _asked(answer: Answer) -> str:
    return f"{answer.name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(answer.rdtype)}"


def _said(answer: Answer) -> str:
    return f"{_asked(answer)}: {answer.reason or answer.status}"


def _not_resolved(failure: Failure, domain: Domain) -> Resolution:
    return Resolution(domain, (), Ending(Cause.INTERNAL, failure.getErrorMessage()))


def _is_located(host: _Host) -> bool:
    return host.target is not None


def _has_weight(candidate: Candidate) -> bool:
    return candidate.weight > 0
