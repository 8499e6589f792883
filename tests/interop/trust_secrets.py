"""Peers proven by a shared secret (R26): a raw one whose certificate proves nothing, and another gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from OpenSSL import SSL

from tests.interop.conversation import Ends, login, talk
from tests.interop.scram import authenticate, secure
from tests.lab.certificates import Authority, Certificate
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.peer import TLS, Stream, mechanisms
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.trust_world import INSIDE, Trusting, trusting
from tests.lab.world import OUTSIDE, Front

PEER = "secret.example"
SECRET = "k7Yq2mPz9sVw4xTn"
PLUS, PLUS_1, PLAIN, PLAIN_1 = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1"
ALL = {PLUS, PLUS_1, PLAIN, PLAIN_1}
BINDING = "{urn:xmpp:sasl-cb:0}"


def write_secret(folder: Path, secret: str = SECRET) -> None:
    path = folder / "shared.secret"
    path.touch(0o600)
    path.write_text(f"{secret}\n")


# --- a raw peer ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _built(lab: Lab) -> AsyncIterator[Trusting]:
    def build() -> Trusting:
        at, dns = trusting(lab), nameserver(lab)
        dns.serve(INSIDE, at.gateway.port)
        dns.serve(PEER, 1)
        dns.start()
        write_secret(at.gateway.folder)
        at.configure(dns, {"peers": {PEER: {"secret_file": "shared.secret"}}})
        at.start()
        return at
    at = await asyncio.to_thread(build)
    try:
        yield at
    finally:
        at.gateway.stop()


stage = Stage("peers with a shared secret", _built)


def _scenario(title: str) -> Callable[[Callable[[Trusting], None]], None]:
    def add(run: Callable[[Trusting], None]) -> None:
        def started(at: Trusting) -> Awaitable[None]:
            return asyncio.to_thread(run, at)
        stage.scenario(title)(started)
    return add


Come = tuple[Stream, bytes, set[str], list[str]]


def _come(at: Trusting, certificate: Certificate | None, highest: int = SSL.TLS1_3_VERSION) -> Come:
    """Connect up to the features after TLS. Return the stream, its channel binding, the mechanisms, and the announced types of binding."""
    stream = Stream.dial(at.gateway.port)
    stream.open(INSIDE, PEER)
    stream.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    stream.expect(f"{TLS}proceed")
    bound = secure(stream, certificate, INSIDE, highest)
    features = stream.open(INSIDE, PEER)
    types = [each.get("type", "") for each in features.iter(f"{BINDING}channel-binding")]
    return stream, bound.binding, set(mechanisms(features)), types


def _greets(at: Trusting, stream: Stream, method: str) -> None:
    """Check that stanzas pass on the stream."""
    stream.open(INSIDE, PEER)
    [row] = [row for row in at.gateway.asked("streams") if row["leg"] == "federation"]
    expect(row["method"], method, "the recorded method")
    stream.send("</stream:stream>")
    stream.end()
    stream.close()
    step(f"authenticated by {method}")


@_scenario("R26: every mechanism proves a peer whose certificate proves nothing, or that has none; each side proves itself")
def _every(at: Trusting) -> None:
    for certificate in (None, at.stranger.self_signed(PEER)):
        for mechanism in (PLUS, PLUS_1, PLAIN, PLAIN_1):
            stream, binding, offered, types = _come(at, certificate)
            expect((offered, types), (ALL, ["tls-exporter"]), "the offer")
            expect(authenticate(stream, PEER, SECRET, mechanism, binding), ("success", ""), mechanism)
            _greets(at, stream, mechanism)


@_scenario("R26: SCRAM is offered beside EXTERNAL if the certificate is good")
def _beside(at: Trusting) -> None:
    stream, binding, offered, _ = _come(at, at.authority.for_domain(PEER))
    expect(offered, ALL | {"EXTERNAL"}, "the offer")
    expect(authenticate(stream, PEER, SECRET, PLUS, binding), ("success", ""), PLUS)
    _greets(at, stream, PLUS)


@_scenario("R26: with TLS 1.2 there is no channel binding, and without -PLUS the flag 'y' is no error")
def _old(at: Trusting) -> None:
    for flag in ("n", "y"):
        stream, _, offered, types = _come(at, None, SSL.TLS1_2_VERSION)
        expect((offered, types), ({PLAIN, PLAIN_1}, []), "the offer")
        expect(authenticate(stream, PEER, SECRET, PLAIN, flag=flag), ("success", ""), flag)
        _greets(at, stream, PLAIN)


@_scenario("R26: another secret, channel or name, and 'y' if -PLUS was offered, are refused; three attempts end the stream")
def _refused(at: Trusting) -> None:
    stream, binding, _, _ = _come(at, None)
    expect(authenticate(stream, PEER, SECRET + "x", PLUS, binding), ("failure", "not-authorized"), "another secret")
    expect(authenticate(stream, PEER, SECRET, PLUS, b"x" * 32), ("failure", "not-authorized"), "another channel")
    expect(authenticate(stream, PEER, SECRET, PLUS, binding), ("success", ""), "the third try")
    _greets(at, stream, PLUS)
    stream, binding, _, _ = _come(at, None)
    expect(authenticate(stream, "other.example", SECRET, PLUS, binding), ("failure", "not-authorized"), "another name")
    expect(authenticate(stream, PEER, SECRET, PLAIN, flag="y"), ("failure", "not-authorized"), "a downgrade")
    expect(authenticate(stream, PEER, SECRET, PLUS, binding, "n"), ("failure", "malformed-request"), "-PLUS without binding")
    expect(stream.end()[0], "policy-violation", "the end of it")
    stream.close()


@_scenario("R26: a changed secret file is used at once, and the secret is never in the log or the records")
def _changed(at: Trusting) -> None:
    write_secret(at.gateway.folder, "another-secret-altogether")
    stream, binding, _, _ = _come(at, None)
    expect(authenticate(stream, PEER, SECRET, PLUS, binding), ("failure", "not-authorized"), "the old secret")
    expect(authenticate(stream, PEER, "another-secret-altogether", PLUS, binding), ("success", ""), "the new one")
    _greets(at, stream, PLUS)
    told = at.gateway.logged() + "".join(at.gateway.command(verb, PEER, check=False) for verb in ("explain", "refusals"))
    check(SECRET not in told and "another-secret-altogether" not in told, "a secret was disclosed")
    check("shared.secret" in at.gateway.command("explain", PEER), "explain does not name the file")


# --- two gateways ----------------------------------------------------------------------------------------------------


@dataclass
class Two:
    """A Prosody behind each of two gateways; fits `HasEnds`."""

    doors: tuple[Gateway, Gateway]
    ends: Ends


@asynccontextmanager
async def _two(lab: Lab, changes: dict[str, object]) -> AsyncIterator[Two]:
    dns, authority = nameserver(lab), Authority(lab.directory("authority"))
    doors = gateway(lab, INSIDE), gateway(lab, OUTSIDE)
    for door in doors:
        dns.serve(door.domain, door.port)
        write_secret(door.folder)
    dns.start()
    servers = [
        Front(door, "prosody", [authority.for_domain(door.domain)], {"peers": {other.domain: changes}}).start(dns, authority)
        for door, other in (doors, doors[::-1])
    ]
    made = Two(doors, Ends(servers[0], servers[1], await login(servers[0], "juliet"), await login(servers[1], "romeo")))
    try:
        yield made
    finally:
        await made.ends.close()
        for door in doors:
            door.stop()


#: Settings for the peer: only the secret proves it; or it is a legacy peer with only DIGEST-MD5.
ALONE: dict[str, object] = {"proofs": [], "secret_file": "shared.secret", "features": {"bidi": False}}
OLD: dict[str, object] = {"sasl": ["DIGEST-MD5"], "secret_file": "shared.secret", "features": {"bidi": False}}

gateways = Stage("two gateways with a shared secret and no other proof", lambda lab: _two(lab, ALONE))
legacy = Stage("two gateways with DIGEST-MD5", lambda lab: _two(lab, OLD))


@legacy.scenario("R26: two gateways prove themselves to each other, in both directions, by DIGEST-MD5 if only that is allowed")
async def _by_digest(at: Two) -> None:
    for sender, receiver in at.ends.ways():
        await talk(sender, receiver, f"by DIGEST-MD5, {sender.jid}")
    for door in at.doors:
        rows = await asyncio.to_thread(door.asked, "streams")
        methods = {(row["direction"], row["method"]) for row in rows if row["leg"] == "federation"}
        expect(methods, {("inbound", "DIGEST-MD5"), ("outbound", "DIGEST-MD5")}, door.domain)


@gateways.scenario("R26: two gateways prove themselves to each other, in both directions, bound to their TLS")
async def _prove(at: Two) -> None:
    for sender, receiver in at.ends.ways():
        await talk(sender, receiver, f"in confidence from {sender.jid}")
    for door in at.doors:
        rows = await asyncio.to_thread(door.asked, "streams")
        methods = {(row["direction"], row["method"]) for row in rows if row["leg"] == "federation"}
        expect(methods, {("inbound", PLUS), ("outbound", PLUS)}, door.domain)
        step(f"{door.domain}: {sorted(methods)}")
