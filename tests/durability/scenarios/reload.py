"""Reloads that change the backends, under load."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from tests.durability.custody_testbed import INSIDE
from tests.durability.scenario import ScenarioContext, scenario
from tests.durability.simulated_server import OutgoingStream, SimulatedServer


def _moved(server: SimulatedServer, accepted: int, lane: OutgoingStream, opened: int) -> bool:
    """Return whether the server has got another stream than those, and its own stream was opened again."""
    return server.accepted > accepted and lane.streams > opened


@scenario(
    "a reload gives the domain to another server {1} XEP-0198, which is added, and back; each time the old one is removed",
    (True, "with"), (False, "without"),
)
async def domain_to_another_server(context: ScenarioContext, managed: bool, _: str) -> None:
    """Stanzas from and to either server are delivered in order."""
    bed = context.testbed()
    inside, peer = bed.local(managed=managed), bed.peer("peer.example")
    lanes = bed.pairs(inside, peer, size=200)
    await bed.start()
    other, port = bed.another(inside)
    await other.come_back()
    for lane in lanes:
        lane.traffic.rate = 200
    first = bed.inner_port(INSIDE)
    for server, listen in ((other, port), (inside, first)):
        await bed.until(lambda: all(len(lane.account.arrived) > 100 for lane in lanes), 15, "nothing arrives")
        accepted, opened = server.accepted, lanes[0].streams
        bed.serve(INSIDE, server, listen)
        bed.configure()
        answer = await bed.ask("reload")
        bed.check(answer["ok"], f"the reload was refused: {answer['complaints']}")
        lanes[0].port = listen  # the server asks the DNS again
        moved = partial(_moved, server, accepted, lanes[0], opened)
        await bed.until(moved, 15, "the new server gets no stream, or that of the old one is not closed")
        await asyncio.sleep(1)
    await bed.settle()
    bed.check(not other.accepted_streams, "streams to the server that was removed are open")


@scenario(
    "a reload gives a domain up while its server and a peer are {1}, and the next one takes it back",
    (False, "there"), (True, "away"),
)
async def domain_given_up(context: ScenarioContext, away: bool, _: str) -> None:
    """Stanzas of its users are delivered. Stanzas to it are delivered or returned to their senders."""
    bed = context.testbed((INSIDE, "second.example"))
    inside, peer = bed.local(), bed.peer("peer.example")
    bed.local("second.example")
    lanes = bed.pairs(inside, peer, size=200)
    accounts = [traffic.account for lane in lanes for traffic in lane.traffics]
    await bed.start()
    for lane in lanes:
        lane.traffic.rate = 200
    await bed.until(lambda: all(len(account.arrived) > 100 for account in accounts), 15, "nothing arrives")
    if away:
        inside.go_away()
        peer.go_away()
        await asyncio.sleep(1)
    bed.give_up(INSIDE)
    bed.configure()
    answer = await bed.ask("reload")
    bed.check(answer["ok"], f"the reload was refused: {answer['complaints']}")
    for lane in lanes:
        lane.traffic.rate, lane.connects = 0.0, False
    began = time.monotonic()
    await peer.come_back()
    if away:
        await bed.until(lambda: accounts[1].bounced, 20, "nothing that waited for the server is returned")
    await bed.until(lambda: not any(account.lost() for account in accounts), 40, "something acknowledged is neither delivered nor returned")
    bed.note(f"brought to an end in {time.monotonic() - began:.0f} s")
    arrived = len(accounts[1].arrived)
    bed.serve(INSIDE, inside, bed.inner_port(INSIDE))
    bed.take_back(INSIDE)
    bed.configure()
    answer = await bed.ask("reload")
    bed.check(answer["ok"], f"the second reload was refused: {answer['complaints']}")
    await inside.come_back()
    for lane in lanes:
        lane.traffic.rate, lane.connects = 20, True
    await bed.until(lambda: len(accounts[1].arrived) > arrived + 10, 20, "nothing arrives after the domain was taken back")
    await bed.settle()
