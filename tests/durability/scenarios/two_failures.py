"""Two things go wrong at once."""

from __future__ import annotations

import asyncio

from tests.durability.custody_testbed import INSIDE
from tests.durability.scenario import ScenarioContext, scenario
from tests.durability.scenarios.spool_damage import PAGE, damage, excuse, filled


@scenario("a normal stop while the disk is full and the next server answers no pings; the sender's server {1} XEP-0198", (True, "with"), (False, "without"), seconds=90)
async def stop_full_and_silent(context: ScenarioContext, managed: bool, _: str) -> None:
    """Stanzas that neither the disk nor the next server takes stay with their sender, or are bounced."""
    bed = context.testbed(queue={"memory": "8MiB"})
    inside, peer = bed.local(managed=managed), bed.peer("peer.example", managed=False)
    lane, _back = bed.pairs(inside, peer)
    await bed.start()
    lane.send(50)
    await bed.until(lambda: len(lane.account.arrived) == 50 and peer.pings, 15, "nothing arrives")
    peer.answers_pings = False
    await bed.faults(sqlite={"full": True}, files_full=True)
    lane.send(700)  # more than may be in flight, and not so much that the gateway stops to read
    await asyncio.sleep(2)
    in_flight = len(lane.account.arrived) - 50
    bed.check(200 < in_flight < 600, f"{in_flight} of 700 are in flight")
    await bed.stop()
    lane.count_written(cut_off=True)
    peer.answers_pings = True
    bounced = len(lane.account.bounced)
    bed.note(f"{in_flight} were in flight, {bounced} were bounced at the stop")
    bed.check(bounced == (0 if managed else 700 - in_flight), f"{bounced} were bounced, {700 - in_flight} were waiting")
    await bed.start_gateway()
    lane.send(1)
    await bed.until(lambda: lane.account.arrived[-1] == 750, 10, "nothing arrives after the start")
    await bed.settle()


@scenario("syncs fail while requests wait for a server that comes back; its streams break, then kill -9", seconds=90)
async def marks_fail_then_killed(context: ScenarioContext) -> None:
    """A request is not written before the disk has its mark, so that it is delivered once at most."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("peer.example")
    lane = bed.pair(inside, peer)
    lane.traffic.request_share = 0.5
    await bed.start(away=[peer])
    lane.send(400)
    await bed.acknowledged(lane)
    for error in {"sync_error": True}, {"write_error": True}, {"sync_seconds": 0.5}:
        await bed.faults(sqlite={"file": "spool.db*", **error})
        await peer.come_back()
        await bed.ask("queue flush", target=[peer.domain])
        before = len(lane.account.arrived)
        await bed.until(lambda before=before: len(lane.account.arrived) > before + 20, 3)
        peer.drop_streams()
        await asyncio.sleep(0.3)
        await bed.kill()
        peer.go_away()
        await bed.start_gateway()
        lane.send(100)
        await bed.acknowledged(lane)
    await bed.settle()
    bed.note(f"{len(lane.account.requests)} requests, none of which arrived twice")


@scenario("the spool cannot be read at a start, which ends by kill -9, while an operator holds a stanza", seconds=90)
async def held_and_unreadable(context: ScenarioContext) -> None:
    """A hold outlives both, and nothing overtakes what waits."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("peer.example")
    lane = bed.pair(inside, peer)
    await bed.start(away=[peer])
    lane.send(200)
    await bed.acknowledged(lane)
    await bed.ask("queue hold", target=[INSIDE, peer.domain, 20])
    await bed.kill()
    for offset in PAGE, 5 * PAGE:
        bed.begin_gateway({"sqlite": {"file": "spool.db", "read_error_from": offset}})
        await asyncio.sleep(4)
        await peer.come_back()
        lane.send(5)
        await asyncio.sleep(2)
        bed.runner.process.kill()
        await bed.runner.ended()
    bed.allowed_statuses = {0, 1}
    await bed.start_gateway()
    await bed.until(lambda: len(lane.account.arrived) >= 209, 20)
    missing = lane.account.missing()
    bed.check(missing == [19], f"one stanza is held, {len(missing)} did not arrive, such as {missing[:5]}")
    await bed.ask("queue drop", target=[INSIDE, peer.domain, 20])
    await bed.settle(20)


@scenario("kill -9, and the wall clock is set by {0} s before the next start", (-7200,), (7200,), seconds=60)
async def killed_and_clock_stepped(context: ScenarioContext, seconds: int) -> None:
    """Stanzas in the spool expire when their time is over, not earlier and not later."""
    bed = context.testbed(queue={"hold": "12s"}, peers={"patient.example": {"hold": "10m"}})
    inside = bed.local()
    gone, patient = bed.peer("gone.example"), bed.peer("patient.example")
    expiring, waiting = bed.pair(inside, gone), bed.pair(inside, patient)
    await bed.start(away=[gone, patient])
    began = asyncio.get_running_loop().time()
    expiring.send(20)
    waiting.send(20)
    await bed.acknowledged(expiring, waiting)
    await bed.kill()
    await bed.start_gateway({"clock": seconds})
    await bed.until(lambda: expiring.account.bounced, 20)
    first = asyncio.get_running_loop().time() - began
    await bed.until(lambda: len(expiring.account.bounced) == 20, 5, "not all expired stanzas are bounced")
    bed.note(f"bounced after {first:.1f} s")
    bed.check(11 < first < 20, f"bounced after {first:.1f} s, the hold is 12 s")
    bed.check(not waiting.account.bounced, f"{len(waiting.account.bounced)} were bounced after some seconds, their hold is 10 min")
    await bed.settle()


@scenario("a page of the spool is damaged, and the disk is full at the start", seconds=120)
async def damaged_and_full(context: ScenarioContext) -> None:
    """The readable stanzas are saved when there is room. Until then nothing is lost or overwritten."""
    bed = context.testbed()
    lane, file = await filled(bed, 3000)

    def change(data: bytearray, at: int) -> None:
        data[at : at + PAGE] = b"\xa5" * PAGE

    numbers = damage(file, lane, change)
    bed.allowed_statuses = {0, 1}
    bed.begin_gateway({"sqlite": {"full": True}, "files_full": True})
    await asyncio.sleep(8)
    bed.note("running" if bed.runner.process.alive else f"ended with {bed.runner.process.status}")
    lane.connects = True
    lane.send(20)
    await asyncio.sleep(3)
    bed.note(f"{len(lane.account.acknowledged) - 3000} of the new ones acknowledged")
    if bed.runner.process.alive:
        await bed.faults(sqlite={}, files_full=False)
        await bed.acknowledged(lane, seconds=45)
    else:
        await bed.runner.ended()
        await bed.start_gateway()
    await bed.settle()
    excuse(bed, lane, numbers)
