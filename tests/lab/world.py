"""A federation on loopback: a real server behind the gateway, another one outside, DNS, and certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.interop.conversation import Ends, login
from tests.lab.certificates import Authority, Certificate, Names
from tests.lab.gateway import Gateway, gateway
from tests.lab.lab import Lab
from tests.lab.nameserver import Nameserver, nameserver
from tests.lab.servers.launch import setup_name, starter
from tests.lab.servers.server import Server, Site

INSIDE, OUTSIDE = "inside.example", "outside.example"
Changes = Mapping[str, Any] | Callable[[Authority], Mapping[str, Any]] | None


@dataclass
class World:
    """`ends.left` is the client behind the gateway, `ends.right` the one outside."""

    lab: Lab
    dns: Nameserver
    authority: Authority
    gateway: Gateway
    ends: Ends
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def behind(self) -> Server:
        return self.ends.left_server

    @property
    def outside(self) -> Server:
        return self.ends.right_server


@dataclass(frozen=True)
class Front:
    """A gateway for a server of `kind`. `changes` go into s2sgw.toml (see `Gateway.configure`).

    `encrypted` False: jabberd2 as Debian ships it, without a certificate.
    """

    door: Gateway
    kind: str
    certificates: Sequence[Certificate]
    changes: Mapping[str, Any] | None = None
    encrypted: bool = True

    def start(self, dns: Nameserver, authority: Authority) -> Server:
        """Configure the gateway, start the server with the lines of `s2sgw setup`, then the gateway."""
        door, port = self.door, self.door.lab.port()
        domains = (door.domain, *door.also)
        door.configure(
            backend=f"127.0.0.1:{port}", dns=dns, anchors=authority.file, certificates=self.certificates,
            changes=self.changes,
        )
        near = starter(self.kind)(Site(
            door.lab, door.domain, door.view, authority.file, authority.issue(Names(dns=domains)), s2s_port=port,
            lines=door.command("setup", setup_name(self.kind)), also=door.also, encrypted=self.encrypted,
        ))
        door.start()
        return near


@asynccontextmanager
async def world(
    lab: Lab, behind: str, outside: str, changes: Changes = None, *, xmpp_addr: bool = True, encrypted: bool = True,
    start: Callable[[Site], Server] | None = None,
) -> AsyncIterator[World]:
    """Start the servers. `behind` and `outside` are kinds of server, the rest is as in `Front`. `changes` may be a function of the CA.

    `start` replaces the function that starts the server outside.
    """
    dns, authority, door = nameserver(lab), Authority(lab.directory("authority")), gateway(lab, INSIDE)
    ours = authority.issue(Names(dns=(INSIDE,), xmpp=(INSIDE,) if xmpp_addr else ()))
    dns.serve(INSIDE, door.port)
    dns.start()
    far = (start or starter(outside))(Site(
        lab, OUTSIDE, dns.port, authority.file, authority.for_domain(OUTSIDE), dialback_only=outside == "jabberd2",
    ))
    dns.serve(OUTSIDE, far.s2s_port)
    dns.reload()
    made_changes = changes(authority) if callable(changes) else changes
    near = Front(door, behind, [ours], made_changes, encrypted).start(dns, authority)
    made = World(lab, dns, authority, door, Ends(near, far, await login(near, "juliet"), await login(far, "romeo")))
    try:
        yield made
    finally:
        await made.ends.close()
        door.stop()
