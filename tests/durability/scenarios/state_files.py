"""Files of the gateway's state other than the spool differ from what was written."""

from __future__ import annotations

import asyncio

from tests.durability.scenario import ScenarioContext, scenario
from tests.lab.lab import LabError


@scenario("state/secret has {0} bytes", (0,), (5,))
async def short_secret(context: ScenarioContext, size: int) -> None:
    """Dialback keys are made from the secret, so a short secret lets others forge them. The start refuses it in one line."""
    bed = context.testbed()
    bed.local()
    await bed.start()
    await asyncio.sleep(1)  # or SIGTERM comes before the gateway handles it
    await bed.stop()
    secret = bed.state / "secret"
    kept = secret.read_bytes()
    secret.write_bytes(kept[:size])
    bed.allowed_statuses = {1}
    bed.begin_gateway()
    try:
        await bed.runner.ready()
    except LabError:
        status = bed.runner.process.status
        bed.check(status == 1, f"the start ended with status {status}")
        bed.check("secret" in bed.runner.process.output(5), "the last lines of the log do not name the file")
    else:
        bed.check(False, "it starts, with a secret that can be guessed")
    await bed.runner.ended()
    bed.allowed_statuses = {0}
    secret.write_bytes(kept)
    await bed.start_gateway()
    await asyncio.sleep(1)


@scenario("peers.sqlite is {0}", ("rubbish",), ("empty",))
async def damaged_peer_database(context: ScenarioContext, kind: str) -> None:
    """Records of peers are lost, which is reported. Stanzas are still passed on, or the start refuses the file in one line."""
    bed = context.testbed()
    inside, peer = bed.local(), bed.peer("peer.example")
    lane, back = bed.pairs(inside, peer)
    await bed.start()
    lane.send(20)
    await bed.until(lambda: len(lane.account.arrived) == 20, 10, "nothing arrives")
    await bed.stop()
    for path in bed.state.glob("peers.sqlite*"):
        path.write_bytes(b"" if kind == "empty" else b"\xa5" * 4096)
    bed.begin_gateway()
    try:
        await bed.runner.ready()
    except LabError:
        status = bed.runner.process.status
        bed.check(status == 1, f"the start ended with status {status}")
        bed.check("peers.sqlite" in bed.runner.process.output(5), "the last lines of the log do not name the file")
        bed.note("the gateway refused to start")
        await bed.runner.ended()
        for path in bed.state.glob("peers.sqlite*"):
            path.unlink()
        await bed.start_gateway()
    lane.send(20)
    back.send(20)
    await bed.settle()
