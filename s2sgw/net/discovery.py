"""Where to reach a domain: its SRV records, then the addresses of their targets (RFC 6120 §3.2, XEP-0368).

Nothing here fails: what cannot be had is an `Ending` that tells "does not exist" (final) from "could not be asked".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, zip_longest
from random import Random
from typing import Literal

import dns.name
import dns.rdatatype
from dns.rdtypes.ANY.TLSA import TLSA as DNSTLSA
from dns.rdtypes.IN.SRV import SRV
from twisted.internet.defer import Deferred

from s2sgw.net.addresses import HostPort, canonical, is_host, is_public
from s2sgw.net.dns_transport import Reactor
from s2sgw.net.gathering import gather_until
from s2sgw.net.resolver import Answer, Resolver, Status
from s2sgw.trust.evidence import TLSA, TLSALookup
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain

S2S_PORT = 5269
#: Seconds for a whole resolution.
TIMEOUT = 10.0
#: Seconds that what is missing still gets once something has been found: some name servers never answer for AAAA.
GRACE = 1.0
#: The same for the other targets, once one has an address, and for the other service, once one has targets.
TARGET_GRACE = 3.0
#: Targets of a domain, and addresses of a target, that are looked at.
TARGETS = 16
ADDRESSES = 16
#: Resolutions under way at once.
CONCURRENT = 1024
#: Answers that the detail of an ending tells of.
_SAID = 4

OwnAddresses = Callable[[str, int], bool] | Collection[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Target:
    """A host to connect to, its addresses with the families in turns, IPv6 first.

    `secure`: DNSSEC secured the name of the host (or that the domain has no SRV record and is the host itself).
    `addresses_secure`: the addresses too. `direct_tls`: TLS from the first byte (XEP-0368). `canonical`: the host's name
    behind CNAMEs, where they secured that.
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


@dataclass(frozen=True, slots=True)
class Resolution:
    """The targets in the order in which they are to be tried; `ending` None: resolved, there is at least one."""

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


class Discovery:
    """Finds the targets of domains.

    `static`: "host:port" by domain, instead of the DNS. `private_addresses`: "allow" lets a peer's DNS name addresses that
    are not public. `own_addresses`: our listeners, to which no peer's DNS may lead. Both leave `static` and a route alone.
    `relayed`: domains that a proxy reaches by name, so that nothing is looked up for them.
    Raises `ValueError` for a static answer that is no host and port.
    """

    def __init__(
        self,
        reactor: Reactor,
        resolver: Resolver,
        *,
        static: Mapping[str, str] | None = None,
        private_addresses: Literal["refuse", "allow"] = "refuse",
        own_addresses: OwnAddresses = (),
        relayed: Callable[[Domain], bool] = lambda domain: False,
        random: Random,
        timeout: float = TIMEOUT,
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._static = {Domain.parse(name).ascii: HostPort.parse(text, S2S_PORT) for name, text in (static or {}).items()}
        self._allow_private = private_addresses == "allow"
        self._is_own = own_addresses if callable(own_addresses) else _membership(own_addresses)
        self._relayed = relayed
        self._random = random
        self._timeout = timeout
        self._pending: dict[tuple[str, str | None], list[Deferred[Resolution]]] = {}

    def resolve(self, domain: Domain, route: str | None = None) -> Deferred[Resolution]:
        """Where `domain` is reached, or at `route` ("host:port") instead. Never fails; cancelled, only the caller leaves."""
        key = (domain.ascii, route)
        waiter: Deferred[Resolution] = Deferred(lambda cancelled: self._pending[key].remove(cancelled))
        if key in self._pending:
            self._pending[key].append(waiter)
        elif len(self._pending) >= CONCURRENT:
            waiter.callback(Resolution(domain, (), Ending(Cause.DNS_UNREACHABLE, "too many look-ups at once")))
        else:
            self._pending[key] = [waiter]
            finding = Deferred.fromCoroutine(self._resolve(domain, route))
            finding.addErrback(lambda failure: Resolution(domain, (), Ending(Cause.INTERNAL, failure.getErrorMessage())))
            finding.addCallback(self._resolved, key)
        return waiter

    def tlsa(self, target: Target) -> Deferred[TLSALookup]:
        """What the DNS says of the key of a target that was found (RFC 7673 §3). Never fails.

        Where DNSSEC does not secure the target itself nothing is asked: it could not count, and the name servers of unsigned
        zones are the ones that choke on such questions (RFC 7672 §2.2).
        """
        return Deferred.fromCoroutine(self._tlsa(target))

    async def _tlsa(self, target: Target) -> TLSALookup:
        found = TLSALookup(target.host, addresses_secure=target.addresses_secure)
        if not target.secure:
            return replace(found, failure="DNSSEC does not secure the target's name")
        deadline = self._reactor.seconds() + self._timeout
        for host in dict.fromkeys([target.canonical or target.host, target.host]):  # RFC 7671 §7
            [answer] = await self._ask([(f"_{target.port}._tcp.{host}", "TLSA")], deadline)
            if answer.failed:
                return replace(found, failure=_said(answer))
            if answer.found:
                break
        return replace(found, records=_keys(answer), secure=answer.secure)

    def _resolved(self, resolution: Resolution, key: tuple[str, str | None]) -> None:
        for waiter in self._pending.pop(key):
            waiter.callback(resolution)

    async def _resolve(self, domain: Domain, route: str | None) -> Resolution:
        fixed = HostPort.parse(route, S2S_PORT) if route is not None else self._static.get(domain.ascii)
        deadline = self._reactor.seconds() + self._timeout
        if self._relayed(domain):
            place = fixed or HostPort(domain.ascii.strip("[]"), S2S_PORT)
            return Resolution(domain, (Target(place.host, place.port, (place.host,)),))
        if fixed is not None:
            return await self._fixed(domain, fixed, deadline)
        if domain.is_address:
            address = domain.ascii.strip("[]")
            return self._allowed(domain, [Target(address, S2S_PORT, (address,))])
        if _is_onion(domain.ascii):
            return Resolution(domain, (), Ending(Cause.NO_SUCH_DOMAIN, "an onion service is reached through a proxy alone"))
        candidates = await self._candidates(domain, deadline)
        if isinstance(candidates, Ending):
            return Resolution(domain, (), candidates)
        targets, answers = await self._addressed(candidates, deadline)
        return self._allowed(domain, targets) if targets else Resolution(domain, (), _no_address(answers))

    async def _fixed(self, domain: Domain, place: HostPort, deadline: float) -> Resolution:
        """What the operator wrote is not second-guessed."""
        if place.is_address:
            return Resolution(domain, (Target(place.host, place.port, (place.host,)),))
        targets, answers = await self._addressed([Candidate(dns.name.from_text(place.host), place.port)], deadline)
        return Resolution(domain, tuple(targets), None if targets else _no_address(answers))

    async def _candidates(self, domain: Domain, deadline: float) -> list[Candidate] | Ending:
        """By the SRV records of both services, as if they were one set (XEP-0368 §2).

        The domain itself only where there is none (R36); a target "." of the direct service speaks for that alone.
        """
        questions = [(f"{service}._tcp.{domain.ascii}", "SRV") for service in ("_xmpps-server", "_xmpp-server")]
        direct, starttls = answers = await self._ask(questions, deadline, grace=TARGET_GRACE)
        candidates = [*_served(direct, direct_tls=True), *_served(starttls, direct_tls=False)]
        if candidates:
            return in_order(candidates, self._random)[:TARGETS]
        if failed := [answer for answer in answers if answer.failed]:
            return Ending(Cause.DNS_UNREACHABLE, "; ".join(map(_said, failed)))
        if starttls.found:
            return Ending(Cause.NO_SUCH_DOMAIN, f"{_asked(starttls)}: the domain has no such service")
        return [Candidate(dns.name.from_text(domain.ascii), S2S_PORT, secure=direct.secure and starttls.secure)]

    async def _addressed(self, candidates: Sequence[Candidate], deadline: float) -> tuple[list[Target], list[Answer]]:
        """Those of the candidates that have addresses, as targets, and all that was answered."""
        lookups = [Deferred.fromCoroutine(self._ask([(one.name, "AAAA"), (one.name, "A")], deadline)) for one in candidates]
        settled = await gather_until(self._reactor, lookups, deadline=deadline, grace=TARGET_GRACE, enough=_any_found)
        answered = [answers or [_late(one.name, "A")] for one, answers in zip(candidates, settled, strict=True)]
        targets = [_target(one, answers) for one, answers in zip(candidates, answered, strict=True) if _any_found(answers)]
        return targets, [each for answers in answered for each in answers]

    async def _ask(
        self, questions: Sequence[tuple[str | dns.name.Name, str]], deadline: float, grace: float = GRACE
    ) -> list[Answer]:
        """An answer to each question, one that does not come in time being a failure."""
        lookups = [self._resolver.query(name, kind) for name, kind in questions]
        answers = await gather_until(self._reactor, lookups, deadline=deadline, grace=grace, enough=lambda answer: answer.found)
        return [answer or _late(*question) for question, answer in zip(questions, answers, strict=True)]

    def _allowed(self, domain: Domain, targets: Sequence[Target]) -> Resolution:
        """The targets without the addresses to which a stranger's DNS may not lead us."""
        public = [_only(target, lambda address, _: self._allow_private or is_public(address)) for target in targets]
        if not any(target.addresses for target in public):
            found = ", ".join(address for target in targets for address in target.addresses)
            return Resolution(domain, (), Ending(Cause.PRIVATE_ADDRESS, f"not public: {found}"))
        others = [_only(target, lambda address, port: not self._is_own(canonical(address), port)) for target in public]
        if not any(target.addresses for target in others):
            return Resolution(domain, (), Ending(Cause.LOOP, "the DNS of the domain leads to this gateway itself"))
        return Resolution(domain, tuple(target for target in others if target.addresses))


def in_order(candidates: Iterable[Candidate], random: Random) -> list[Candidate]:
    """By priority, and within one by a shuffle in which the first is drawn in proportion to its weight (RFC 2782).

    No place comes twice.
    """
    ordered: dict[tuple[dns.name.Name, int, bool], Candidate] = {}
    for _, group in groupby(sorted(candidates, key=_priority), key=_priority):
        left = list(group)
        random.shuffle(left)  # or those of weight 0 would keep the order of the answer
        left.sort(key=lambda one: one.weight > 0)
        while left:
            drawn = left.pop(_drawn([one.weight for one in left], random))
            ordered.setdefault((drawn.name, drawn.port, drawn.direct_tls), drawn)
    return list(ordered.values())


def _drawn(weights: Sequence[int], random: Random) -> int:
    """The index of the first running sum that reaches a number drawn from 0 to the sum of all, both included."""
    drawn = random.randint(0, sum(weights))
    return next(index for index, reached in enumerate(accumulate(weights)) if reached >= drawn)


def _is_onion(name: str) -> bool:
    """RFC 7686 §2: the DNS is never asked for these."""
    return name.rstrip(".").rpartition(".")[2] == "onion"


def _priority(candidate: Candidate) -> int:
    return candidate.priority


def _served(answer: Answer, *, direct_tls: bool) -> list[Candidate]:
    """The candidates that SRV records name: none for the target "." (RFC 2782), nor for one that can name no host."""
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


def _only(target: Target, accept: Callable[[str, int], bool]) -> Target:
    return replace(target, addresses=tuple(address for address in target.addresses if accept(address, target.port)))


def _membership(own: Collection[tuple[str, int]]) -> Callable[[str, int], bool]:
    known = {(canonical(address), port) for address, port in own}
    return lambda address, port: (address, port) in known


def _any_found(answers: Sequence[Answer]) -> bool:
    return any(answer.found for answer in answers)


def _no_address(answers: Sequence[Answer]) -> Ending:
    """No host has an address, or at least one could not be asked for."""
    failed = [answer for answer in answers if answer.failed]
    said = "; ".join(map(_said, (failed or answers)[:_SAID]))
    return Ending(Cause.DNS_UNREACHABLE if failed else Cause.NO_SUCH_DOMAIN, said)


def _late(name: str | dns.name.Name, kind: str) -> Answer:
    asked = name if isinstance(name, dns.name.Name) else dns.name.from_text(name)
    return Answer(asked, dns.rdatatype.from_text(kind), Status.FAILED, reason="no answer in time")


def _asked(answer: Answer) -> str:
    return f"{answer.name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(answer.rdtype)}"


def _said(answer: Answer) -> str:
    return f"{_asked(answer)}: {answer.reason or answer.status}"
