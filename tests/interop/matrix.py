"""The matrix: each server behind the gateway, with every server outside, by every way that the other server supports.

A cell is a pair of separate domains, because only the DNS decides how one server reaches another: `v6d.inside.example` and
`v6d.prosody.example` have only an SRV record for direct TLS at a name that has only an IPv6 address. A stanza that arrives
there came by that way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.interop.conversation import Ends, collect, conversation, login, talk
from tests.lab.certificates import Authority, Names
from tests.lab.client import Client, ClientError
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import HAS_IPV6, Lab
from tests.lab.nameserver import Nameserver, nameserver
from tests.lab.scenario import NOTES, Failed, Scenario, Stage, check, expect, expect_in_order, note, step
from tests.lab.servers.launch import DEBIAN_12, DEBIAN_13, START
from tests.lab.servers.server import Server, Site
from tests.lab.world import Front

#: Messages of a cell, in each direction.
SOME = 100
GATEWAY = "s2sgw"


def outside(behind: str) -> tuple[str, ...]:
    """Return the servers outside of a gateway before `behind`: the servers of the same Debian, and another gateway."""
    return (*(DEBIAN_13 if behind in DEBIAN_13 else DEBIAN_12), GATEWAY)




@dataclass(frozen=True)
class Way:
    """The way from one server to another: the first label of such domains, a name with one address, TLS."""

    label: str
    title: str
    host: str
    address: str
    direct: bool


WAYS = tuple(way for way in (
    Way("v4", "IPv4, STARTTLS", "four.example.", "127.0.0.1", False),
    Way("v6", "IPv6, STARTTLS", "six.example.", "::1", False),
    Way("v4d", "IPv4, direct TLS", "four.example.", "127.0.0.1", True),
    Way("v6d", "IPv6, direct TLS", "six.example.", "::1", True),
) if HAS_IPV6 or way.address != "::1")
#: Seconds until ejabberd tries a domain again.
_RETRY_SECONDS = 3.0
#: Attempts for a pair of servers of which ejabberd does not find the domain again and again. Each takes 15 s.
ATTEMPTS = 4
#: Servers without direct TLS.
NO_DIRECT = ("jabberd2",)


def can(kind: str, way: Way) -> bool:
    """Return True if a server of `kind` reaches others, and is reached, by `way`."""
    return not (way.direct and kind in NO_DIRECT)


def _domain(way: Way, kind: str) -> str:
    return f"{way.label}.{kind}.example"


@dataclass
class Matrix:
    """One gateway with one server behind it, and all servers outside. `clients` are by domain. One cell of it fits `HasEnds`."""

    lab: Lab
    dns: Nameserver
    authority: Authority
    behind: str
    doors: list[Gateway] = field(default_factory=list)
    servers: dict[str, Server] = field(default_factory=dict)  # by domain
    clients: dict[str, Client] = field(default_factory=dict)

    def cell(self, kind: str, way: Way) -> Ends:
        near, far = _domain(way, "inside"), _domain(way, kind)
        return Ends(self.servers[near], self.servers[far], self.clients[near], self.clients[far])

    def serve(self, way: Way, domain: str, starttls: int, direct: int) -> None:
        self.dns.serve(domain, 0 if way.direct else starttls, host=way.host, direct=direct if way.direct else 0)

    def door(self, kind: str) -> Gateway:
        """Return a gateway that is in the DNS."""
        domains = [_domain(way, kind) for way in WAYS]
        door = gateway(self.lab, *domains)
        for way, domain in zip(WAYS, domains, strict=True):
            self.serve(way, domain, door.port, door.direct)
        self.doors.append(door)
        return door

    def front(self, door: Gateway, kind: str) -> None:
        """Start `door` and a server of `kind` behind it. ejabberd 23.01 outside crashes on an xmppAddr, so the certificates have none."""
        domains = (door.domain, *door.also)
        peers: dict[str, Any] = {"*.jabberd2.example": {"dialback": "with-tls"}}
        peers |= {_domain(way, "inside"): {"features": {"bidi": False}} for way in WAYS[1:3] if door is self.doors[1]}
        changes = {"peers": peers}
        server = Front(door, kind, [self.authority.issue(Names(dns=domains))], changes).start(self.dns, self.authority)
        self.servers.update(dict.fromkeys(domains, server))

    def start_outside(self, kind: str, ways: tuple[Way, ...]) -> None:
        """Start one server of `kind` that hosts the domains of all these ways."""
        domains = [_domain(way, kind) for way in ways]
        server = START[kind](Site(
            self.lab, domains[0], self.dns.port, self.authority.file, self.authority.issue(Names(dns=domains)),
            also=domains[1:], dialback_only=kind == "jabberd2",
            s2s_addresses=list(dict.fromkeys(way.address for way in ways)),
        ))
        for way, domain in zip(ways, domains, strict=True):
            self.servers[domain] = server
            self.serve(way, domain, server.s2s_port, server.direct_port)

    def build(self) -> None:
        """Build the servers outside, then the gateways, whose servers look the others up in the DNS."""
        inner, outer = self.door("inside"), self.door(GATEWAY)
        self.dns.start()
        for kind in outside(self.behind)[:-1]:
            ways = tuple(way for way in WAYS if can(kind, way))
            for group in [(way,) for way in ways] if kind == "jabberd2" else [ways]:  # jabberd2 listens at one address
                self.start_outside(kind, group)
        self.dns.reload()
        self.front(outer, "prosody13" if self.behind in DEBIAN_13 else "prosody")
        self.front(inner, self.behind)

    async def login(self) -> None:
        for domain, server in self.servers.items():
            user = "juliet" if ".inside." in domain else "romeo"
            self.clients[domain] = await login(server, user, domain=domain)

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()
        for door in self.doors:
            door.stop()


@asynccontextmanager
async def matrix(lab: Lab, behind: str) -> AsyncIterator[Matrix]:
    made = Matrix(lab, nameserver(lab), Authority(lab.directory("authority")), behind)
    try:
        await asyncio.to_thread(made.build)
        await made.login()
        yield made
    finally:
        await made.close()


async def _flow(sender: Client, receiver: Client) -> None:
    """Check a message, then `SOME` messages in order, a ping, and presence."""
    await talk(sender, receiver, f"hello {receiver.jid}")
    texts = [f"{sender.jid} {number}" for number in range(SOME)]
    for text in texts:
        await sender.message(receiver.jid, text)
    seen = await collect(receiver, SOME, f"{sender.jid} ")
    expect_in_order([one.findtext("{jabber:client}body") for one in seen], texts, f"messages from {sender.jid} in order")
    expect((await sender.ping(receiver.jid)).get("type"), "result", f"ping to {receiver.jid}")
    await sender.presence(receiver.jid)
    await receiver.wait_presence(sender.jid)
    step(f"{sender.jid} -> {receiver.jid}")


async def _cell(made: Matrix, kind: str, way: Way) -> None:
    row = {"behind": made.behind, "outside": kind, "way": way.title}
    note(**row, passed=False)
    ends = made.cell(kind, way)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await _flow(ends.left, ends.right)
            await _flow(ends.right, ends.left)
            break
        except (ClientError, Failed):
            if attempt == ATTEMPTS or not await _gave_up_on_dns(made, kind, way, attempt):
                raise
            step(f"ejabberd took {_domain(way, 'inside')} for a domain that does not exist: trying again")
            await asyncio.sleep(_RETRY_SECONDS)
    note(**row, passed=True)


async def _gave_up_on_dns(made: Matrix, kind: str, way: Way, times: int) -> bool:
    """Return whether ejabberd outside did not find an existing domain, so many times by now.

    ejabberd 24.12 looks up `_xmpps-server` and `_xmpp-server` at once. If only the first exists, the answer to the second
    sometimes counts for both. It then does not try the domain for a second (`s2s_max_retry_delay`).
    """
    if not kind.startswith("ejabberd"):
        return False
    text, server = f"-> {_domain(way, 'inside')}: Connection failed: non-existing domain", made.servers[_domain(way, kind)]
    await asyncio.to_thread(server.logs, text)
    return server.logged().count(text) >= times


async def _proofs(made: Matrix) -> None:
    """Return the methods that proved each side, from `s2sgw streams`."""
    rows = await asyncio.to_thread(made.doors[0].asked, "streams")
    methods = {
        (row["local"], row["peer"], row["direction"]): row["method"] for row in rows
        if row["leg"] == "federation" and row["method"]
    }
    played = {(row["outside"], row["way"]) for row in NOTES if row.get("behind") == made.behind and row.get("passed")}
    for kind in outside(made.behind):
        for way in (way for way in WAYS if (kind, way.title) in played):
            near, far = _domain(way, "inside"), _domain(way, kind)
            found = {direction: methods.get((near, far, direction), "") for direction in ("outbound", "inbound")}
            note(behind=made.behind, outside=kind, way=way.title, **found)
            check(any(found.values()), f"there is no stream between {near} and {far}")
    step(f"{len(methods)} streams of the federation leg")


async def _ends(made: Matrix) -> None:
    for door in made.doors:
        status = await asyncio.to_thread(door.stop)
        check(status == 0, f"exit status {status} on SIGTERM:\n{door.logged()[-500:]}")
        check("Traceback" not in door.logged(), "a traceback in the gateway's log")


def _play(kind: str, way: Way) -> Any:
    return lambda made: _cell(made, kind, way)


def _first(kind: str) -> Any:
    return lambda made: made.cell(kind, WAYS[0])


def stage(behind: str) -> Stage:
    """Return the cells of one server behind the gateway, with the whole conversation on the first way to each."""
    made = Stage(f"{behind} behind the gateway: the matrix", lambda lab: matrix(lab, behind))
    for kind in outside(behind):
        conversation(made, f"{behind} | s2sgw | {kind}", _first(kind))
        for way in WAYS:
            if can(kind, way):
                made.scenarios.append(Scenario(f"{behind} | s2sgw | {kind}: {way.title}, both directions", _play(kind, way)))
    made.scenario(f"{behind} behind: the proof of each side")(_proofs)
    made.scenario(f"{behind} behind: the gateways stop normally on SIGTERM")(_ends)
    return made


def _cell_text(rows: list[dict[str, Any]]) -> str:
    """Return one cell of the table: the methods by which the gateway was authenticated there, and authenticated the other side."""
    known: dict[str, Any] = {}
    for row in rows:
        known.update(row)
    if "passed" not in known:
        return "–"
    if not known["passed"]:
        return "**failed**"
    out, into = known.get("outbound", ""), known.get("inbound", "")
    return f"yes, {out}" if out == into else f"yes, {out or 'bidi'} out, {into or 'bidi'} in"


def table(notes: list[dict[str, Any]]) -> list[str]:
    """Return the matrix in Markdown, from the notes of a run: a row for each two servers, a column for each way."""
    lines = [
        f"| behind | outside | {' | '.join(way.title for way in WAYS)} |", "|---|---|" + "---|" * len(WAYS),
    ]
    for behind in START:
        for other in outside(behind):
            cells = [
                _cell_text([
                    row for row in notes
                    if (row.get("behind"), row.get("outside"), row.get("way")) == (behind, other, way.title)
                ]) for way in WAYS
            ]
            lines.append(f"| {behind} | {other} | {' | '.join(cells)} |")
    return lines
