"""Many lanes need the same look-up at the same moment."""

from __future__ import annotations

from tests.durability.custody_testbed import INSIDE
from tests.durability.scenario import ScenarioContext, scenario
from tests.durability.simulated_nameserver import SimulatedNameserver


@scenario(
    "{0} local domains write to {1} at once, all of which must be looked up; the name server {2}",
    (300, "one peer", "refuses"), (300, "one peer", "is silent"), (200, "a peer each", "answers"), seconds=70,
)
async def many_pairs_resolve(context: ScenarioContext, number: int, recipients: str, kind: str) -> None:
    """The answers of many look-ups that end together are processed one after another. Stanzas that are not bounced in time are held."""
    bed = context.testbed(queue={"hold": "10s"} if kind == "answers" else {})
    port = bed.lab.port()
    bed.use_nameserver(port)
    if kind != "refuses":
        server = SimulatedNameserver()
        server.mode, server.default_port, server.seconds = "is silent" if kind == "is silent" else "answers", 1, 1.0
        await server.listen(port)
    inside = bed.local()
    if recipients == "one peer":
        names = bed.subdomains[INSIDE] = [f"room{each}.{INSIDE}" for each in range(number)]
        traffics = [bed.traffic(inside, "far.example", domain=name, size=100) for name in (INSIDE, *names)]
    else:
        traffics = [bed.traffic(inside, f"far{each}.example", size=100) for each in range(number)]
    stream = bed.stream(inside, *traffics)
    await bed.start()
    await bed.until(lambda: stream.stream is not None, 40, "the stream is not ready")
    for traffic in traffics:
        traffic.due = 1
    await bed.until(lambda: not stream.owes(), 30, "not everything is acknowledged")
    await bed.until(lambda: not any(account.missing() for account in bed.accounts), 15)
