"""The lab proves itself: two real servers talk directly, without the gateway, in the ways the gateway is tested later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from interop.certificates import Authority
from interop.conversation import Ends, conversation, login
from interop.launch import START
from interop.nameserver import nameserver
from interop.place import Lab
from interop.scenario import Stage
from interop.server import Site


@asynccontextmanager
async def _direct(lab: Lab, left: str, right: str, encrypted: bool) -> AsyncIterator[Ends]:
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
    ends = Ends(servers[0], servers[1], await login(servers[0], "juliet"), await login(servers[1], "romeo"))
    try:
        yield ends
    finally:
        await ends.close()


def stage(left: str, right: str, *, encrypted: bool = True) -> Stage:
    """`left` and `right` are keys of START."""
    how = "" if encrypted else " without TLS"
    made = Stage(f"{left} and {right} directly{how} (the lab proves itself)", lambda lab: _direct(lab, left, right, encrypted))
    conversation(made, f"direct {left}/{right}{how}")
    return made
