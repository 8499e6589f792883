"""The operator's verbs on waiting stanzas, before and after a restart."""

from __future__ import annotations

import asyncio

from tests.durability.custody_testbed import INSIDE
from tests.durability.scenario import ScenarioContext, scenario


@scenario("`queue drop PEER` of stanzas on the disk after a start")
async def drop_after_start(context: ScenarioContext) -> None:
    """The verb acts on all waiting stanzas, in memory and on the disk."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("away.example")
    lane = bed.pair(inside, peer)
    await bed.start(away=[peer])
    lane.send(50)
    await bed.acknowledged(lane)
    await bed.stop()
    await bed.start_gateway()
    answer = await bed.ask("queue drop", target=[peer.domain])
    bed.check(answer["stanzas"] == 50, f"the answer is {answer}, 50 stanzas wait")
    await bed.until(lambda: len(lane.account.bounced) == 50, 10, "the dropped stanzas are not bounced")
    await bed.settle(5, 2)


@scenario("a stanza is held, dropped, and the gateway restarted; later stanzas are not held")
async def hold_drop_restart(context: ScenarioContext) -> None:
    """A hold is removed with its stanza."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("peer.example")
    lane = bed.pair(inside, peer)
    await bed.start(away=[peer])
    lane.send(3)
    await bed.acknowledged(lane)
    target = [INSIDE, peer.domain, 2]
    await bed.ask("queue hold", target=target)
    await bed.ask("queue drop", target=target)
    await bed.until(lambda: len(lane.account.bounced) == 1, 10, "the dropped stanza is not bounced")
    await peer.come_back()
    await bed.ask("queue flush", target=[peer.domain])
    await bed.until(lambda: len(lane.account.arrived) == 2, 10, "the others are not delivered")
    await asyncio.sleep(1.5)
    await bed.stop()
    await bed.start_gateway()
    lane.send(4)
    await bed.until(lambda: len(lane.account.arrived) == 6, 10, "a stanza after the restart is held")
    await bed.settle(5, 2)
