"""The spool cannot be read, or differs from what was written."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from tests.durability.custody_testbed import CustodyTestbed
from tests.durability.scenario import ScenarioContext, scenario
from tests.durability.simulated_server import OutgoingStream
from tests.lab.lab import LabError

PAGE = 4096
#: The first byte of a leaf page of a table (https://sqlite.org/fileformat2.html#b_tree_pages).
_LEAF = 0x0D
#: The id of a stanza in its text.
_ID = re.compile(rb"id='n(\d+)'")


async def filled(
    bed: CustodyTestbed, number: int, *, size: int = 500, kill: bool = False,
) -> tuple[OutgoingStream, Path]:
    """Spool `number` stanzas for a peer that is away, and end the gateway; return the stream and the spool's file."""
    inside, peer = bed.local(), bed.peer("away.example")
    lane = bed.pair(inside, peer, size=size)
    await bed.start(away=[peer])
    lane.send(number)
    if not await bed.acknowledged(lane):
        raise LabError("the spool could not be filled")
    lane.connects = False
    await (bed.kill() if kill else bed.stop())
    return lane, bed.state / "spool.db"


async def _start_or_refuse(bed: CustodyTestbed, faults: dict[str, Any]) -> None:
    """Start the gateway with temporary faults. It may also report why it cannot start, and end with status 1."""
    bed.begin_gateway(faults)
    try:
        await bed.runner.ready()
    except LabError:
        bed.check(bed.runner.process.status == 1, f"the start ended with status {bed.runner.process.status}")
        bed.check("cannot start" in bed.log() or "spool" in bed.log(), "the start does not say why it failed")
        bed.note("the gateway refused to start")
        bed.runner.process.kill()
        await bed.start_gateway()


@scenario("the spool's {0} cannot be read at the start, for a moment", ("lanes", PAGE), ("stanzas", 5 * PAGE), seconds=70)
async def read_error_at_start(context: ScenarioContext, _: str, offset: int) -> None:
    """A read error is not an empty spool: nothing is overwritten, and no new stanza is delivered before the old ones."""
    bed = context.testbed()
    lane, _file = await filled(bed, 200)
    await _start_or_refuse(bed, {"sqlite": {"file": "spool.db", "read_error_from": offset}})
    lane.connects = True
    lane.send(40)
    await bed.acknowledged(lane, seconds=4)
    await bed.faults(sqlite={})
    await bed.acknowledged(lane, seconds=5)
    await bed.settle()
    if bed.accounts[0].missing():
        bed.note("a restart was needed")
        await bed.stop()
        await bed.start_gateway()
        await bed.settle()


@scenario("the spool cannot be read for three seconds while a peer comes back", seconds=70)
async def read_error_later(context: ScenarioContext) -> None:
    """Unreadable stanzas are neither delivered as empty nor removed."""
    bed = context.testbed()
    lane, _ = await filled(bed, 3000, size=2000)
    await bed.start_gateway()
    await bed.faults(sqlite={"file": "spool.db", "read_error_from": 3 * PAGE})
    await bed.servers["away.example"].come_back()
    await bed.ask("queue flush", target=["away.example"])
    lane.connects = True
    lane.send(40)
    await asyncio.sleep(3)
    hits = await bed.faults(sqlite={})
    bed.note(f"{hits} reads failed")
    await bed.settle()


def damage(file: Path, lane: OutgoingStream, change: Any) -> set[int]:
    """Change one leaf page in the middle of the file; return the stanzas on it."""
    data = bytearray(file.read_bytes())
    leaves = [
        at for at in range(PAGE, len(data), PAGE) if data[at] == _LEAF and len(_ID.findall(data, at, at + PAGE)) > 2
    ]
    at = leaves[len(leaves) // 2]
    numbers = {int(number) for number in _ID.findall(data, at, at + PAGE)}
    change(data, at)
    file.write_bytes(data)
    return numbers & set(range(len(lane.account.sent)))


def excuse(bed: CustodyTestbed, lane: OutgoingStream, numbers: set[int]) -> None:
    """Remove these from the account, if the gateway has reported that stanzas could not be read."""
    missing = set(lane.account.missing()) & numbers
    said = [line for line in bed.log().splitlines() if "spool" in line and ("read" in line or "damage" in line)]
    bed.check(not missing or said, "the log does not report unreadable stanzas")
    lane.account.withdrawn.update(missing)
    bed.note(f"{len(numbers)} stanzas were on the damaged page, {len(missing)} of them are gone")


@scenario("one page of the spool is overwritten with random bytes", seconds=70)
async def damaged_page(context: ScenarioContext) -> None:
    """Readable stanzas are delivered, and the gateway reports that others are not readable."""
    bed = context.testbed()
    lane, file = await filled(bed, 3000)

    def change(data: bytearray, at: int) -> None:
        data[at : at + PAGE] = b"\xa5" * PAGE

    numbers = damage(file, lane, change)
    await bed.start_gateway()
    await bed.settle()
    excuse(bed, lane, numbers)


@scenario("one page of the spool cannot be read", seconds=70)
async def unreadable_page(context: ScenarioContext) -> None:
    """The same with a permanent error of the disk."""
    bed = context.testbed()
    lane, file = await filled(bed, 3000)
    numbers: set[int] = set()
    offsets: list[int] = []

    def note(data: bytearray, at: int) -> None:
        offsets.append(at)

    numbers = damage(file, lane, note)
    await bed.start_gateway({"sqlite": {"file": "spool.db", "read_error_from": offsets[0], "read_error_to": offsets[0] + PAGE}})
    await bed.settle()
    excuse(bed, lane, numbers)


@scenario("the text of some stanzas was altered on the disk", seconds=70)
async def altered_rows(context: ScenarioContext) -> None:
    """A stanza that differs from the accepted one is not delivered."""
    bed = context.testbed()
    lane, file = await filled(bed, 1000)
    altered: list[str] = []

    def change(data: bytearray, at: int) -> None:
        data[at : at + PAGE] = data[at : at + PAGE].replace(b"nothing is lost", b"nothing is LOST")

    numbers = damage(file, lane, change)

    def arrived(element: Any, sender: str, stream: Any) -> None:
        if "LOST" in (element.findtext("{jabber:server}body") or ""):
            altered.append(element.get("id", ""))

    bed.servers["away.example"].on_stanza = arrived
    await bed.start_gateway()
    await bed.settle()
    bed.check(not altered, f"{len(altered)} of {len(numbers)} altered stanzas were delivered, such as {altered[:1]}")
    excuse(bed, lane, numbers)


@scenario("a frame in the middle of the write-ahead log is damaged", seconds=70)
async def damaged_log(context: ScenarioContext) -> None:
    """SQLite stops at the bad frame without an error. Stanzas after it are kept and reported, if not delivered."""
    bed = context.testbed()
    lane, file = await filled(bed, 1000, kill=True)
    log = file.with_name("spool.db-wal")
    data = bytearray(log.read_bytes())
    middle = 32 + (len(data) - 32) // (PAGE + 24) // 2 * (PAGE + 24) + 24 + 2000
    data[middle] ^= 0xFF
    log.write_bytes(data)
    await bed.start_gateway()
    await bed.settle()
    missing = lane.account.missing()
    kept = [path.name for path in bed.state.iterdir() if path.name not in ("spool.db", "spool.db-wal") and "wal" in path.name]
    said = [line for line in bed.log().splitlines() if "log" in line and ("damage" in line or "frame" in line or "aside" in line)]
    bed.check(not missing or (kept and said), f"{len(missing)} are missing, and there is neither a copy of the log nor a message")
    if kept and said:
        lane.account.withdrawn.update(missing)
        bed.note(f"{len(missing)} could not be read, the log is kept as {kept[0]}")


@scenario("the gateway starts on a full disk", seconds=70)
async def start_on_full_disk(context: ScenarioContext) -> None:
    """A restart loses nothing: the spool is delivered, and stanzas that can be passed on are accepted."""
    bed = context.testbed()
    lane, _ = await filled(bed, 200)
    friend = bed.peer("friend.example")
    bed.configure()
    await friend.start()
    through = bed.pair(bed.servers["inside.example"], friend)
    bed.servers["inside.example"].run(through)
    await bed.servers["away.example"].come_back()
    bed.begin_gateway({"sqlite": {"full": True}, "files_full": True})
    try:
        await bed.runner.ready()
    except LabError as error:
        bed.check(False, f"it does not start on a full disk: {str(error).splitlines()[-1][-200:]}")
        bed.runner.process.kill()
        bed.allowed_statuses = {0, 1}
        await bed.start_gateway()
    through.send(50)
    await bed.until(lambda: not lane.account.missing(), 15, "the spool is not delivered")
    await bed.until(lambda: len(through.account.arrived) == 50, 10, "no new stanza is passed on")
    await bed.faults(sqlite={}, files_full=False)
    await bed.settle()
