"""Two domains behind the gateway and one stream to each peer (XEP-0220 §2.6.1), with real servers and another gateway; peers that
refuse it, and peers that break on another extension.
"""

from __future__ import annotations

import asyncio
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.interop.conversation import collect, login, talk
from tests.lab.certificates import Authority, Names
from tests.lab.client import Client
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import Lab
from tests.lab.nameserver import Nameserver, nameserver
from tests.lab.peer import DIALBACK, SERVER, PeerError, Stream
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.servers.launch import START
from tests.lab.servers.server import Site
from tests.lab.transport_receiver import Far
from tests.lab.world import INSIDE, Front

ROOMS = "rooms.inside.example"
GATEWAY = "s2sgw"
KINDS = (*START, GATEWAY)
#: Servers that send their own answers to the domain with which the stream began: each domain has its own stream to them.
APART = ("prosody", "prosody13")
#: Messages from each domain, sent alternately.
SOME = 100
_DIALBACK_FEATURE = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"


Raw = TypeVar("Raw", bound=Far)


@dataclass
class Hall:
    """A gateway before a Prosody with two hosts. `inside` are their users, `outside` is one user on each server, by kind."""

    lab: Lab
    dns: Nameserver
    authority: Authority
    door: Gateway
    loop: asyncio.AbstractEventLoop
    doors: list[Gateway] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)
    inside: dict[str, Client] = field(default_factory=dict)
    outside: dict[str, Client] = field(default_factory=dict)

    def build(self) -> dict[str, Any]:
        """Build the servers outside, then the gateway. The servers are by domain."""
        servers: dict[str, Any] = {}
        for domain in (INSIDE, ROOMS):
            self.dns.serve(domain, self.door.port)
        other = gateway(self.lab, _domain(GATEWAY))
        self.dns.serve(_domain(GATEWAY), other.port)
        self.dns.start()
        for kind in START:
            server = START[kind](Site(
                self.lab, _domain(kind), self.dns.port, self.authority.file, self.authority.issue(Names(dns=(_domain(kind),))),
                dialback_only=kind == "jabberd2",
            ))
            self.dns.serve(_domain(kind), server.s2s_port)
            servers[_domain(kind)], self.ports[kind] = server, server.s2s_port
        self.dns.reload()
        self.ports[GATEWAY] = other.port
        self.doors = [other, self.door]
        certificates = [self.authority.for_domain(_domain(GATEWAY))]
        servers[_domain(GATEWAY)] = Front(other, "prosody", certificates).start(self.dns, self.authority)
        changes = {"peers": {_domain("jabberd2"): {"dialback": "with-tls"}}}
        both = [self.authority.issue(Names(dns=(INSIDE, ROOMS)))]
        servers[INSIDE] = servers[ROOMS] = Front(self.door, "prosody", both, changes).start(self.dns, self.authority)
        return servers

    def rows(self, domain: str) -> list[dict[str, Any]]:
        """Return the gateway's own streams to a peer."""
        rows = self.door.asked("streams", domain)
        return [row for row in rows if (row["leg"], row["direction"]) == ("federation", "outbound")]

    def far(self, kind: Callable[..., Raw], how: str) -> Raw:
        """Return a raw peer that is in the DNS."""
        domain = f"{how.replace(' ', '-')}.example"
        made = kind(self.lab, domain, self.authority.for_domain(domain), str(self.authority.file), how=how)
        self.dns.serve(domain, made.port)
        self.dns.reload()
        return made

    def left_out(self, domain: str, extension: str) -> None:
        """Check that operators are told of it, once."""
        expect([row["without"] for row in self.door.asked("peers", domain)], [[extension]], "s2sgw peers: disabled")
        lines = [line for line in self.door.logged().splitlines() if "extension disabled" in line and domain in line]
        check(len(lines) == 1 and f"extension={extension}" in lines[0], f"the log tells {lines}")

    def writes(self, local: str, domain: str, text: str) -> None:
        writing = self.inside[local].message(f"a@{domain}/x", text)
        asyncio.run_coroutine_threadsafe(writing, self.loop).result(5)


def _domain(kind: str) -> str:
    return f"{kind}.example"


def _sender(stanza: ET.Element) -> str:
    return (stanza.get("from") or "").partition("@")[2].partition("/")[0]


@asynccontextmanager
async def _hall(lab: Lab) -> AsyncIterator[Hall]:
    dns, authority, door = nameserver(lab), Authority(lab.directory("authority")), gateway(lab, INSIDE, ROOMS)
    made = Hall(lab, dns, authority, door, asyncio.get_running_loop())
    try:
        servers = await asyncio.to_thread(made.build)
        for domain in (INSIDE, ROOMS):
            made.inside[domain] = await login(servers[domain], "juliet", domain=domain)
        for kind in KINDS:
            made.outside[kind] = await login(servers[_domain(kind)], "romeo")
        yield made
    finally:
        for client in (*made.inside.values(), *made.outside.values()):
            await client.close()
        for door in made.doors:
            door.stop()


stage = Stage("two domains on one stream", _hall)


def _connections(port: int) -> int:
    """Return the TCP connections to a port of this machine, by the side that opened them."""
    lines = [line.split() for file in ("/proc/net/tcp", "/proc/net/tcp6") for line in Path(file).read_text().splitlines()[1:]]
    return sum(int(line[2].rpartition(":")[2], 16) == port and line[3] == "01" for line in lines)


async def _one_stream(at: Hall, kind: str) -> None:
    romeo = at.outside[kind]
    for local in (INSIDE, ROOMS):
        await talk(at.inside[local], romeo, f"first from {local}")
    for number in range(SOME):
        for local in (INSIDE, ROOMS):
            await at.inside[local].message(romeo.jid, f"{local} number {number}")
    seen = await collect(romeo, 2 * SOME, "", 30.0)
    texts = [got.findtext("{jabber:client}body") or "" for got in seen]
    for local in (INSIDE, ROOMS):
        ordered = [text for text in texts if text.startswith(f"{local} ")]
        expect(ordered, [f"{local} number {number}" for number in range(SOME)], f"messages from {local}")
    rows = await asyncio.to_thread(at.rows, _domain(kind))
    streams = 2 if kind in APART else 1
    expect(len(rows), streams, f"streams to {kind}, of {rows}")
    pairs = sorted(pair for row in rows for pair in row["pairs"])
    expect(pairs, [[local, _domain(kind)] for local in (INSIDE, ROOMS)], "their pairs")
    expect(_connections(at.ports[kind]), streams, "TCP connections")
    for local in (INSIDE, ROOMS):
        await talk(romeo, at.inside[local], f"back to {local}")
        await at.inside[local].ping(_domain(kind))
    refused = await asyncio.to_thread(at.door.asked, "refusals", _domain(kind))
    expect(refused, [], "refusals of what the server sends")
    step(f"{2 * SOME} messages of two domains, in order, on {streams} stream(s) by {rows[0]['method']}")


def _play(kind: str) -> Callable[[Hall], Awaitable[None]]:
    return lambda at: _one_stream(at, kind)


for _kind in KINDS:
    _streams = "a stream each" if _kind in APART else "one stream"
    stage.scenario(f"two domains to {_kind}: {_streams}, every message in order, and replies")(_play(_kind))


# --- peers that refuse it ---------------------------------------------------------------------------------------


def _stream_error(condition: str) -> str:
    return f"<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"


class Refusing(Far):
    """A peer that offers dialback, and answers a `<db:result/>` for a further pair as told: error, invalid, close, silence."""

    def __init__(self, *given: Any, how: str, **options: Any) -> None:
        super().__init__(*given, after=_DIALBACK_FEATURE, **options)
        self.how = how
        self.asked_for: list[str | None] = []

    def _heard(self, stream: Stream, element: ET.Element) -> None:
        if element.tag != f"{DIALBACK}result":
            super()._heard(stream, element)
            return
        self.asked_for.append(element.get("from"))
        addresses = f"from='{element.get('to')}' to='{element.get('from')}'"
        if self.how == "close":
            stream.close()
        elif self.how == "stream error":
            stream.send(_stream_error("not-authorized"))
        elif self.how == "invalid":
            stream.send(f"<db:result {addresses} type='invalid'/>")
        elif self.how == "error":
            condition = "<policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            stream.send(f"<db:result {addresses} type='error'><error type='modify'>{condition}</error></db:result>")


def _refused(at: Hall, how: str, patience: float) -> None:
    far = at.far(Refusing, how)
    domain = far.domain
    try:
        at.writes(INSIDE, domain, "first")
        far.wait(1)
        start = time.monotonic()
        at.writes(ROOMS, domain, "second")
        at.writes(INSIDE, domain, "third")
        far.wait(3, patience + 8)
        step(f"all arrived {time.monotonic() - start:.1f} s after the request")
        got = {each.findtext(f"{SERVER}body"): _sender(each) for each in far.stanzas}
        expect(got, {"first": INSIDE, "second": ROOMS, "third": INSIDE}, "what arrived")
        expect(far.asked_for, [ROOMS], "domains that requested the stream")
        time.sleep(0.2)
        expect([len(row["pairs"]) for row in at.rows(domain) if row["pairs"] != [[INSIDE, domain]]], [1], "a stream of its own")
        at.left_out(domain, "multiplexing")
    finally:
        far.close()


def _refusing(how: str, patience: float) -> Callable[[Hall], Awaitable[None]]:
    return lambda at: asyncio.to_thread(_refused, at, how, patience)


for _how, _patience in (("error", 0.0), ("invalid", 0.0), ("close", 0.0), ("stream error", 0.0), ("silence", 10.0)):
    _title = f"a peer that answers a further domain with {_how}: a separate stream, for a day"
    stage.scenario(_title)(_refusing(_how, _patience))


# --- peers that break on an extension ----------------------------------------------------------------------------------


class Breaking(Far):
    """A peer that offers `how`, an extension, and ends its stream when the extension is requested."""

    EXTENSIONS = {"management": ("urn:xmpp:sm:3", "sm", "enable"), "bidi": ("urn:xmpp:bidi", "bidi", "bidi")}

    def __init__(self, *given: Any, how: str, **options: Any) -> None:
        self.how, _, self.word = how.partition(" by ")
        namespace, name, asked = self.EXTENSIONS[self.how]
        self.asks = f"{{{namespace}}}{asked}"
        offer = f"<{name} xmlns='{namespace.replace('urn:xmpp:bidi', 'urn:xmpp:features:bidi')}'/>"
        super().__init__(*given, after=offer if self.how == "management" else "", **options)
        self.before = offer if self.how == "bidi" else ""
        self.broke = 0

    def _open(self, stream: Stream, features: str) -> None:
        super()._open(stream, features + self.before if "mechanisms" in features else features)

    def _hears(self, stream: Stream, *tags: str) -> None:
        super()._hears(stream, *tags, self.asks)
        if self.said[-1] == self.asks:
            self._break(stream)

    def _heard(self, stream: Stream, element: ET.Element) -> None:
        if element.tag == self.asks:
            self._break(stream)
        elif not element.tag.startswith("{urn:xmpp:sm:3}"):
            super()._heard(stream, element)

    def _break(self, stream: Stream) -> None:
        self.broke += 1
        if self.word == "an error":
            stream.send(_stream_error("unsupported-stanza-type"))
        elif self.word == "a closing tag":
            stream.send("</stream:stream>")
        raise PeerError("it breaks")


WAYS = ("management by an error", "management by a closing tag", "management by silence", "bidi by an error", "bidi by silence")


def _broken(at: Hall) -> None:
    peers = [at.far(Breaking, how) for how in WAYS]
    try:
        start = time.monotonic()
        for far in peers:
            at.writes(INSIDE, far.domain, "first")
        for far in peers:
            far.wait(1, 20)
        step(f"all arrived after {time.monotonic() - start:.1f} s, at the {sorted(far.connections for far in peers)}. connection")
        time.sleep(11)  # the stream without the extension must live for a while before the extension is blamed
        for far in peers:
            at.left_out(far.domain, far.how)
            at.writes(INSIDE, far.domain, "second")
        for far in peers:
            far.wait(2)
            expect([each.findtext(f"{SERVER}body") for each in far.stanzas], ["first", "second"], "what arrived")
            expect(far.broke, 1, "how often it broke")
    finally:
        for far in peers:
            far.close()


@stage.scenario("peers that end their streams because of an extension: messages arrive without it, for a day")
async def _breaking(at: Hall) -> None:
    await asyncio.to_thread(_broken, at)
