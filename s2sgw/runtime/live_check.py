"""`s2sgw check --live`: checks facts outside the configuration. Does the existing server answer and trust us? Does it
ask our name server? Does our DNS lead here? Are the certificates, clock, state directory, descriptors and disk in order?

Each check has a time limit, and none changes anything. The existing server gets one stream of a domain that does not exist, and
one ping on it.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from dns.rdtypes.IN.SRV import SRV
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from s2sgw.config import Backend, Config
from s2sgw.net.addresses import is_this_machine
from s2sgw.net.dialing import DialFailed, Dialler
from s2sgw.net.dns_answer import Answer
from s2sgw.net.endpoint_strings import EndpointString
from s2sgw.net.resolver import Resolver
from s2sgw.runtime import descriptors
from s2sgw.runtime.machine_facts import clock_fact, disk_fact, state_fact
from s2sgw.runtime.own_certificates import SELF_SIGNED, CertificateFact, ends_in
from s2sgw.runtime.probe_stream import ProbeStream, knock
from s2sgw.s2s.legs import InitiatingLeg
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import S2S_PORT, HostPort
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.namespaces import PING

CheckName = Literal["gateway", "backend", "dns-view", "dns", "certificate", "clock", "state", "descriptors", "disk"]

#: The sender of the check towards the existing server: a domain that no public DNS has. A name under `invalid` would not do:
#: resolvers such as unbound answer for it themselves, and would not ask our name server.
VISITOR = Domain.parse("check.s2sgw.example")
#: Seconds that the server has to ask its name server after the ping, and seconds between two looks.
VIEW_SECONDS, VIEW_LOOK_SECONDS = 6.0, 0.5
#: Days before the end of a certificate at which the check fails.
CERTIFICATE_DAYS = 7
#: Addresses of one domain that are looked at.
ADDRESSES = 16


@dataclass(frozen=True, slots=True)
class LiveFact:
    """One checked fact. `ok` None: the check could not tell, or the operator should have a look."""

    check: CheckName
    subject: str
    ok: bool | None
    detail: str
    remedy: str = ""

    def row(self) -> dict[str, Any]:
        """Return the fact for JSON."""
        return {"check": self.check, "subject": self.subject, "ok": self.ok, "detail": self.detail, "remedy": self.remedy}


class _NoPlaces(NamedTuple):
    """The reason why the DNS leads nowhere, and how to fix it."""

    why: str
    remedy: str


TellFact = Callable[[LiveFact], None]


@dataclass(frozen=True, slots=True)
class BackendUnderCheck:
    """A backend of the configuration, and how to reach it. `leg` None: our CA cannot be read, so no stream is tried."""

    backend: Backend
    local: Domain
    leg: InitiatingLeg | None
    dialler: Dialler
    addresses: Sequence[str]
    attribute: Callable[[Ending], Ending]


@dataclass(frozen=True, slots=True)
class LiveServices:
    """The parts of a gateway that the checks use. Without a gateway `composition.live_check` builds them.

    `status` returns what `s2sgw status` shows. None: no gateway runs.
    """

    clock: IReactorTime
    config: Config
    resolver: Resolver
    backends: Callable[[], Awaitable[Sequence[BackendUnderCheck]]]
    certificates: Callable[[], Iterable[CertificateFact]]
    status: Callable[[], Awaitable[dict[str, Any] | None]]
    dialler: Dialler


class LiveCheck:
    """One run of all checks. `tell` is called with each fact as it is found."""

    def __init__(self, services: LiveServices, tell: TellFact = lambda fact: None) -> None:
        self._services = services
        self._tell = tell
        self.facts: list[LiveFact] = []

    async def run(self) -> list[LiveFact]:
        """Return all facts."""
        status = await self._services.status()
        self._gateway(status)
        for backend in await self._services.backends():
            await self._backend(backend, status)
        for domain in self._services.config.gateway.domains:
            await self._dns(domain, status is not None)
        self._certificates()
        self._machine(status)
        return self.facts

    def _add(self, check: CheckName, subject: object, ok: bool | None, detail: str, remedy: str = "") -> None:
        fact = LiveFact(check, str(subject), ok, detail, remedy)
        self.facts.append(fact)
        self._tell(fact)

    def _gateway(self, status: dict[str, Any] | None) -> None:
        path = str(self._services.config.path)
        if status is None:
            text = "does not run, or its admin socket cannot be opened; checks that need it are left out"
            self._add("gateway", path, None, text)
        else:
            self._add("gateway", path, True, f"version {status['version']} runs")

    # --- the existing server ---

    async def _backend(self, under: BackendUnderCheck, status: dict[str, Any] | None) -> None:
        address = under.backend.address
        if under.leg is None:
            await self._knock(under, status)
            return
        before = _questions(status, str(address))
        target = (await under.leg.resolve(Pair(VISITOR, under.local))).targets
        if not target:
            ending = under.attribute(Ending(Cause.UNREACHABLE, f"the address of {address.host} is not known"))
            self._add("backend", address, False, ending.detail, ending.remedy)
            return
        stream = ProbeStream(under.leg, Pair(VISITOR, under.local), target[0], self._services.clock)
        ending_or_none = await self._connected(under, stream)
        if ending_or_none is not None:
            told = under.attribute(ending_or_none)
            self._add("backend", address, False, told.detail or str(told.cause), told.remedy)
            return
        tls = "no TLS" if stream.secured is None else stream.secured.version
        self._add("backend", address, True, f"answers and accepts us by {stream.method} ({tls})")
        if under.backend.dns_view is not None:
            await self._view(under, stream, before)
        await stream.close()

    async def _connected(self, under: BackendUnderCheck, stream: ProbeStream) -> Ending | None:
        """Connect to the first address that answers; return why there is no stream, or None."""
        failed = Ending(Cause.UNREACHABLE, "there is no address to connect to")
        for address in under.addresses:
            try:
                await stream.connect(under.dialler, address)
            except DialFailed as problem:
                failed = problem.ending
            except DeferredTimeout:
                failed = Ending(Cause.CONNECTION_TIMEOUT, address, "network")
            else:
                return await stream.ready
        return failed

    async def _knock(self, under: BackendUnderCheck, status: dict[str, Any] | None) -> None:
        """Check only whether the port takes connections. The gateway itself checks jabberd2's router more closely."""
        address = under.backend.address
        row = _backend_row(status, str(address))
        if row is not None and row["state"] != "unknown":
            self._add("backend", address, row["state"] == "up", row["detail"] or f"is {row['state']}", row["remedy"])
            return
        try:
            host = under.addresses[0] if under.addresses else address.host
            await knock(under.dialler, host, address.port, self._services.clock)
        except (DialFailed, DeferredTimeout) as problem:
            ending = problem.ending if isinstance(problem, DialFailed) else Ending(Cause.CONNECTION_TIMEOUT, str(address))
            told = under.attribute(ending)
            self._add("backend", address, False, told.detail, told.remedy)
        else:
            text = "takes connections; whether it trusts us cannot be told without the gateway's state (run this as its user)"
            self._add("backend", address, None, text)

    async def _view(self, under: BackendUnderCheck, stream: ProbeStream, before: int | None) -> None:
        """Send the server a ping, so that it looks the sender up. Check whether the query comes to our DNS view."""
        view = str(under.backend.dns_view)
        if before is None:
            self._add("dns-view", view, None, "the gateway does not run, so the check cannot tell whether the server asks it")
            return
        ident = f"check-{secrets.token_hex(8)}"
        iq = f"<iq type='get' id='{ident}' from='{VISITOR}' to='{under.local.text}'><ping xmlns='{PING}'/></iq>"
        stream.ping(iq, ident).addErrback(lambda _: None)
        asked, waited = before, 0.0
        while asked <= before and waited < VIEW_SECONDS:
            await _later(self._services.clock, VIEW_LOOK_SECONDS)
            waited += VIEW_LOOK_SECONDS
            asked = _questions(await self._services.status(), str(under.backend.address)) or 0
        if asked > before:
            self._add("dns-view", view, True, "the server asked it, to answer our ping")
        elif asked:
            text = f"was asked {asked} times since the start, but not for our ping (the answer may be cached)"
            self._add("dns-view", view, True, text)
        else:
            told = under.attribute(Ending(Cause.DIALBACK_ERROR))
            self._add("dns-view", view, False, "the server has never asked it, not even to answer our ping", told.remedy)

    # --- our own DNS ---

    async def _dns(self, domain: Domain, running: bool) -> None:
        places = await self._places(domain)
        if isinstance(places, _NoPlaces):
            self._add("dns", domain, False, places.why, places.remedy)
            return
        families: set[int] = set()
        for place in places[:ADDRESSES]:
            families.add(6 if ":" in place.host else 4)
            await self._leads_here(domain, place, running)
        listening = self._families()
        if listening and families and not families & listening:
            text = f"only {_spoken(families)} is published, and only {_spoken(listening)} is listened on"
            self._add("dns", domain, False, text, "Listen on both families, or publish an address of the other family.")

    async def _places(self, domain: Domain) -> list[HostPort] | _NoPlaces:
        """Return the published addresses with their ports, or why there are none."""
        records: list[tuple[str, int]] = []
        answers: list[Answer] = []
        for service in ("_xmpp-server", "_xmpps-server"):
            answer = await self._services.resolver.query(f"{service}._tcp.{domain.ascii}", "SRV")
            answers.append(answer)
            found = [record for record in answer.records if isinstance(record, SRV)]
            records += [(str(record.target), record.port) for record in found if str(record.target) != "."]
        if any(answer.failed for answer in answers) and not records:
            why = f"the SRV records could not be looked up: {answers[0].reason or answers[1].reason}"
            return _NoPlaces(why, "Check the name servers of dns.servers, or those of the system (/etc/resolv.conf).")
        places = []
        for host, port in records or [(domain.ascii, S2S_PORT)]:
            for kind in ("AAAA", "A"):
                answer = await self._services.resolver.query(host, kind)
                places += [HostPort(record.to_text(), port) for record in answer.records]
        remedy = f"Publish SRV records: _xmpp-server._tcp.{domain.ascii} with this host and the port of a listener."
        return places or _NoPlaces("neither SRV records nor addresses are published", remedy)

    async def _leads_here(self, domain: Domain, place: HostPort, running: bool) -> None:
        fault = self._fault(place) if is_this_machine(place.host) else None
        if fault is not None:
            self._add("dns", domain, False, *fault)
            return
        here = is_this_machine(place.host)
        words = "leads here" if here else "is not an address of this machine (behind a NAT, or another server?)"
        try:
            await knock(self._services.dialler, place.host, place.port, self._services.clock)
        except (DialFailed, DeferredTimeout):
            remedy = "Check the address, the port forwarding, and the firewall."
            if here and not running:
                remedy = "Start the gateway."
            elif here:  # the ports of sockets that systemd holds are not known
                remedy = "Let the SRV record name the port of a listener, and check the firewall."
            self._add("dns", domain, False if here else None, f"{place} {words}, and does not answer from here", remedy)
        else:
            if not here or running:
                self._add("dns", domain, True if here else None, f"{place} {words}, and answers")
                return
            text = f"{place} {words}, and answers, but no gateway was found: another program, perhaps your server, has the port"
            remedy = f"`ss -ltnp 'sport = :{place.port}'` names it (systemd has the port for a service that is about to start)."
            self._add("dns", domain, None, text, remedy)

    def _fault(self, place: HostPort) -> tuple[str, str] | None:
        """Return why no listener of ours is at an address of this machine, and the remedy. None: there is one."""
        ports, families, family = self._ports(), self._families(), 6 if ":" in place.host else 4
        if ports and place.port not in ports:
            return f"{place} is this machine, but the gateway does not listen there", "Correct the port of the SRV record."
        if families and family not in families:
            remedy = f'Listen on both families (endpoint = "tcp:{place.port}"), or take the address out of the DNS.'
            return f"{place} is published, but the gateway does not listen on {_spoken({family})}", remedy
        return None

    def _ports(self) -> set[int]:
        """Return the ports of our listeners. Ports that systemd chose are not known."""
        ports = [EndpointString.parse(each.endpoint).port for each in self._services.config.listen]
        return set() if None in ports else {port for port in ports if port is not None}

    def _families(self) -> set[int]:
        found = [EndpointString.parse(each.endpoint) for each in self._services.config.listen]
        return set() if any(each.port is None for each in found) else {family for each in found for family in each.families}

    # --- this machine ---

    def _certificates(self) -> None:
        served: set[str] = set()
        for fact in self._services.certificates():
            served |= set(fact.domains)
            if not fact.domains:
                continue
            subject, ends = ", ".join(fact.domains), f"{fact.name} {ends_in(fact.days)}"
            if fact.chain:
                own = fact.chain == SELF_SIGNED
                remedy = "Get a certificate of a public CA." if own else "Put the intermediate certificates into the file."
                self._add("certificate", subject, False, f"{ends}; {fact.chain}", remedy)
            elif fact.days <= CERTIFICATE_DAYS:
                self._add("certificate", subject, False, ends, "Renew it (docs/certificates.md).")
            else:
                self._add("certificate", subject, True, f"{ends}, chain complete")
        for domain in self._services.config.gateway.domains:
            if str(domain) not in served:
                self._add("certificate", domain, False, "no certificate names this domain", "Get a certificate that names it.")

    def _machine(self, status: dict[str, Any] | None) -> None:
        self._add(*clock_fact())
        config = self._services.config
        self._add(*state_fact(config.gateway.state))
        available = status["descriptors"]["limit"] if status and "descriptors" in status else descriptors.hard_limit()
        room = descriptors.shares(config.limits.connections, config.queue.streams, available)
        enough = room.connections >= config.limits.connections and room.streams >= config.queue.streams
        detail = f"{available} open files: {room.connections} connections and {room.streams} streams of ours"
        remedy = "" if enough else "Raise LimitNOFILE= of the unit, or lower limits.connections and queue.streams."
        self._add("descriptors", "open files", True if enough else None, detail, remedy)
        self._add(*disk_fact(config.gateway.state, config.queue.disk))


async def _later(clock: IReactorTime, seconds: float) -> None:
    waiting: Deferred[None] = Deferred()
    clock.callLater(seconds, waiting.callback, None)
    await waiting


def _backend_row(status: dict[str, Any] | None, address: str) -> dict[str, Any] | None:
    rows = status.get("backends", ()) if status else ()
    return next((row for row in rows if row["address"] == address), None)


def _questions(status: dict[str, Any] | None, address: str) -> int | None:
    """Return how many queries came to the backend's DNS view. None: not known."""
    row = _backend_row(status, address)
    return None if row is None else row["questions"]


def _spoken(families: Iterable[int]) -> str:
    return " and ".join(f"IPv{family}" for family in sorted(families))
