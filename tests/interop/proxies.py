"""Sites that reach the outside only through a proxy: every peer by HTTP CONNECT with local look-ups, and every peer by SOCKS5."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.interop.conversation import Ends, talk
from tests.lab.http_proxy import HTTPProxy
from tests.lab.lab import Lab
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.socks import SocksProxy
from tests.lab.world import OUTSIDE, World, world

USER, PASSWORD = "gateway", "pass word"
MISSING = "missing.example"
#: With these settings the local stanzas need a stream that the gateway opens.
ONE_WAY = {"bidi": False}


@dataclass
class ThroughHTTP:
    """A world, and the proxy between the gateway and its peers; fits `HasEnds`."""

    made: World
    proxy: HTTPProxy

    @property
    def ends(self) -> Ends:
        return self.made.ends


@dataclass
class ThroughSocks:
    """A world as `ThroughHTTP`, with a SOCKS5 proxy."""

    made: World
    proxy: SocksProxy

    @property
    def ends(self) -> Ends:
        return self.made.ends


@asynccontextmanager
async def _by_http(lab: Lab) -> AsyncIterator[ThroughHTTP]:
    proxy = HTTPProxy(lab.port(), USER, PASSWORD)
    place = f"http://{USER}:pass%20word@127.0.0.1:{proxy.port}"
    wrong = f"http://{USER}:wrong@127.0.0.1:{proxy.port}"
    peers = {"default": {"features": ONE_WAY, "proxy": place, "proxy_lookup": "local"}, "wrong.example": {"proxy": wrong, "proxy_lookup": "remote"}}
    try:
        async with world(lab, "prosody", "prosody", {"queue": {"hold": "3s"}, "peers": peers}) as made:
            yield ThroughHTTP(made, proxy)
    finally:
        proxy.close()


@asynccontextmanager
async def _by_socks(lab: Lab) -> AsyncIterator[ThroughSocks]:
    proxy = SocksProxy(lab.port(), {})
    peers = {"default": {"features": ONE_WAY, "proxy": f"socks5://127.0.0.1:{proxy.port}"}}
    try:
        async with world(lab, "prosody", "prosody", {"queue": {"hold": "3s"}, "peers": peers}) as made:
            proxy.names[OUTSIDE] = made.ends.right_server.s2s_port
            yield ThroughSocks(made, proxy)
    finally:
        proxy.close()


http = Stage("an HTTP proxy for all peers, looked up by the gateway", _by_http)
socks = Stage("a SOCKS5 proxy for all peers, which looks them up", _by_socks)


@http.scenario("a peer found by SRV is reached through the proxy, which gets the target's name and the login, and replies arrive")
async def _names(at: ThroughHTTP) -> None:
    for sender, receiver in at.ends.ways():
        await talk(sender, receiver, f"by CONNECT, {sender.jid}")
    expect(set(at.proxy.asked), {f"localhost:{at.ends.right_server.s2s_port}"}, "requests to the proxy")
    step(f"requested {at.proxy.asked[0]}")


@http.scenario("a domain that does not exist is not requested from the proxy")
async def _missing(at: ThroughHTTP) -> None:
    before = len(at.proxy.asked)
    ident = await at.ends.left.message(f"a@{MISSING}", "anybody?")
    await at.ends.left.wait(lambda got: got.get("id") == ident and got.get("type") == "error", 10, "a bounce")
    expect(at.proxy.asked[before:], [], "requests to the proxy")


@http.scenario("a proxy that refuses the login is recorded, and the message is bounced")
async def _login(at: ThroughHTTP) -> None:
    ident = await at.ends.left.message("a@wrong.example", "anybody?")
    await at.ends.left.wait(lambda got: got.get("id") == ident and got.get("type") == "error", 15, "a bounce")
    check(at.proxy.refused > 0, "the proxy was not asked")
    rows = await asyncio.to_thread(at.made.gateway.asked, "refusals", "wrong.example")
    check(any("status 407" in str(row) for row in rows), f"the login is not mentioned: {rows}")


@socks.scenario("`[peers.default] proxy` applies to every peer: by name, through the proxy, in both directions")
async def _all(at: ThroughSocks) -> None:
    for sender, receiver in at.ends.ways():
        await talk(sender, receiver, f"by SOCKS, {sender.jid}")
    expect(set(at.proxy.asked), {(OUTSIDE, 5269)}, "requests to the proxy")
