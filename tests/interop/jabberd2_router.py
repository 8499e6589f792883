"""jabberd2 behind the gateway by its router, without its own s2s: the conversation, stanzas that break it, and restarts."""

from __future__ import annotations

import asyncio
import secrets
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from xml.sax.saxutils import quoteattr

from tests.interop.conversation import Ends, conversation, login, talk
from tests.lab.certificates import Authority, Names
from tests.lab.client import Client, body
from tests.lab.gateway import gateway
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.servers import prosody
from tests.lab.servers.jabberd2 import Routed
from tests.lab.servers.server import Site
from tests.lab.toml import dumps
from tests.lab.world import INSIDE, OUTSIDE, World

#: More than the 65,535 bytes that a stock s2s, or c2s, of jabberd2 accepts.
_LARGE = "L" * 200_000


@asynccontextmanager
async def _world(lab: Lab) -> AsyncIterator[World]:
    dns, authority, door = nameserver(lab), Authority(lab.directory("authority")), gateway(lab, INSIDE)
    dns.serve(INSIDE, door.port)
    dns.start()
    far = prosody.start(Site(lab, OUTSIDE, dns.port, authority.file, authority.for_domain(OUTSIDE)))
    dns.serve(OUTSIDE, far.s2s_port)
    dns.reload()
    router, secret = lab.port(), secrets.token_urlsafe(12)
    file = door.folder / "router.secret"
    file.write_text(secret + "\n")
    file.chmod(0o600)
    door.configure(backend="", dns=dns, anchors=authority.file, certificates=[authority.for_domain(INSIDE)], changes={
        "backend": [{"kind": "jabberd2-router", "address": f"127.0.0.1:{router}", "secret_file": "router.secret"}],
    })
    site = Site(lab, INSIDE, 0, authority.file, authority.issue(Names(dns=(INSIDE,))), lines=door.command("setup", "jabberd2"))
    near = Routed(site, router, secret)
    near.start()
    lab.wait_for_port(door.begin(), door.port)
    await _bound(near)
    made = World(lab, dns, authority, door, Ends(near.server, far, await login(near.server, "juliet"), await login(far, "romeo")))
    made.notes["near"] = near
    try:
        yield made
    finally:
        await made.ends.close()
        door.stop()


async def _bound(near: Routed, times: int = 1) -> None:
    """Wait until the router has made the gateway its default route this many times."""
    async with asyncio.timeout(30):
        while near.server.logged().count("[s2s] set as default route") < times:
            await asyncio.sleep(0.05)


async def _online(near: Routed, name: str, times: int) -> None:
    """Wait until a component has told the router this many times that it serves `name`."""
    async with asyncio.timeout(30):
        while near.server.logged().count(f"[{name}] online") < times:
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)


_FORGED = (
    "a'/></message></route><route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' to='{domain}' from='s2s'>"
    "<message xmlns='jabber:client' from='admin@{domain}' to='{jid}'><body>forged</body><x xmlns='urn:x"
)


async def unfit(sender: Client, receiver: Client) -> None:
    """Send stanzas to `receiver`, at a jabberd2, that it would break on or misread; check that each is bounced."""
    forged = _FORGED.format(domain=receiver.domain, jid=receiver.jid)
    names = {
        "a quote in a namespace": "a' evil='1",
        "a forged message": forged,
        "a query in a namespace": "http://example/?a=1&b=2",
        "a namespace of 1,000 bytes": "urn:" + "x" * 996,
        "a namespace of jabberd2's own": "http://jabberd.jabberstudio.org/ns/session/1.0",
    }
    await talk(sender, receiver, "make sure that the stream is up")
    for what, namespace in names.items():
        ident = await sender.message(receiver.jid, what, f"<x xmlns={quoteattr(namespace, {chr(39): '&apos;'})}/>")
        condition, text = await sender.wait_error(ident)
        expect(condition, "policy-violation", what)
        check("unfit" in text, f"{what}: {text!r}")
        step(f"{what}: {condition}, {text!r}")
    await talk(sender, receiver, "no effect")
    await talk(receiver, sender, "no effect, back")
    came = [one for one in receiver.inbox if (body(one) or "") in (*names, "forged")]
    expect(len(came), 0, "messages that arrived nevertheless")


stage = Stage("jabberd2 behind the gateway by its router, Prosody outside", _world)
_LABEL = "jabberd2's router | s2sgw | prosody"
conversation(stage, _LABEL)


@stage.scenario(f"{_LABEL}: no s2s of jabberd2 runs, and s2sgw streams shows the router")
async def _streams(made: World) -> None:
    rows = made.gateway.asked("streams")
    found = {(row["leg"], row["direction"], row["method"]) for row in rows}
    check(("backend", "outbound", "router") in found and ("backend", "inbound", "router") in found, f"streams: {found}")
    check("s2s" not in made.notes["near"].parts, "an s2s of jabberd2 runs")
    waiting = [row for row in made.gateway.asked("lanes") if row["stanzas"]]
    check(not waiting, f"not acknowledged: {waiting}")
    step(made.gateway.command("streams").splitlines()[0])


@stage.scenario(f"{_LABEL}: a stanza of {len(_LARGE):,} bytes arrives, which a stock s2s would refuse")
async def _large(made: World) -> None:
    juliet, romeo = made.ends.left, made.ends.right
    await romeo.message(juliet.jid, _LARGE)
    got = await juliet.wait_message(_LARGE)
    step(f"{len(body(got) or ''):,} bytes to jabberd2")
    await talk(romeo, juliet, "behind the large one")


@stage.scenario(f"{_LABEL}: stanzas that break jabberd2 are bounced with the reason, without another effect")
async def _unfit(made: World) -> None:
    await unfit(made.ends.right, made.ends.left)
    log = made.behind.logged()
    check("XML parse error" not in log and "offline" not in log, f"the router has logged an error:\n{log[-800:]}")


@stage.scenario(f"{_LABEL}: an unknown user, and a domain without a server")
async def _nobody(made: World) -> None:
    juliet, romeo = made.ends.left, made.ends.right
    expect((await romeo.wait_error(await romeo.message(f"nobody@{INSIDE}", "anybody?")))[0], "service-unavailable", "condition")
    condition, text = await juliet.wait_error(await juliet.message("somebody@nowhere.example", "anybody?"))
    step(f"nowhere.example: {condition}, {text!r}")
    expect(condition, "remote-server-not-found", "condition")


async def _flow(sender: Client, to: str, prefix: str, seconds: float) -> list[str]:
    """Send messages at a steady pace, slow enough for a session manager that syncs its disk for each; return them."""
    sent: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sent.append(f"{prefix}{len(sent)}")
        await sender.message(to, sent[-1])
        await asyncio.sleep(0.05)
    return sent


@stage.scenario(f"{_LABEL}: the router restarts under traffic: all messages arrive, in order, when it is back", 90.0)
async def _restart(made: World) -> None:
    near, romeo = made.notes["near"], made.ends.right
    await made.ends.left.close()  # jabberd2 itself loses the stanzas of a session that ended with the router
    await asyncio.sleep(1.0)
    flowing = asyncio.create_task(_flow(romeo, f"juliet@{INSIDE}", "across ", 4.0))
    await asyncio.sleep(1.0)
    await asyncio.to_thread(near.stop, "router")
    step("the router is stopped")
    await asyncio.sleep(1.0)
    await asyncio.to_thread(near.start, "router")
    await _bound(near, 2)
    step("the router is back, and the gateway is its default route again")
    await _online(near, "c2s", 2)
    await _online(near, INSIDE, 2)
    before, made.ends.left = made.ends.left, await _again(made)
    await _all(before, made.ends.left, await flowing, "across ")


@stage.scenario(f"{_LABEL}: the session manager is killed under traffic: all messages arrive when it is back", 90.0)
async def _killed(made: World) -> None:
    near, romeo = made.notes["near"], made.ends.right
    flowing = asyncio.create_task(_flow(romeo, f"juliet@{INSIDE}", "past ", 5.0))
    await asyncio.sleep(1.0)
    waiting = sum(row["stanzas"] for row in await asyncio.to_thread(made.gateway.asked, "lanes"))
    check(waiting < 20, f"{waiting} stanzas are not acknowledged")
    times = near.server.logged().count(f"[{INSIDE}] online")
    await asyncio.to_thread(near.stop, "sm", kill=True)
    await asyncio.sleep(1.0)
    await asyncio.to_thread(near.start, "sm")
    await _online(near, INSIDE, times + 1)
    before, made.ends.left = made.ends.left, await _again(made)
    await _all(before, made.ends.left, await flowing, "past ")


async def _again(made: World) -> Client:
    """Log Juliet in again, because her old stream ended with the broken part."""
    await made.ends.left.close()
    return await login(made.notes["near"].server, "juliet")


async def _all(before: Client, after: Client, sent: list[str], prefix: str) -> None:
    """Check that each message arrived at least once, and that the first copies are in the order of sending."""
    await _until_last((before, after), sent[-1])
    texts = [body(one) or "" for client in (before, after) for one in client.inbox]
    seen = list(dict.fromkeys(text for text in texts if text.startswith(prefix)))
    expect(len(set(sent) - set(seen)), 0, f"of {len(sent)} messages lost, such as {sorted(set(sent) - set(seen))[:3]}")
    expect(seen == sent, True, "in order")
    again = sum(text.startswith(prefix) for text in texts) - len(seen)
    step(f"{len(sent)} messages, in order, {again} of them twice")


async def _until_last(receivers: tuple[Client, ...], last: str) -> None:
    async with asyncio.timeout(40):
        while not any(body(one) == last for receiver in receivers for one in receiver.inbox):
            await asyncio.sleep(0.1)


@stage.scenario(f"{_LABEL}: a wrong secret is reported, and the connection returns when the secret is right", 60.0)
async def _secret(made: World) -> None:
    near, file = made.notes["near"], made.gateway.folder / "router.secret"
    right = file.read_text()
    file.write_text("wrong\n")
    times = near.server.logged().count("[s2s] set as default route")
    parts = {name: near.server.logged().count(f"[{name}] online") for name in ("c2s", INSIDE)}
    near.stop("router")
    near.start("router")
    async with asyncio.timeout(20):
        while not any(row["cause"] == "sasl-failed" for row in await asyncio.to_thread(made.gateway.asked, "refusals")):
            await asyncio.sleep(0.2)
    row = next(row for row in made.gateway.asked("refusals") if row["cause"] == "sasl-failed")
    step(row["detail"])
    file.write_text(right)
    await _bound(near, times + 1)
    for name, number in parts.items():
        await _online(near, name, number + 1)
    made.ends.left = await _again(made)


@stage.scenario(f"{_LABEL}: a reload removes the router, the next one adds it again: all messages arrive", 90.0)
async def _reloaded(made: World) -> None:
    near: Routed = made.notes["near"]
    gateway, before = made.gateway, made.gateway.config.read_text()
    bound, account = near.server.logged().count("[s2s] set as default route"), made.ends.left.jid
    document = tomllib.loads(before)
    document["backend"] = [
        {"kind": "s2s", "address": f"127.0.0.1:{made.lab.port()}", "listen": f"tcp:{gateway.inner}:interface=127.0.0.1"},
    ]
    await made.ends.right.message(account, "before the router is removed")
    for text in (dumps(document), before):
        gateway.config.write_text(text)
        answer = await asyncio.to_thread(gateway.asked, "reload")
        check(answer["ok"], str(answer["complaints"]))
        if text is not before:
            await made.ends.right.message(account, "while a server that is away has the domain")
            await asyncio.sleep(1.0)
            rows = await asyncio.to_thread(gateway.asked, "streams", "--all")
            check(not [row for row in rows if row["method"] == "router"], f"the router is connected: {rows}")
    await _bound(near, bound + 1)
    for text in ("before the router is removed", "while a server that is away has the domain"):
        await made.ends.left.wait_message(text, 30.0)
    await talk(made.ends.left, made.ends.right, "from jabberd2 after the reloads")
    await talk(made.ends.right, made.ends.left, "to jabberd2 after the reloads")


@stage.scenario(f"{_LABEL}: stops normally on SIGTERM, and tells the router")
async def _ends(made: World) -> None:
    status = await asyncio.to_thread(made.gateway.stop)
    check(status == 0, f"exit status {status} on SIGTERM:\n{made.gateway.logged()[-500:]}")
    check("Traceback" not in made.gateway.logged(), f"a traceback in the gateway's log:\n{made.gateway.logged()[-2000:]}")
    check("[s2s] default route offline" in made.behind.logged(), "the router was not told")


