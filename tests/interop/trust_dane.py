"""DANE with a zone that knot signs and unbound validates: in both roles, with each result of DNSSEC (R22)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.lab.certificates import Certificate, Names
from tests.lab.lab import Lab
from tests.lab.scenario import Stage, check, expect
from tests.lab.trust_world import Trusting, trusting
from tests.lab.trust_zone import BOGUS, OTHER_KEY, PLAIN, SIGNED, SignedDNS, signed_dns, tlsa, tlsa_of_file


def _peer(at: Trusting, dns: SignedDNS, zone: str, name: str, certificate: Certificate, *records: str) -> None:
    receiver = at.listen(f"{name}.{zone}", certificate)
    dns.peer(zone, name, receiver.port, *records)


def _peers(at: Trusting, dns: SignedDNS) -> None:
    own, trusted = at.stranger.self_signed, at.authority.for_domain
    match, misnamed = own(f"match.{SIGNED}"), at.stranger.issue(Names(dns=("another.name",)), days=-1)
    _peer(at, dns, SIGNED, "match", match, tlsa(match))
    _peer(at, dns, SIGNED, "misnamed", misnamed, tlsa(misnamed))
    _peer(at, dns, SIGNED, "issued", at.stranger.for_domain(f"issued.{SIGNED}"), tlsa_of_file(at.stranger.file))
    _peer(at, dns, SIGNED, "differ", own(f"differ.{SIGNED}"), OTHER_KEY)
    _peer(at, dns, SIGNED, "veto", trusted(f"veto.{SIGNED}"), OTHER_KEY)
    _peer(at, dns, SIGNED, "none", trusted(f"none.{SIGNED}"))
    _peer(at, dns, SIGNED, "failing", trusted(f"failing.{SIGNED}"), OTHER_KEY)
    dns.dead.append(f"_tcp.failing-host.{SIGNED}.")
    plain = own(f"match.{PLAIN}")
    _peer(at, dns, PLAIN, "match", plain, tlsa(plain))
    _peer(at, dns, PLAIN, "differ", trusted(f"differ.{PLAIN}"), OTHER_KEY)
    bogus = own(f"match.{BOGUS}")
    _peer(at, dns, BOGUS, "match", bogus, tlsa(bogus))
    for zone, name in ((SIGNED, "hosted"), (SIGNED, "undelegated"), (PLAIN, "hosted")):
        _peer(at, dns, zone, name, at.authority.for_domain(f"{name}-host.{zone}"))


@asynccontextmanager
async def _built(lab: Lab) -> AsyncIterator[Trusting]:
    def build() -> Trusting:
        at, dns = trusting(lab), signed_dns(lab)
        _peers(at, dns)
        dns.start()
        delegated = {"secure_delegation": True, "dialback": "never"}
        at.configure(dns, {"peers": {f"hosted.{SIGNED}": delegated, f"hosted.{PLAIN}": delegated}})
        at.start()
        return at
    at = await asyncio.to_thread(build)
    try:
        yield at
    finally:
        at.gateway.stop()


stage = Stage("DANE: knot signs, unbound validates", _built)


def _scenario(title: str) -> Callable[[Callable[[Trusting], None]], None]:
    def add(run: Callable[[Trusting], None]) -> None:
        def started(at: Trusting) -> Awaitable[None]:
            return asyncio.to_thread(run, at)
        stage.scenario(title)(started)
    return add


def _both_ways(at: Trusting, domain: str) -> None:
    text = at.asks(domain, at.certificates[domain])
    check(at.heard(domain, text), f"{domain} did not get the echo: {at.gateway.asked('refusals', domain)[-1:]}")


@_scenario("secure and matching: a self-signed certificate proves the peer in both roles, also without name and valid dates (3 1 1)")
def _matching(at: Trusting) -> None:
    _both_ways(at, f"match.{SIGNED}")
    _both_ways(at, f"misnamed.{SIGNED}")
    log = at.gateway.logged()
    check("dane: proven" in log, "the log does not say that DANE proved it")


@_scenario("secure and matching: the peer's own CA (2 0 1)")
def _authority(at: Trusting) -> None:
    domain = f"issued.{SIGNED}"
    stream, offered, condition, text = at.offered(domain, at.certificates[domain])
    stream.close()
    # the leaf's chain must contain its authority; the lab sends only the leaf, so the record proves nothing here
    expect(condition, "policy-violation", f"{offered} {text}")
    chained = at.stranger.folder / "chained.crt"
    chained.write_bytes(at.certificates[domain].chain.read_bytes() + at.stranger.file.read_bytes())
    at.enter(domain, Certificate(chained, at.certificates[domain].key)).close()


@_scenario("secure and not matching: on an inbound stream no proof, and PKIX still counts")
def _differing(at: Trusting) -> None:
    domain = f"differ.{SIGNED}"
    text = at.refused(domain, at.certificates[domain])
    check("dane: not proven" in text, text)
    at.enter(domain, at.authority.for_domain(domain)).close()


@_scenario("secure and not matching: on an outbound stream a veto over PKIX")
def _veto(at: Trusting) -> None:
    domain = f"veto.{SIGNED}"
    text = at.asks(domain, at.certificates[domain])
    expect(at.refusal(domain, "outbound")["cause"], "dane-mismatch", "cause")
    check(not at.heard(domain, text, 2.0), "the echo was delivered nevertheless")


@_scenario("insecure: matching records prove nothing, other records veto nothing")
def _insecure(at: Trusting) -> None:
    text = at.refused(f"match.{PLAIN}", at.certificates[f"match.{PLAIN}"])
    check("its zone is not signed (DNSSEC)" in text, text)
    _both_ways(at, f"differ.{PLAIN}")


@_scenario("bogus: the look-up of the peer's name fails, temporarily")
def _bogus(at: Trusting) -> None:
    domain = f"match.{BOGUS}"
    text = at.refused(domain, at.certificates[domain], "remote-connection-failed")
    check("again" in text.lower(), text)


@_scenario("failing look-ups have no effect: PKIX decides, in both roles")
def _failing(at: Trusting) -> None:
    domain = f"failing.{SIGNED}"
    _both_ways(at, domain)
    text = at.refused(domain, at.stranger.self_signed(domain))
    check("no DANE for" in text, text)


@_scenario("no records: PKIX decides")
def _none(at: Trusting) -> None:
    _both_ways(at, f"none.{SIGNED}")


@_scenario("secure delegation: a certificate for the SRV target, if DNSSEC secured it and the policy allows it (R13)")
def _delegation(at: Trusting) -> None:
    domain = f"hosted.{SIGNED}"
    text = at.asks(domain, at.authority.for_domain(domain))
    check(at.heard(domain, text), f"not delivered: {at.gateway.asked('refusals', domain)[-1:]}")
    for other in (f"undelegated.{SIGNED}", f"hosted.{PLAIN}"):
        at.asks(other, at.authority.for_domain(other))
        expect(at.refusal(other, "outbound")["cause"], "name-mismatch", other)
