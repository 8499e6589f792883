"""Acknowledgements of the next hop, in every mode, and acknowledgements to the previous hop."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections import Counter

from tests.durability.custody_testbed import INSIDE
from tests.durability.scenario import ScenarioContext, scenario
from tests.durability.xml_stream import XMLStream


@scenario("the account itself: a server that acknowledges stanzas and discards them is detected")
async def thrown_away(context: ScenarioContext) -> None:
    """These 50 stanzas really are lost, and the account must say so. Otherwise no other scenario proves anything."""
    bed = context.testbed()
    inside, friend = bed.local(), bed.peer("friend.example")
    lane = bed.pair(inside, friend)
    await bed.start()
    lane.send(100)
    await bed.until(lambda: len(lane.account.arrived) == 100, 10, "not all arrived")
    friend.discards = True
    lane.send(50)
    await bed.acknowledged(lane)
    await asyncio.sleep(0.5)
    bed.expected_losses = 50
    await bed.settle(5, 2)


@scenario(
    "{0} by acks = {1}: the next hop's streams break, kill -9, a normal stop",
    ("inbound", "auto"), ("inbound", "sm"), ("inbound", "ping"), ("inbound", "tcp"), ("outbound", "auto"), ("outbound", "ping"),
)
async def ends_under_load(context: ScenarioContext, direction: str, acks: str) -> None:
    """Stanzas that the next hop may not have are sent again. With "tcp" only a normal stop is promised."""
    managed = acks in ("auto", "sm")
    bed = context.testbed(backend={"acks": acks if direction == "inbound" else "auto"})
    inside = bed.local(managed=managed or direction == "outbound")
    peer = bed.peer("peer.example", managed=managed or direction == "inbound")
    inbound, outbound = bed.pairs(peer, inside)
    lane, hop = (inbound, inside) if direction == "inbound" else (outbound, peer)
    await bed.start()
    lane.traffic.rate = 400
    for each in (1, 2, 3):
        await asyncio.sleep(0.8)
        if acks != "tcp":
            hop.drop_streams()
            await asyncio.sleep(0.3)
        if each == 2 and acks != "tcp":
            hop.refuse()
            await bed.faults(sqlite={"file": "spool.db*", "write_seconds": 0.2})
            await asyncio.sleep(0.5)
            await bed.kill()  # in the middle of a commit
            hop.refuses = False
            await bed.start_gateway()
    await bed.stop()
    await bed.start_gateway()
    await asyncio.sleep(0.5)
    await bed.settle()


@scenario(
    "{0} by acks = {1}: the next hop answers pings, reads nothing for 25 s, and is gone",
    ("inbound", "ping"), ("inbound", "auto"), ("outbound", "auto"), seconds=90,
)
async def falls_silent(context: ScenarioContext, direction: str, acks: str) -> None:
    """A server that has answered before is not believed without an answer."""
    bed = context.testbed(backend={"acks": acks})
    inside, peer = bed.local(managed=direction == "outbound"), bed.peer("peer.example", managed=direction == "inbound")
    inbound, outbound = bed.pairs(peer, inside)
    lane, hop = (inbound, inside) if direction == "inbound" else (outbound, peer)
    await bed.start()
    lane.traffic.rate = 25
    await bed.until(lambda: hop.pings >= 10, 10, "pings are not answered")
    hop.frozen = True
    await asyncio.sleep(25)
    hop.drop_streams()
    hop.frozen = False
    await asyncio.sleep(2)
    await bed.settle()


@scenario("unacknowledged stanzas are repeated on a {0} stream while the disk is slow; then kill -9", ("resumed",), ("new",))
async def repeated_then_killed(context: ScenarioContext, kind: str) -> None:
    """A repeat is acknowledged when its first copy is safe, not before."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("peer.example")
    lane = bed.pair(peer, inside, resumes=kind == "resumed")
    await bed.start(away=[inside])
    lane.send(1)
    await bed.acknowledged(lane)
    await bed.faults(sqlite={"file": "spool.db*", "write_seconds": 4})
    lane.send(19)
    await asyncio.sleep(0.7)
    before, streams = len(lane.account.acknowledged), lane.streams
    lane.cut()
    await bed.until(lambda: lane.streams > streams, 5, "the sender does not get another stream")
    bed.check(lane.resumed == (kind == "resumed"), f"{lane.resumed} streams were resumed")
    await asyncio.sleep(1)
    bed.note(f"{before} of 20 acknowledged before the repeat, {len(lane.account.acknowledged)} a second after it")
    await bed.kill()
    await inside.come_back()
    await bed.start_gateway()
    await bed.settle()


@scenario("after a broken stream the sender uses old ids and texts for new stanzas")
async def reused_ids(context: ScenarioContext) -> None:
    """Only stanzas that were unacknowledged when the stream broke may be taken for a repeat."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("peer.example")
    lane = bed.pair(peer, inside)
    seen: Counter[str] = Counter()
    inside.on_stanza = lambda element, sender, stream: seen.update([element.get("id", "")])
    await bed.start()
    texts = [lane.traffic.stanza(number).replace("id='n", "id='again") for number in range(20)]
    for _ in (1, 2):
        for text in texts:
            lane.answer(text)
        await bed.until(lambda: not lane.unacknowledged and not lane._answers, 10, "not acknowledged")
        streams = lane.streams
        lane.cut()
        await bed.until(lambda streams=streams: lane.streams > streams, 10, "no new stream")
    await bed.until(lambda: seen.total() >= 40, 5)
    bed.check(seen.total() == 40, f"40 stanzas were acknowledged, {seen.total()} delivered")


@scenario("a request whose answer was lost is asked again with the same id")
async def request_asked_again(context: ScenarioContext) -> None:
    """The late answer to a bounced request is dropped; the answer to the same request asked again is not."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("peer.example")
    lane, _ = bed.pairs(inside, peer)
    answers: list[str] = []
    inside.on_stanza = lambda element, sender, stream: answers.append(f"{element.get('id')} {element.get('type')}")
    asked: list[tuple[str, XMLStream]] = []

    def arrived(element: ET.Element, sender: str, stream: XMLStream) -> None:
        asked.append((element.get("id", ""), stream))

    peer.on_stanza = arrived
    await bed.start()
    lane.send(1)
    await bed.until(lambda: lane.account.arrived, 10, "no message arrived")
    lane.account.requests.update((1, 2))
    peer.acknowledges = False
    lane.send(2)
    await bed.until(lambda: len(asked) == 3, 10, "the requests did not arrive")
    peer.drop_streams()
    await bed.until(lambda: "n1 error" in answers and "n2 error" in answers, 15, "the requests in doubt were not bounced")
    peer.acknowledges = True
    lane.answer(lane.traffic.stanza(1))
    await bed.until(lambda: len(asked) == 4, 15, "the request did not arrive again")
    for identifier in ("n1", "n2"):
        addresses = f"from='u@{peer.domain}/r' to='u@{INSIDE}/r'"
        peer.outgoing[INSIDE].answer(f"<iq type='result' id='{identifier}' {addresses}/>")
    await bed.until(lambda: "n1 result" in answers, 5, "the answer to the request asked again was dropped")
    bed.check("n2 result" not in answers, "a late answer to a bounced request was passed on")
    lane.account.withdrawn.update((1, 2))
    lane.account.arrived[:] = [0]  # request 1 was sent twice by its sender
    lane.account.arrived_on[:] = lane.account.arrived_on[:1]


@scenario("stanzas in flight when their stream breaks are bounced when their time is over")
async def in_flight_expires(context: ScenarioContext) -> None:
    """Stanzas in flight at a loss expire like all others: within `hold` and two seconds."""
    bed = context.testbed(queue={"hold": "3s"})
    inside, peer = bed.local(), bed.peer("peer.example")
    lane = bed.pair(inside, peer)
    await bed.start()
    lane.send(5)
    await bed.until(lambda: len(lane.account.arrived) == 5, 10, "nothing arrives")
    await asyncio.sleep(4.5)  # no stanza waits that would need the gateway's attention
    peer.acknowledges = False
    lane.send(20)
    await bed.until(lambda: len(lane.account.arrived) == 25, 10, "nothing arrives")
    del lane.account.arrived[5:], lane.account.arrived_on[5:]  # the peer dies with them
    peer.go_away()
    await bed.until(
        lambda: len(lane.account.bounced) == 20, 3 + 2.5, "not all of 20 are bounced",
    )
    bed.note(f"{len(lane.account.bounced)} of 20 bounced in time")
    await bed.settle(3, 2)
