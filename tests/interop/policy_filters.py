"""Filters, rates and limits of single peers, tested from outside: stanzas that pass, that are bounced, and that wait."""

from __future__ import annotations

import asyncio
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.interop.conversation import talk
from tests.lab.certificates import Certificate
from tests.lab.client import error
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.peer import SERVER, STREAMS, Stream, client_context, header
from tests.lab.scenario import Stage, check, expect, expect_in_order, step
from tests.lab.trust_world import INSIDE, Trusting, trusting
from tests.lab.world import OUTSIDE, World, world

FREE, FILTERED, SILENT, LARGE, SLOW, STRICT, NEAR = (
    f"{name}.example" for name in ("free", "filtered", "silent", "large", "slow", "strict", "near")
)
JINGLE = "urn:xmpp:jingle:1"
POLICIES = {
    FILTERED: {"kinds": ["message", "iq"], "deny_namespaces": [JINGLE], "deny_larger_than": 2000},
    SILENT: {"kinds": ["message"], "denied": "drop"},
    LARGE: {"limits": {"stanza_bytes": 20000}},
    SLOW: {"limits": {"stanzas_per_second": 20}},
    STRICT: {"limits": {"stanzas_per_second": {"iq": 5}, "excess": "refuse"}},
    NEAR: {"resolve": "address-match"},
}


@asynccontextmanager
async def _built(lab: Lab) -> AsyncIterator[Trusting]:
    def build() -> Trusting:
        at, dns = trusting(lab), nameserver(lab)
        for domain in (FREE, *POLICIES):
            dns.serve(domain, at.listen(domain, at.authority.for_domain(domain)).port)
        dns.start()
        at.configure(dns, {"peers": POLICIES})
        at.start()
        return at
    at = await asyncio.to_thread(build)
    try:
        yield at
    finally:
        at.gateway.stop()


stage = Stage("filters, rates and limits of a peer", _built)


def _scenario(title: str) -> Callable[[Callable[[Trusting], None]], None]:
    def add(run: Callable[[Trusting], None]) -> None:
        def started(at: Trusting) -> Awaitable[None]:
            return asyncio.to_thread(run, at)
        stage.scenario(title)(started)
    return add


def _say(domain: str, id: str, inside: str = "", kind: str = "message", type: str = "chat") -> str:
    return f"<{kind} from='a@{domain}/x' to='echo@{INSIDE}' id='{id}' type='{type}'>{inside}</{kind}>"


def _body(text: str) -> str:
    return f"<body>{text}</body>"


def _came(at: Trusting, domain: str, ids: set[str], seconds: float = 10.0) -> dict[str, ET.Element]:
    """Return the stanzas at the peer's server, by id, once all of `ids` have arrived."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = {each.get("id", ""): each for each in at.receivers[domain].stanzas}
        if ids <= set(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{domain} did not get {ids - set(found)}; received {sorted(found)}")


def _bodies(at: Trusting, domain: str) -> list[str]:
    return [each.findtext(f"{SERVER}body") or "" for each in at.receivers[domain].stanzas if each.get("type") != "error"]


def _counted(at: Trusting, kind: str, outcome: str) -> int:
    rows = at.gateway.asked("status")["stanzas"]
    return sum(row["number"] for row in rows if (row["direction"], row["kind"], row["outcome"]) == ("inbound", kind, outcome))


def _error(element: ET.Element) -> list[str]:
    error = element.find(f"{SERVER}error")
    return [] if error is None else [child.tag.rpartition("}")[2] for child in error]


@_scenario("a kind, a payload's namespace, a size: each is bounced with an error, the stream and other stanzas are not affected")
def _filters(at: Trusting) -> None:
    stream = at.enter(FILTERED, at.certificates[FILTERED])
    stream.send(
        _say(FILTERED, "f1", _body("first")) + _say(FILTERED, "f2", kind="presence", type="subscribe")
        + _say(FILTERED, "f3", f"<jingle xmlns='{JINGLE}' action='session-initiate'/>", "iq", "set")
        + _say(FILTERED, "f4", _body("x" * 3000)) + _say(FILTERED, "f5", _body("last"))
    )
    came = _came(at, FILTERED, {"f2", "f3", "f4"})
    for id in ("f2", "f3", "f4"):
        expect((came[id].get("type"), _error(came[id])[:1]), ("error", ["policy-violation"]), id)
    check(at.heard(FILTERED, "last"), "the stanza after it was not echoed")
    check(any("first" in body for body in _bodies(at, FILTERED)), "the stanza before it was not echoed")
    expect([_counted(at, kind, "refused") for kind in ("presence", "iq", "message")], [1, 1, 1], "refused, by kind")
    causes = {row["cause"] for row in at.gateway.asked("refusals", FILTERED)}
    check({"filtered", "too-large"} <= causes, f"recorded: {causes}")
    stream.close()


@_scenario('denied = "drop": no error is sent, and the stanza is counted')
def _dropped(at: Trusting) -> None:
    before = _counted(at, "iq", "refused")
    stream = at.enter(SILENT, at.certificates[SILENT])
    stream.send(_say(SILENT, "d1", "<ping xmlns='urn:xmpp:ping'/>", "iq", "get") + _say(SILENT, "d2", _body("behind it")))
    check(at.heard(SILENT, "behind it"), "the message was not echoed")
    check("d1" not in {each.get("id") for each in at.receivers[SILENT].stanzas}, "an answer came")
    expect(_counted(at, "iq", "refused"), before + 1, "refused")
    stream.close()


@_scenario("limits.stanza_bytes: announced to this peer, and a larger stanza ends its stream; others keep the default")
def _stanza_bytes(at: Trusting) -> None:
    for domain, size in ((LARGE, "20000"), (FREE, "524288")):
        stream = Stream.dial(at.gateway.port)
        stream.open(INSIDE, domain)
        stream.starttls(client_context(at.certificates[domain]), INSIDE)
        features = stream.open(INSIDE, domain)
        expect(features.findtext("{*}limits/{*}max-bytes"), size, f"max-bytes for {domain}")
        stream.external(domain)
        stream.open(INSIDE, domain)
        stream.send(_say(domain, "l1", _body("y" * 30000)) + _say(domain, "l2", _body(f"after it at {domain}")))
        if domain == FREE:
            check(at.heard(FREE, "after it"), "the large stanza did not pass")
        else:
            condition, text = stream.end()
            expect(condition, "policy-violation", "the error")
            step(text)
        stream.close()


@_scenario('excess = "slow": twice the rate passes at once, the rest at the rate, in order; another peer does not wait')
def _slow(at: Trusting) -> None:
    slow, free = at.enter(SLOW, at.certificates[SLOW]), at.enter(FREE, at.certificates[FREE])
    start = time.monotonic()
    for number in range(100):
        slow.send(_say(SLOW, f"s{number}", _body(f"slow {number}")))
        time.sleep(0.001)
    free.send(_say(FREE, "q1", _body("not slowed")))
    check(at.heard(FREE, "not slowed"), "the other peer's message did not arrive")
    quick = time.monotonic() - start
    _came_bodies(at, SLOW, 100, 15.0)
    # Stanzas of one read of the gateway pass together, and their excess is paid before the next read.
    slow.send(_say(SLOW, "s100", _body("slow 100")))
    _came_bodies(at, SLOW, 101, 15.0)
    took = time.monotonic() - start
    numbers = [int(body.split()[-1]) for body in _bodies(at, SLOW)]
    expect_in_order(numbers, range(101), "in order")
    check(quick < 1.5, f"the other peer waited for {quick:.1f} s")
    check(2.0 < took < 12.0, f"101 stanzas at 20 a second took {took:.1f} s")
    step(f"101 stanzas at 20 a second (40 at once): {took:.1f} s; the other peer: {quick:.2f} s")
    slow.close()
    free.close()


def _came_bodies(at: Trusting, domain: str, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while len(_bodies(at, domain)) < count:
        check(time.monotonic() < deadline, f"{len(_bodies(at, domain))} of {count} arrived")
        time.sleep(0.05)


@_scenario('excess = "refuse": the kind over its rate is bounced with resource-constraint, other kinds pass')
def _refuse(at: Trusting) -> None:
    stream = at.enter(STRICT, at.certificates[STRICT])
    pings = [_say(STRICT, f"i{number}", "<ping xmlns='urn:xmpp:ping'/>", "iq", "get") for number in range(30)]
    stream.send("".join(pings) + "".join(_say(STRICT, f"m{number}", _body(f"message {number}")) for number in range(30)))
    came = _came(at, STRICT, {f"i{number}" for number in range(30)})
    refused = [id for id, each in came.items() if id.startswith("i") and "resource-constraint" in _error(each)]
    check(18 <= len(refused) <= 21, f"{len(refused)} of 30 refused, at 5 a second")
    _came_bodies(at, STRICT, 30, 5.0)
    step(f"{len(refused)} of 30 requests refused, all 30 messages echoed")
    stream.close()


def _from(at: Trusting, address: str, domain: str, certificate: Certificate) -> tuple[str, str]:
    """Return the answer to a stream from `address` after TLS; ("", "") if it is accepted."""
    stream = Stream(socket.create_connection(("127.0.0.1", at.gateway.port), 8.0, (address, 0)))
    stream.open(INSIDE, domain)
    stream.starttls(client_context(certificate), INSIDE)
    stream.send(header(INSIDE, domain))
    answer = stream.expect(f"{STREAMS}features", f"{STREAMS}error")
    said = stream.end() if answer.tag == f"{STREAMS}error" else ("", "")
    stream.close()
    return ("policy-violation", said[1]) if answer.tag == f"{STREAMS}error" else said


@_scenario('resolve = "address-match": a stream from an address that is not in the DNS is refused')
def _near(at: Trusting) -> None:
    expect(_from(at, "127.0.0.1", NEAR, at.certificates[NEAR])[0], "", "from its own address")
    expect(_from(at, "127.0.0.9", NEAR, at.certificates[NEAR])[0], "policy-violation", "from another address")
    expect(_from(at, "127.0.0.9", FREE, at.certificates[FREE])[0], "", "another peer from there")
    expect(at.gateway.asked("refusals", NEAR)[-1]["cause"], "address-mismatch", "recorded cause")


#: Stanzas that a server behind the gateway and its users may neither send to the peer outside, nor get from there.
_BARRED = {OUTSIDE: {"kinds": ["message", "iq"], "deny_namespaces": ["jabber:iq:version"]}}

users = Stage("filters between users of real servers", lambda lab: world(lab, "prosody", "prosody", {"peers": _BARRED}))


@users.scenario("in both directions: messages and pings pass, stanzas that the policy denies are bounced with policy-violation")
async def _both_ways(made: World) -> None:
    for asker, other in ((made.ends.left, made.ends.right), (made.ends.right, made.ends.left)):
        await talk(asker, other, f"a message from {asker.jid}")
        expect(error(await asker.ping(other.domain)), ("", ""), f"{asker.jid} pings {other.domain}")
        expect(error(await asker.version(other.domain))[0], "policy-violation", f"{asker.jid} asks for the version")
        step(f"{asker.jid}: message and ping pass, a version query is refused")
    rows = {(row["direction"], row["cause"]) for row in await asyncio.to_thread(made.gateway.asked, "refusals", OUTSIDE)}
    check({("inbound", "filtered"), ("outbound", "filtered")} <= rows, f"recorded: {rows}")
