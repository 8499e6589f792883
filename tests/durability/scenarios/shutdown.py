"""Normal stops at a bad moment for streams and servers."""

from __future__ import annotations

import asyncio

from tests.durability.scenario import ScenarioContext, scenario
from tests.durability.simulated_server import OutgoingStream


@scenario("a normal stop while peers {1} XEP-0198 send on streams that the gateway opened (XEP-0288)", (True, "with"), (False, "without"))
async def stop_with_bidi(context: ScenarioContext, managed: bool, _: str) -> None:
    """A stop reads the stanzas of a peer to their end on the gateway's stream, as on the peer's own."""
    bed = context.testbed()
    inside = bed.local()
    backs = []
    for number in range(8):
        peer = bed.peer(f"peer{number}.example", managed=managed, bidi=True)
        bed.pair(inside, peer).send(1)
        back = bed.pair(peer, inside, size=100)
        back.connects = False
        backs.append(back)
    await bed.start()
    await bed.until(lambda: all(back.stream is not None for back in backs), 15, "there is no stream that carries both directions")
    for _again in range(3):
        for back in backs:
            back.traffic.rate = 800
        await asyncio.sleep(1.5)
        await bed.stop()
        for back in backs:
            back.traffic.rate = 0
            back.count_written(cut_off=True)  # a normal stop cuts no stream off
        await bed.start_gateway()
        for peer in list(bed.servers.values())[1:]:
            inside.outgoing[peer.domain].send(1)
        await bed.until(lambda: all(back.stream is not None for back in backs), 15, "no stream after the restart")
    await bed.settle()


def _send_on(lanes: list[OutgoingStream]) -> None:
    for lane in lanes:
        lane.traffic.rate = 250


@scenario("a normal stop under load while the backend, by acks = {0}, reads but acknowledges nothing", ("sm",), ("ping",), seconds=80)
async def stop_with_stalled_backend(context: ScenarioContext, acks: str) -> None:
    """Stanzas that were not written before the stop are not in doubt: they arrive once, and requests among them are not bounced."""
    bed = context.testbed(backend={"acks": acks})
    inside = bed.local(managed=acks == "sm")
    peers = [bed.peer(f"peer{number}.example") for number in range(4)]
    lanes = [bed.pairs(peer, inside)[0] for peer in peers]
    await bed.start()
    for lane in lanes:
        lane.traffic.request_share = 0.2
        lane.send(20)
    await bed.until(lambda: all(len(lane.account.arrived) == 20 for lane in lanes), 10, "nothing arrives")
    inside.acknowledges = inside.answers_pings = False
    for lane in lanes:
        lane.traffic.rate = 250
    await asyncio.sleep(2)
    doubtful = 0
    for peer in peers:
        rows = await bed.ask("queue show", target=[peer.domain, inside.domain], limit=100_000)
        doubtful += sum(1 for row in rows if row["written"]) - len(rows)
    # Stanzas that the gateway had not read at the count may have been written since. Nothing is sent from this count until it stops.
    for lane in lanes:
        lane.traffic.rate = 0
    doubtful += sum(len(lane.account.sent) - 20 for lane in lanes)
    asyncio.get_running_loop().call_later(0.2, _send_on, lanes)
    await bed.stop()
    inside.acknowledges = inside.answers_pings = True
    await bed.start_gateway()
    await bed.settle(40)
    twice = sum(lane.account.duplicates() for lane in lanes)
    requests = sum(len(lane.account.bounced & lane.account.requests) for lane in lanes)
    bed.note(f"{doubtful} may have been in doubt at the stop")
    bed.check(twice + requests <= doubtful, f"{twice} arrived twice and {requests} requests were bounced, {doubtful} were in doubt at most")
