"""A real server behind the gateway and a real one outside: the conversation, through the gateway, by certificates."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.interop.conversation import conversation, talk
from tests.lab.scenario import Stage, check, step
from tests.lab.world import INSIDE, OUTSIDE, World, world


async def _by_certificates(made: World) -> None:
    await talk(made.ends.left, made.ends.right, "make sure that streams are up")
    await talk(made.ends.right, made.ends.left, "make sure that streams are up, back")
    for server, peer in ((made.outside, INSIDE), (made.behind, OUTSIDE)):
        log = server.logged()
        check(f"Accepting SASL EXTERNAL identity from {peer}" in log, f"{server.domain} did not accept {peer} by EXTERNAL")
        check(f"SASL EXTERNAL with {peer} succeeded" in log, f"{server.domain} was not accepted by EXTERNAL for {peer}")
        check("<db:" not in log.replace("xmlns:db", ""), f"{server.domain} saw dialback")
        step(f"{server.kind} {server.domain}: EXTERNAL in and out, no dialback")


async def _status(made: World) -> None:
    for verb in ("status", "streams"):
        text = await asyncio.to_thread(made.gateway.command, verb)
        answer = await asyncio.to_thread(made.gateway.asked, verb)
        check(text.strip() and answer, f"s2sgw {verb} prints nothing")
        step(f"s2sgw {verb}: {text.splitlines()[0][:100]}")
    check(OUTSIDE in str(answer), f"{OUTSIDE} is in no stream: {answer}")


async def _ends_in_order(made: World) -> None:
    status = await asyncio.to_thread(made.gateway.stop)
    check(status == 0, f"exit status {status} on SIGTERM:\n{made.gateway.logged()[-500:]}")
    check("Traceback" not in made.gateway.logged(), "a traceback in the gateway's log")


def _changes(behind: str, outside: str) -> dict[str, Any]:
    """Return the changes of s2sgw.toml for these servers. jabberd2 never uses SASL, so a peer is proven by dialback under TLS."""
    changes: dict[str, Any] = {}
    if outside == "jabberd2":
        changes["peers"] = {OUTSIDE: {"dialback": "with-tls"}}
    return changes


def stage(behind: str, outside: str) -> Stage:
    """Both arguments are kinds of server. ejabberd 23.01 crashes on an xmppAddr in a certificate, so the gateway's has none."""
    made = Stage(
        f"{behind} behind the gateway, {outside} outside",
        lambda lab: world(lab, behind, outside, _changes(behind, outside), xmpp_addr=outside != "ejabberd"),
    )
    label = f"{behind} | s2sgw | {outside}"
    conversation(made, label)
    if behind == outside == "prosody":
        made.scenario(f"{label}: every stream by certificates")(_by_certificates)
    made.scenario(f"{label}: s2sgw status and streams")(_status)
    made.scenario(f"{label}: stops normally on SIGTERM")(_ends_in_order)
    return made
