"""`s2sgw probe` against real servers: successful steps, and for each failure the step, the remedy, and the side at fault."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.lab.scenario import Stage, check, expect, step
from tests.lab.world import OUTSIDE, World, world

stage = Stage("s2sgw probe: a peer is tried step by step", lambda lab: world(lab, "prosody", "prosody"))


async def _probe(made: World, domain: str, *more: str) -> dict[str, Any]:
    """Return the report of a probe; print it as an operator sees it."""
    text = await asyncio.to_thread(made.gateway.command, "probe", domain, *more, check=False)
    for line in text.splitlines():
        step(line)
    found = await asyncio.to_thread(made.gateway.command, "probe", domain, *more, "--json", check=False)
    return dict(json.loads(found))


def _failed(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["step"], row["whose"]) for row in report["steps"] if row["ok"] is False]


@stage.scenario("a good peer: every step, by EXTERNAL, and the verdict of our policy")
async def _good(made: World) -> None:
    report = await _probe(made, OUTSIDE, "--inbound")
    # the server listens on one of the two addresses of `localhost`
    expect((report["verdict"], set(_failed(report)) - {("tcp", "theirs")}), ("federates", set()), "verdict and failed steps")
    seen = {row["step"] for row in report["steps"]}
    wanted = {"srv", "address", "tcp", "tls", "certificate", "names", "dane", "features", "sasl", "dialback", "ping", "policy"}
    check(seen >= wanted, f"steps are missing: {wanted - seen}")
    (sasl,) = [row for row in report["steps"] if row["step"] == "sasl"]
    check("EXTERNAL accepted" in sasl["detail"], sasl["detail"])


@stage.scenario("a domain without DNS, and a server that does not listen")
async def _bad(made: World) -> None:
    nowhere = await _probe(made, "nowhere.example")
    expect((nowhere["verdict"], _failed(nowhere)), ("fails", [("srv", "theirs")]), "a domain that does not exist")
    made.dns.serve("down.example", made.lab.port())
    made.dns.reload()
    down = await _probe(made, "down.example")
    expect((down["verdict"], _failed(down)), ("fails", [("tcp", "theirs")] * 2), "a server that does not listen")




@stage.scenario("check --live: our server answers, trusts us and asks our DNS view; our DNS leads here; certificates, disk, clock")
async def _live(made: World) -> None:
    text = await asyncio.to_thread(made.gateway.command, "check", "--live", check=False)
    for line in text.splitlines():
        step(line)
    found = json.loads(await asyncio.to_thread(made.gateway.command, "check", "--live", "--json", check=False))
    facts = {row["check"]: row["ok"] for row in found["live"]}
    for name in ("gateway", "backend", "dns-view", "certificate", "state"):
        check(facts[name] is True, f"{name}: {[row for row in found['live'] if row['check'] == name]}")
    check(any(row["check"] == "dns" and "leads here, and answers" in row["detail"] for row in found["live"]), "our DNS does not lead here")


@stage.scenario("without a running gateway")
async def _alone(made: World) -> None:
    await asyncio.to_thread(made.gateway.stop)
    report = await _probe(made, OUTSIDE)
    expect(report["verdict"], "federates", "verdict without a running gateway")
