"""The wall clock is set while the gateway runs."""

from __future__ import annotations

import asyncio

from tests.durability.scenario import ScenarioContext, scenario


@scenario("the wall clock is set by {0} s", (-3600,), (3600,))
async def wall_clock_stepped(context: ScenarioContext, seconds: int) -> None:
    """Waiting times are measured on the monotonic clock: nothing stops, and nothing ends early."""
    bed = context.testbed(queue={"hold": "4s"}, peers={"patient.example": {"hold": "10m"}})
    inside, friend = bed.local(), bed.peer("friend.example")
    gone, patient = bed.peer("gone.example"), bed.peer("patient.example")
    flowing, expiring, waiting = (bed.pair(inside, peer) for peer in (friend, gone, patient))
    await bed.start(away=[gone, patient])
    flowing.traffic.rate = 100
    expiring.send(20)
    waiting.send(20)
    await asyncio.sleep(1.5)
    await bed.faults(clock=seconds)
    expiring.send(10)
    waiting.send(10)
    await bed.until(lambda: len(expiring.account.bounced) == 30, 4 + 3, "not all expired stanzas are bounced")
    bed.check(not waiting.account.bounced, f"{len(waiting.account.bounced)} were bounced after some seconds, their hold is 10 min")
    before = len(flowing.account.arrived)
    await asyncio.sleep(1)
    bed.check(len(flowing.account.arrived) > before + 20, "stanzas to a healthy peer are not delivered")
    await bed.kill()
    await bed.start_gateway({"clock": seconds})
    await bed.settle()
