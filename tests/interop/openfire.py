"""Openfire behind the gateway and outside: users and chat rooms. It is played if a distribution is present (`make interop OPENFIRE=FOLDER`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from tests.interop.conversation import Ends, conversation, login
from tests.lab.certificates import Authority, Names
from tests.lab.client import CLIENT, body
from tests.lab.gateway import gateway
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.scenario import Stage, expect, step
from tests.lab.servers import openfire, prosody
from tests.lab.servers.server import Server, Site
from tests.lab.world import INSIDE, OUTSIDE, Front, World

_MUC = "http://jabber.org/protocol/muc"


@asynccontextmanager
async def _world(lab: Lab, behind: str) -> AsyncIterator[World]:
    """Build Openfire and a Prosody, with the gateway before one of them. The chat rooms of each are a separate domain."""
    dns, authority = nameserver(lab), Authority(lab.directory("authority"))
    rooms = {domain: f"conference.{domain}" for domain in (INSIDE, OUTSIDE)}
    door = gateway(lab, INSIDE, rooms[INSIDE])
    for domain in (INSIDE, rooms[INSIDE]):
        dns.serve(domain, door.port)
    dns.start()
    kind = "prosody" if behind == "openfire" else "openfire"
    certificate = authority.issue(Names(dns=(OUTSIDE, rooms[OUTSIDE])))
    site = Site(lab, OUTSIDE, dns.port, authority.file, certificate)
    far = _outside(kind, site, door.port)
    for domain in (OUTSIDE, rooms[OUTSIDE]):
        dns.serve(domain, far.s2s_port)
    dns.reload()
    near = Front(door, behind, [authority.issue(Names(dns=(INSIDE, rooms[INSIDE])))]).start(dns, authority)
    ends = Ends(near, far, await login(near, "juliet"), await login(far, "romeo"))
    try:
        yield World(lab, dns, authority, door, ends)
    finally:
        await ends.close()
        door.stop()


def _outside(kind: str, site: Site, gateway_port: int) -> Server:
    if kind == "openfire":
        return openfire.start(site, {INSIDE: gateway_port, f"conference.{INSIDE}": gateway_port})
    return prosody.start(site)


async def _rooms(made: World, host: str) -> None:
    """Let a user of each server join a room of Openfire. Each gets the other's messages."""
    room = f"garden@conference.{host}"
    owner, guest = made.ends.ways()[0] if made.ends.left.domain == host else made.ends.ways()[1]
    for number, client in enumerate((owner, guest)):
        await client.presence(f"{room}/{client.jid.partition('@')[0]}", children=f"<x xmlns='{_MUC}'/>")
        await client.wait_presence(f"{room}/{client.jid.partition('@')[0]}", seconds=30.0)
        if number == 0:  # a new room is locked until its owner accepts the defaults
            await client.iq(room, "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>", "set")
        step(f"{client.jid} is in {room}")
    await owner.wait_presence(f"{room}/{guest.jid.partition('@')[0]}", seconds=30.0)
    for speaker, hearer in ((owner, guest), (guest, owner)):
        text = f"by {speaker.jid}"
        await speaker.send(f"<message to='{room}' type='groupchat'><body>{text}</body></message>")
        got = await hearer.wait(partial(_says, text), 30.0, f"what {speaker.jid} says")
        expect(got.get("from"), f"{room}/{speaker.jid.partition('@')[0]}", "from")


def _says(text: str, got: object) -> bool:
    return getattr(got, "tag", "") == f"{CLIENT}message" and body(got) == text  # type: ignore[arg-type]


async def _status(made: World) -> None:
    rows = await asyncio.to_thread(made.gateway.asked, "streams")
    for row in rows:
        step(f"{row['leg']} {row['direction']}: {row['peer']} by {row['method']}")
    expect({row["method"] for row in rows if row["leg"] == "federation"}, {"EXTERNAL"}, "how streams with peers were proven")


def stage(behind: str) -> Stage:
    """`behind` is "openfire", or "prosody" for Openfire outside."""
    host = INSIDE if behind == "openfire" else OUTSIDE
    place = "behind the gateway, Prosody outside" if behind == "openfire" else "outside, Prosody behind the gateway"
    made = Stage(f"Openfire {place}", lambda lab: _world(lab, behind))
    conversation(made, f"Openfire {'behind' if behind == 'openfire' else 'outside'}")
    made.scenario(f"chat rooms at conference.{host}: both users join, and get each other's messages", seconds=90.0)(lambda at: _rooms(at, host))
    made.scenario("every stream with a peer by EXTERNAL")(_status)
    return made


def stages() -> list[Stage]:
    """Return the stages that can be played here."""
    return [] if openfire.unavailable() else [stage("openfire"), stage("prosody")]


def skipped() -> str:
    """Return the stages that are not played here, and why; "" if all are played."""
    reason = openfire.unavailable()
    return f"skipped: Openfire behind the gateway and outside: {reason}" if reason else ""
