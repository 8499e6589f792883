"""Addresses: names at this machine, in private networks or at metadata services cause no connection of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
import xml.etree.ElementTree as ET
from functools import partial

from tests.attack.shared import VICTIM_PORT, begin, no_dial, source, told_at_once
from tests.attack.world import INSIDE, AttackWorld, attack_world
from tests.lab.peer import PeerError
from tests.lab.scenario import Stage, check, expect, step

#: Domains that are, or whose servers are, at addresses to which no stranger may direct the gateway.
HIDDEN, ITSELF = "hidden.test", "itself.test"
NOT_PUBLIC = [
    "127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.168.1.1", "224.0.0.1", "255.255.255.255", "::1", "::",
    "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1", "fc00::1", "2002:7f00:1::1", "ff02::1",
]
stage = Stage("addresses that are not public", partial(
    attack_world, changes={"dns": {"private_addresses": "refuse"}, "peers": {"default": {"dialback": "with-tls"}}},
    services={HIDDEN: (HIDDEN, VICTIM_PORT, 8)}, addresses={HIDDEN: NOT_PUBLIC, ITSELF: NOT_PUBLIC, "fresh.example": ["9.9.9.9"]},
))


def claims(port: int, seconds: float) -> None:
    """Claim domains at such addresses, and request dialback for them."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        zone = (HIDDEN, ITSELF)[number % 2]
        with contextlib.suppress(OSError, PeerError, ET.ParseError), contextlib.closing(
            begin(port, f"127.54.{number % 250}.1", "tls", f"n{number}-{int(end)}.{zone}", None),
        ) as stream:
            stream.send(f"<db:result from='n{number}-{int(end)}.{zone}' to='{INSIDE}'>0</db:result>")
            stream.end(1.0)
        time.sleep(0.02)


@stage.scenario("domains at loopback, private, link-local, mapped and other addresses that are not public")
async def _hidden(at: AttackWorld) -> None:
    with no_dial() as dials:
        async with at.under(claims, 5):
            for zone in (HIDDEN, ITSELF):
                answers = [await asyncio.to_thread(told_at_once, at.port, source(), f"x{number}.{zone}") for number in range(16)]
                expect(set(answers), {"remote-connection-failed"}, f"answers to domains in {zone}")
        expect(dials(), 0, "connections to this machine")
    rows = at.gateway.asked("refusals")
    causes = {row["cause"] for row in rows if str(row.get("peer", "")).endswith((HIDDEN, ITSELF))}
    step(f"causes: {', '.join(sorted(causes))}")
    check("private-address" in causes, "the record has no reason")
