"""The conversation of two users on two servers: the same scenarios on every stage with two real servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tests.lab.client import CLIENT, Client, Element, body, error
from tests.lab.scenario import SCENARIO_SECONDS, Stage, check, expect, expect_in_order, step
from tests.lab.servers.server import PASSWORD, Server

#: Messages of the ordered run, in each direction.
MANY = 1000
_ROSTER = "jabber:iq:roster"


@dataclass
class Ends:
    """Two servers with a logged-in client on each."""

    left_server: Server
    right_server: Server
    left: Client
    right: Client

    def ways(self) -> tuple[tuple[Client, Client], tuple[Client, Client]]:
        return (self.left, self.right), (self.right, self.left)

    @property
    def ends(self) -> Ends:
        return self

    async def close(self) -> None:
        await self.left.close()
        await self.right.close()


class HasEnds(Protocol):
    """Any world that has two ends."""

    @property
    def ends(self) -> Ends: ...


async def login(server: Server, user: str, resource: str = "lab", domain: str = "") -> Client:
    """Return a client of one of the lab's accounts, at the server's first domain or `domain`. It has requested its roster and is available.

    Accounts on ejabberd and jabberd2 are made by registration.
    """
    account = f"{user}@{domain or server.domain}"
    jid = f"{account}/{resource}"
    if server.kind not in ("prosody", "openfire"):
        await Client.register(server.client_port, jid, PASSWORD)
    client = await Client.login(server.client_port, jid, PASSWORD)
    await client.iq(account, f"<query xmlns='{_ROSTER}'/>")
    await client.presence()
    return client


async def talk(sender: Client, receiver: Client, text: str, seconds: float = 20.0) -> Element:
    """Send one message from full JID to full JID, and check it at the other end."""
    await sender.message(receiver.jid, text)
    got = await receiver.wait_message(text, seconds)
    expect(got.get("from"), sender.jid, "from")
    expect(got.get("to"), receiver.jid, "to")
    return got


async def _messages(stage: HasEnds) -> None:
    ends = stage.ends
    for sender, receiver in ends.ways():
        await talk(sender, receiver, f"hello from {sender.jid}: <&> Zürich 🚪")
        step(f"{sender.jid} -> {receiver.jid}")


async def _queries(stage: HasEnds) -> None:
    ends = stage.ends
    for asker, other in ends.ways():
        for name, ask in (("ping", asker.ping), ("version", asker.version), ("disco#info", asker.disco)):
            if name != "disco#info":
                answer = await ask(other.jid)
                expect(answer.get("type"), "result", f"{name} to {other.jid}")
            answer = await ask(other.domain)
            expect(answer.get("type"), "result", f"{name} to {other.domain}")
            expect(answer.get("from"), other.domain, "from of the answer")
        step(f"{asker.jid}: ping, version, disco#info of {other.domain}; ping, version of {other.jid}")


async def _query_error(stage: HasEnds) -> None:
    ends = stage.ends
    for asker, other in ends.ways():
        answer = await asker.iq(other.domain, "<query xmlns='urn:example:nothing-known'/>")
        expect(answer.get("type"), "error", "type")
        check(error(answer)[0] in ("service-unavailable", "feature-not-implemented"), f"condition {error(answer)}")


def _bare(client: Client) -> str:
    return client.jid.partition("/")[0]


async def _subscribe(asker: Client, other: Client) -> None:
    await asker.presence(_bare(other), "subscribe")
    await other.wait_presence(_bare(asker), "subscribe")
    await other.presence(_bare(asker), "subscribed")
    await asker.wait_presence(_bare(other), "subscribed")
    await asker.wait_presence(other.jid)
    step(f"{asker.jid} sees {other.jid}")


async def _presence(stage: HasEnds) -> None:
    ends = stage.ends
    for asker, other in ends.ways():
        await _subscribe(asker, other)
    for watcher, other in ends.ways():
        await _shows(watcher, other, "away")
        await other.presence(kind="unavailable")
        await watcher.wait_presence(other.jid, "unavailable")
        await _shows(watcher, other, "back")


async def _shows(watcher: Client, other: Client, status: str) -> None:
    """Make `other` available with `status`, and check that `watcher` gets it."""
    await other.presence(children=f"<status>{status}</status>")
    await watcher.wait(
        lambda got: got.get("from") == other.jid and got.findtext(f"{CLIENT}status") == status,
        what=f"presence {status!r} from {other.jid}")


async def _in_order(stage: HasEnds) -> None:
    ends = stage.ends
    for way, (sender, receiver) in enumerate(ends.ways()):
        await talk(sender, receiver, f"make sure that the stream of way {way} is up")
        texts = [f"way {way} number {number}" for number in range(MANY)]
        for text in texts:
            await sender.message(receiver.jid, text)
        seen = await collect(receiver, len(texts), f"way {way} ")
        expect_in_order([body(one) for one in seen], texts, f"{sender.jid} -> {receiver.jid}, in order")
        step(f"{len(seen)} messages {sender.jid} -> {receiver.jid}, in order, each once")


async def collect(receiver: Client, count: int, prefix: str, seconds: float = 60.0) -> list[Element]:
    """Return the next `count` messages whose body starts with `prefix`, as they arrived."""
    def fits(got: Element) -> bool:
        return got.tag == f"{CLIENT}message" and (body(got) or "").startswith(prefix)
    return [await receiver.wait(fits, seconds, f"message {number + 1} of {count}") for number in range(count)]


def conversation(stage: Stage, label: str, pick: Callable[[Any], HasEnds] = lambda world: world) -> None:
    """Add the conversation to `stage`. Each title starts with `label`. `pick` finds the two ends in the stage's world."""
    def add(title: str, run: Callable[[HasEnds], Awaitable[None]], seconds: float = SCENARIO_SECONDS) -> None:
        stage.scenario(f"{label}: {title}", seconds)(lambda world: run(pick(world)))
    add("a message in each direction", _messages)
    add("IQs in each direction", _queries)
    add("an IQ error in each direction", _query_error)
    add("presence in each direction (subscribe, available, away, unavailable)", _presence)
    add(f"{MANY} messages in order in each direction", _in_order, 120.0)
