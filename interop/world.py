"""A whole federation on loopback: a real server behind the gateway, another outside, DNS, and certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from interop.certificates import Authority, Names
from interop.conversation import Ends, login
from interop.gateway import Gateway, gateway
from interop.launch import START
from interop.nameserver import Nameserver, nameserver
from interop.place import Lab
from interop.server import Server, Site

INSIDE, OUTSIDE = "inside.example", "outside.example"


@dataclass
class World:
    """Fits `HasEnds`: `ends.left` is the client behind the gateway, `ends.right` the one outside."""

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


@asynccontextmanager
async def world(
    lab: Lab, behind: str, outside: str, changes: Mapping[str, Any] | None = None, *, xmpp_addr: bool = True,
) -> AsyncIterator[World]:
    """`behind` and `outside` are kinds of server; `changes` go into s2sgw.toml (see `Gateway.configure`)."""
    dns, authority, door = nameserver(lab), Authority(lab.directory("authority")), gateway(lab, INSIDE)
    ours = authority.issue(Names(dns=(INSIDE,), xmpp=(INSIDE,) if xmpp_addr else ()))
    dns.serve(INSIDE, door.port)
    dns.start()
    far = START[outside](Site(
        lab, OUTSIDE, dns.port, authority.file, authority.for_domain(OUTSIDE), dialback_only=outside == "jabberd2",
    ))
    dns.serve(OUTSIDE, far.s2s_port)
    dns.reload()
    near_port = lab.port()
    door.configure(
        backend=f"127.0.0.1:{near_port}", dns=dns, anchors=authority.file, certificates=[ours], changes=changes,
    )
    lines = door.command("setup", behind)
    site = Site(lab, INSIDE, door.view, authority.file, authority.for_domain(INSIDE), lines=lines, s2s_port=near_port)
    near = START[behind](site)
    door.start()
    made = World(lab, dns, authority, door, Ends(near, far, await login(near, "juliet"), await login(far, "romeo")))
    try:
        yield made
    finally:
        await made.ends.close()
        door.stop()
