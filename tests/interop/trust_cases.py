"""The three settings for an unknown issuer, changed keys, past proofs, and the records of all of them (R20)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.lab.certificates import Certificate
from tests.lab.lab import Lab
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.trust_world import INSIDE, Trusting, trusting
from tests.lab.trust_zone import PLAIN, signed_dns

ASK, FIRST, LOST, REVOKED, OWN = (f"{name}.{PLAIN}" for name in ("ask", "first", "lost", "revoked", "own"))
POLICIES = {
    ASK: {"unknown_issuer": "ask"},
    FIRST: {"unknown_issuer": "trust-first-use"},
    LOST: {"dialback": "with-tls", "lost_proof": "report"},
    REVOKED: {"crl": "lab.crl"},
    OWN: {"trust_anchors": "stranger.pem"},
}


@asynccontextmanager
async def _built(lab: Lab) -> AsyncIterator[Trusting]:
    def build() -> Trusting:
        at, dns = trusting(lab), signed_dns(lab)
        for domain in POLICIES:
            receiver = at.listen(domain, at.stranger.self_signed(domain))
            dns.peer(PLAIN, domain.partition(".")[0], receiver.port)
        dns.start()
        at.authority.revoke(at.gateway.folder / "lab.crl")
        (at.gateway.folder / "stranger.pem").write_bytes(at.stranger.file.read_bytes())
        at.configure(dns, {"peers": POLICIES, "queue": {"hold": "60s", "iq_hold": "30s"}})
        at.start()
        return at
    at = await asyncio.to_thread(build)
    try:
        yield at
    finally:
        at.gateway.stop()


stage = Stage("unknown issuers, changed keys, past proofs", _built)


def _scenario(title: str) -> Callable[[Callable[[Trusting], None]], None]:
    def add(run: Callable[[Trusting], None]) -> None:
        def started(at: Trusting) -> Awaitable[None]:
            return asyncio.to_thread(run, at)
        stage.scenario(title)(started)
    return add


def _pending(at: Trusting, domain: str) -> list[dict[str, Any]]:
    return list(at.gateway.asked("pending", domain))


def _keys(at: Trusting, domain: str) -> list[str]:
    return [row["origin"] for row in at.gateway.asked("pins", "list", domain) if row["counts"]]


def _waiting(at: Trusting, domain: str) -> dict[str, Any]:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        for row in _pending(at, domain):
            if row["direction"] == "outbound" and row["waiting"]:
                return row
        time.sleep(0.2)
    raise AssertionError(f"nothing waits for {domain}: {_pending(at, domain)}")


@_scenario("ask: a self-signed certificate is held with chain, names, dates, keys and DNS, and its stanzas wait")
def _ask(at: Trusting) -> None:
    text = at.asks(ASK, at.authority.for_domain(ASK))
    row = _waiting(at, ASK)
    expect(row["cause"], "awaiting-approval", "cause")
    check(row["key"].startswith("sha256:") and row["chain"][0]["self_signed"] and row["chain"][0]["not_after"], str(row))
    check(row["dns"]["targets"][0]["host"] == f"ask-host.{PLAIN}", str(row["dns"]))
    step(at.gateway.command("pending", ASK).splitlines()[0])
    at.gateway.command("pins", "approve", ASK, "--for", "90d", "--note", "compared by telephone")
    check(at.heard(ASK, text), "waiting stanzas were not delivered after the approval")
    at.enter(ASK, at.certificates[ASK]).close()
    expect(_pending(at, ASK), [], "pending")
    expect(_keys(at, ASK), ["operator"], "keys")


@_scenario("a changed key is refused, logged as critical, and shown beside the old key")
def _changed(at: Trusting) -> None:
    other = at.stranger.self_signed(ASK)
    at.refused(ASK, other)
    [row] = _pending(at, ASK)
    expect(row["cause"], "pin-mismatch", "cause")
    expect([old["origin"] for old in row["remembered"]], ["operator"], "the key before")
    check("REMEMBERED" in at.gateway.command("pending", ASK), "the old and the new key are not shown together")
    critical = [line for line in at.gateway.logged().splitlines() if "key changed" in line]
    check(critical and "critical" in critical[0].lower(), f"no critical line: {critical[:1]}")
    at.gateway.command("pins", "approve", ASK, row["key"], "--replace", "--for", "2s")
    at.enter(ASK, other).close()
    at.refused(ASK, at.certificates[ASK])
    time.sleep(2.1)
    text = at.refused(ASK, other)
    step(f"the approval expired: {text[:60]!r}")


@_scenario("revoke: the key no longer proves the peer, and its streams are closed")
def _revoke(at: Trusting) -> None:
    third = at.stranger.self_signed(ASK)
    at.refused(ASK, third)
    key = _pending(at, ASK)[-1]["key"]
    at.gateway.command("pins", "approve", ASK, key, "--replace")
    stream = at.enter(ASK, third)
    answer = at.gateway.asked("pins", "revoke", ASK, key)
    expect(answer["closed"], 1, "streams closed")
    expect(stream.end()[0], "policy-violation", "the error on the stream")
    at.refused(ASK, third)
    expect(at.gateway.asked("refusals", ASK)[-1]["cause"], "key-revoked", "cause")
    lines = (at.gateway.folder / "state" / "audit.log").read_text().splitlines()
    check(any("pins revoke" in line for line in lines) and any("pins approve" in line for line in lines), "audit log")


@_scenario("trust-first-use: the key of an inbound stranger is not trusted")
def _stranger(at: Trusting) -> None:
    at.refused(FIRST, at.stranger.self_signed(FIRST))
    expect(_keys(at, FIRST), [], "keys")


@_scenario("trust-first-use: the first key on an outbound stream is remembered; another key is refused")
def _first_use(at: Trusting) -> None:
    text = at.asks(FIRST, at.authority.for_domain(FIRST))
    check(at.heard(FIRST, text), "the first use was not trusted")
    expect(_keys(at, FIRST), ["first-use"], "keys")
    at.enter(FIRST, at.certificates[FIRST]).close()
    at.refused(FIRST, at.stranger.self_signed(FIRST))
    expect(at.gateway.asked("refusals", FIRST)[-1]["cause"], "pin-mismatch", "cause")
    at.restart()
    at.enter(FIRST, at.certificates[FIRST]).close()


def _dialback_only(at: Trusting, certificate: Certificate) -> tuple[str, list[str]]:
    stream, offered, condition, _ = at.offered(LOST, certificate)
    stream.close()
    return condition, offered


@_scenario("past proofs: a peer proven by PKIX is not accepted by dialback alone; with `report` this is only reported")
def _lost(at: Trusting) -> None:
    stranger = at.stranger.self_signed(LOST)
    expect(_dialback_only(at, stranger), ("", []), "before any proof: dialback")
    at.enter(LOST, at.authority.for_domain(LOST)).close()
    expect(_dialback_only(at, stranger), ("", []), "report only: dialback")
    check(at.gateway.logs("proof lost"), "it was not reported")
    before = at.gateway.config.read_text()
    at.gateway.config.write_text(before.replace('lost_proof = "report"', 'lost_proof = "refuse"'))
    at.restart()
    expect(_dialback_only(at, stranger)[0], "policy-violation", "refuse")
    expect(at.gateway.asked("refusals", LOST)[-1]["cause"], "proof-lost", "cause")


@_scenario("refusals are kept over a kill -9, and give the letter to the other administrator")
def _record(at: Trusting) -> None:
    before = at.gateway.asked("refusals")
    assert at.gateway.process is not None
    at.gateway.process.kill()
    at.start()
    after = at.gateway.asked("refusals")
    expect(len(after), len(before), "refusals after the restart")
    letter = at.gateway.command("refusals", LOST, "--letter")
    for words in (f"To the administrator of {LOST}", "proof-lost", "What to do:"):
        check(words in letter, letter)
    step(letter.splitlines()[0])


@_scenario("explain: the objects, each key with its line, the records, the present verdict")
def _explain(at: Trusting) -> None:
    lines = at.gateway.config.read_text().splitlines()
    answer = at.gateway.asked("explain", FIRST)
    expect([each["name"] for each in answer["objects"]], [FIRST], "objects")
    check(f'"{FIRST}"' in lines[answer["objects"][0]["line"] - 1], f"line {answer['objects']}")
    key = next(row for row in answer["keys"] if row["key"] == "unknown_issuer")
    expect((key["value"], key["from"]), ("trust-first-use", f"peers.{FIRST}"), "unknown_issuer")
    check("unknown_issuer" in lines[key["line"] - 1], f"line {key['line']}: {lines[key['line'] - 1]}")
    expect([row["method"] for row in answer["past"]], ["pkix"], "past proofs")
    check(answer["remembered"] and answer["refusals"] and answer["dns"]["targets"], "keys, refusals and DNS are missing")
    expect(answer["now"]["outbound"]["last"]["proven_by"], "trust-first-use", "outbound now")
    told = at.gateway.command("explain", FIRST, "--local", INSIDE)
    for words in ("unknown_issuer", "accepted, verified by trust-first-use", "verified   by pkix"):
        check(words in told, told)
    step(next(line for line in told.splitlines() if line.startswith("outbound")).strip())


@_scenario("explain and replay --with FILE: the verdicts of a planned file, and the peers whose verdict changes")
def _replay(at: Trusting) -> None:
    plan = at.gateway.folder / "planned.toml"
    text = at.gateway.config.read_text()
    plan.write_text(text)
    expect(at.gateway.asked("replay", "--with", str(plan))["changed"], [], "the same file changes nothing")
    plan.write_text(text.replace('"trust-first-use"', '"reject"'))
    answer = at.gateway.asked("explain", FIRST, "--with", str(plan))
    expect((answer["planned"], answer["now"]["outbound"]["last"]["cause"]), (True, "self-signed"), "outbound as planned")
    changed = at.gateway.asked("replay", "--with", str(plan))["changed"]
    outbound = [row for row in changed if row["peer"] == FIRST and row["direction"] == "outbound"]
    expect({(row["before"]["accepted"], row["after"]["cause"]) for row in outbound}, {(True, "self-signed")}, "replay")
    step(f"{len(changed)} verdicts would change")
    plan.write_text("[nonsense]\n")
    check("nonsense" in at.gateway.asked("replay", "--with", str(plan))["error"], "the errors of a bad file")


@_scenario("per peer: its own revocation list, read again when it changes, and its own trust anchors")
def _files(at: Trusting) -> None:
    good, bad = (at.authority.for_domain(REVOKED) for _ in range(2))
    at.enter(REVOKED, bad).close()
    at.authority.revoke(at.gateway.folder / "lab.crl", bad)
    time.sleep(5.5)  # files are checked every five seconds
    at.refused(REVOKED, bad)
    expect(at.gateway.asked("refusals", REVOKED)[-1]["cause"], "revoked", "cause")
    at.enter(REVOKED, good).close()
    at.enter(OWN, at.stranger.for_domain(OWN)).close()
    at.refused(OWN, at.authority.for_domain(OWN))
