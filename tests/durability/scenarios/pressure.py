"""Memory, disk and time are short, one after another and all at once."""

from __future__ import annotations

import asyncio

from tests.durability.custody_testbed import INSIDE, CustodyTestbed
from tests.durability.scenario import ScenarioContext, scenario

MIB = 1024 * 1024
#: The bytes that the gateway counts for a stanza in memory in addition to its own, and the bytes of a message in addition to its body, roughly.
OVERHEAD = 750
#: Stanzas are sent in this many parts, as in practice: each part is in the spool before the next arrives.
SLICES = 20


@scenario("{2} peers away, {0} MiB of memory, and a healthy peer that continues", (64, 8000, 70), (4, 2000, 70), seconds=100)
async def peers_away(context: ScenarioContext, memory: int, size: int, number: int) -> None:
    """Stanzas that wait for peers that are away take nothing from a healthy peer."""
    bed = context.testbed(queue={"memory": f"{memory}MiB"})
    inside, friend = bed.local(), bed.peer("friend.example")
    healthy = bed.pairs(friend, inside)
    away = [bed.peer(f"away{each}.example") for each in range(number)]
    lanes = [bed.pair(inside, peer, size=size) for peer in away]
    await bed.start(away=away)
    share = int(1.3 * memory * MIB / number / (size + OVERHEAD))
    for part in range(SLICES):
        for lane in lanes:
            lane.send(share * (part + 1) // SLICES - share * part // SLICES)
        await asyncio.sleep(0.4)
    await bed.acknowledged(*lanes, seconds=20)
    await _goes_on(bed, *healthy)
    await bed.settle(60)


async def _goes_on(bed: CustodyTestbed, *healthy: object, number: int = 200, seconds: float = 10.0) -> None:
    """Check that these streams still deliver all stanzas within `seconds`, and that none is bounced."""
    for stream in healthy:
        stream.send(number)  # type: ignore[attr-defined]
    accounts = [stream.account for stream in healthy]  # type: ignore[attr-defined]
    wanted = [len(account.sent) + number for account in accounts]
    await bed.until(
        lambda: all(len(set(account.arrived)) >= number for account, number in zip(accounts, wanted, strict=True)), seconds,
    )
    for account, number in zip(accounts, wanted, strict=True):
        bed.check(
            len(set(account.arrived)) >= number,
            f"the healthy {account.name}: {len(set(account.arrived))} of {number} delivered after {seconds:g} s, "
            f"{len(account.bounced)} bounced",
        )


@scenario("each sync takes 300 ms, 3 peers away, {0} streams", ("own",), ("shared",), seconds=90)
async def slow_disk(context: ScenarioContext, kind: str) -> None:
    """The disk is slower than the incoming stanzas: the streams that bring them must wait, also shared ones."""
    bed = context.testbed(queue={"memory": "4MiB"}, peers={"default": {"dialback": "with-tls"}})
    inside = bed.local()
    away = [bed.peer(f"away{each}.example") for each in range(3)]
    traffics = [bed.traffic(inside, peer, size=1000) for peer in away]
    if kind == "shared":
        streams = [bed.stream(inside, *traffics)]
    else:
        streams = [bed.stream(inside, traffic) for traffic in traffics]
    await bed.start(away=away, faults={"sqlite": {"file": "spool.db*", "sync_seconds": 0.3}})
    for traffic in traffics:
        traffic.due = 5000
    await asyncio.sleep(8)
    await bed.faults(sqlite={})
    await bed.acknowledged(*streams)
    await bed.settle(60)


@scenario("disk full, memory full and the next hop away at once; the sender is {0}", ("there",), ("away",), seconds=90)
async def everything_full(context: ScenarioContext, sender: str) -> None:
    """Neither disk nor memory nor the next hop accepts anything. With the sender away not even an error can be sent."""
    bed = context.testbed(queue={"memory": "1MiB"})
    inside, peer = bed.local(), bed.peer("away.example")
    lane = bed.pair(inside, peer, size=1000)
    await bed.start(away=[peer])
    await bed.faults(sqlite={"full": True, "room": 100_000}, files_full=True)
    if sender == "away":
        inside.go_away()
    lane.send(4000)
    await asyncio.sleep(6)
    bed.note(f"{len(lane.account.acknowledged):,} acknowledged while all was full")
    await bed.faults(sqlite={}, files_full=False)
    await bed.settle(50)


@scenario("the disk is full for two seconds; later stanzas still expire")
async def expiry_after_full_disk(context: ScenarioContext) -> None:
    """The expiry continues after it meets a full disk."""
    bed = context.testbed(queue={"hold": "3s"})
    inside = bed.local()
    one, other = bed.peer("one.example"), bed.peer("other.example")
    first, second = bed.pair(inside, one), bed.pair(inside, other)
    await bed.start(away=[one, other])
    first.send(1)
    await bed.acknowledged(first)
    await bed.ask("queue hold", target=[INSIDE, one.domain, 1])
    await bed.faults(sqlite={"full": True}, files_full=True)
    await bed.until(lambda: first.account.bounced, 8)
    await asyncio.sleep(2)
    await bed.faults(sqlite={}, files_full=False)
    second.send(20)
    await bed.until(lambda: len(second.account.bounced) == 20, 3 + 4, "a stanza sent after the disk was full does not expire")


@scenario("syncs fail for two seconds under load")
async def failing_syncs(context: ScenarioContext) -> None:
    """A commit whose sync fails is not a commit."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("away.example")
    lane = bed.pair(inside, peer)
    lane.traffic.rate = 400
    await bed.start(away=[peer])
    await asyncio.sleep(1)
    await bed.faults(sqlite={"file": "spool.db*", "sync_error": True})
    await asyncio.sleep(2)
    await bed.faults(sqlite={})
    await asyncio.sleep(1)
    lane.traffic.rate = 0
    await bed.acknowledged(lane, seconds=10)
    await bed.kill()
    await bed.start_gateway()
    await bed.settle()


@scenario("the process dies in the middle of a write to the spool's log", (7,), (31,))
async def torn_write(context: ScenarioContext, write: int) -> None:
    """A half-written page at the end of the log damages no acknowledged stanza."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("away.example")
    lane = bed.pair(inside, peer)
    lane.traffic.rate = 500
    await bed.start(away=[peer])
    await asyncio.sleep(1)
    await bed.faults(sqlite={"file": "spool.db*", "torn_write": write, "write_seconds": 0.1})
    await bed.until(lambda: not bed.runner.process.alive, 10, "the process does not die")
    await bed.kill()
    await bed.start_gateway()
    await asyncio.sleep(1)
    await bed.settle()


@scenario("the errors of expired stanzas find no space in the spool; kill -9 directly after", seconds=60)
async def expiry_without_room(context: ScenarioContext) -> None:
    """A stanza is removed from the spool when its error is safe, not before."""
    bed = context.testbed(queue={"hold": "6s", "disk": 60_000, "share": "100%"})
    inside, peer = bed.local(), bed.peer("away.example")
    lane = bed.pair(inside, peer)
    await bed.start(away=[peer])
    lane.send(75)
    await bed.acknowledged(lane)
    bed.note(f"{75 - len(lane.account.bounced)} in the spool")
    inside.go_away()
    deadline = asyncio.get_running_loop().time() + 12
    while asyncio.get_running_loop().time() < deadline:
        if len(await bed.ask("queue show", target=[INSIDE, peer.domain], limit=100)) < 75 - len(lane.account.bounced):
            break  # they have begun to expire
        await asyncio.sleep(0.02)
    await bed.kill()
    await inside.come_back()
    await bed.start_gateway()
    await bed.settle()


@scenario("one peer away has filled its share of the disk; another peer's stanzas are still taken")
async def share_of_the_disk(context: ScenarioContext) -> None:
    """No peer takes the whole spool."""
    bed = context.testbed(queue={"disk": "4MiB"})
    inside, greedy, modest = bed.local(), bed.peer("greedy.example"), bed.peer("modest.example")
    much, little = bed.pair(inside, greedy, size=2000), bed.pair(inside, modest)
    await bed.start(away=[greedy, modest])
    for size in (2000, 300, 0):  # fill it to the last byte: less and less fits
        much.traffic.size = size or 1
        much.send(3000)
        await bed.acknowledged(much)
        for _ in range(20):
            much.send(5)
            await asyncio.sleep(0.05)
    await bed.acknowledged(much)
    bed.note(f"of the greedy peer's {len(much.account.bounced):,} were bounced")
    little.send(200)
    await bed.acknowledged(little)
    bed.check(not little.account.bounced, f"{len(little.account.bounced)} of 200 to the modest peer were bounced")
    await bed.settle()


@scenario("{0} sub-domains of one peer, all away, and a kill -9 in between; another peer's stanzas are still taken", (6,))
async def share_of_sub_domains(context: ScenarioContext, number: int) -> None:
    """All names below a registered domain have one share of the disk, also after a restart."""
    bed = context.testbed(queue={"disk": "4MiB"})
    inside, modest = bed.local(), bed.peer("modest.example")
    greedy = [bed.peer(f"n{each}.greedy.example") for each in range(number)]
    much, little = [bed.pair(inside, peer, size=2000) for peer in greedy], bed.pair(inside, modest)
    await bed.start(away=[*greedy, modest])
    for stream in much[: number // 2]:
        stream.send(600)
    await bed.acknowledged(*much)
    await bed.kill()
    await bed.start_gateway()
    for stream in much:
        stream.send(600)
    await bed.acknowledged(*much)
    held = (await bed.ask("status"))["waiting"]["disk_bytes"]
    bed.check(0 < held <= MIB, f"they hold {held:,} bytes of 4 MiB on disk")
    little.send(200)
    await bed.acknowledged(little)
    bed.check(not little.account.bounced, f"{len(little.account.bounced)} of 200 to the modest peer were bounced")
    await bed.settle()
