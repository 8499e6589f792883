"""A test of the lab: two real servers talk directly, without the gateway, in the ways that the gateway is tested later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.interop.conversation import Ends, conversation, login
from tests.lab.certificates import Authority, Names
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.peer import authenticated
from tests.lab.scenario import Stage, expect
from tests.lab.servers.launch import START
from tests.lab.servers.server import Site


@dataclass
class Direct(Ends):
    """Two servers without a gateway, and the CA of their certificates."""

    authority: Authority


@asynccontextmanager
async def _direct(lab: Lab, left: str, right: str, encrypted: bool) -> AsyncIterator[Direct]:
    names, authority = nameserver(lab), Authority(lab.directory("authority"))
    servers = []
    names.start()
    for kind, domain in ((left, "left.example"), (right, "right.example")):
        dialback = "jabberd2" in (left, right)
        site = Site(
            lab, domain, names.port, authority.file, authority.for_domain(domain), dialback_only=dialback,
            encrypted=encrypted,
        )
        servers.append(START[kind](site))
        names.serve(domain, servers[-1].s2s_port)
    names.reload()
    clients = [await login(servers[0], "juliet"), await login(servers[1], "romeo")]
    ends = Direct(servers[0], servers[1], clients[0], clients[1], authority)
    try:
        yield ends
    finally:
        await ends.close()


async def _raw(world: Direct) -> None:
    certificate = world.authority.issue(Names(dns=("raw.example",)))
    stream = await asyncio.to_thread(authenticated, world.left_server.s2s_port, "left.example", "raw.example", certificate)
    stream.send(f"<message from='a@raw.example' to='{world.left.jid}'><body>from the raw peer</body></message>")
    got = await world.left.wait_message("from the raw peer")
    expect(got.get("from"), "a@raw.example", "from")
    stream.send("<!-- x -->")
    expect((await asyncio.to_thread(stream.end))[0] != "", True, "a comment ends the stream with an error")


def stage(left: str, right: str, *, encrypted: bool = True) -> Stage:
    """`left` and `right` are keys of START."""
    how = "" if encrypted else " without TLS"
    made = Stage(f"{left} and {right} directly{how} (test of the lab)", lambda lab: _direct(lab, left, right, encrypted))
    if left == right == "prosody":
        made.scenario("the raw peer federates with a real server")(_raw)
    conversation(made, f"direct {left}/{right}{how}")
    return made
