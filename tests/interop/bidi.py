"""One stream for both directions (XEP-0288) and its acknowledgements (XEP-0198), with a Prosody outside that supports both."""

from __future__ import annotations

import asyncio
from functools import partial

from tests.interop.conversation import conversation, talk
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.servers import prosody
from tests.lab.world import OUTSIDE, World, world


def _stage(first: str) -> Stage:
    """`first` is the side that opens the stream."""
    bidi = partial(prosody.start, bidi=True)
    made = Stage(f"one stream for both directions, opened by {first}", lambda lab: world(lab, "prosody", "prosody", start=bidi))
    label = f"one stream, opened by {first}"

    @made.scenario(f"{label}: R36, the reply comes on the stream that brought the request")
    async def _both_ways(at: World) -> None:
        ways = at.ends.ways() if first == "the gateway" else tuple(reversed(at.ends.ways()))
        for sender, receiver in ways:
            await talk(sender, receiver, f"on one stream from {sender.jid}")
        rows = await asyncio.to_thread(at.gateway.asked, "streams")
        legs = [(row["direction"], row["method"], row["address"]) for row in rows if row["leg"] == "federation"]
        expect(len({address for _, _, address in legs}), 1, f"connections of the federation leg, of {legs}")
        log = at.outside.logged()
        way = "Requested bidirectional" if first == "the gateway" else "Requesting bidirectional"
        check(way in log, f"{OUTSIDE}: no {way!r}")
        step(f"{legs}")

    conversation(made, label)

    @made.scenario(f"{label}: R35, each direction is acknowledged")
    async def _acknowledged(at: World) -> None:
        log = at.outside.logged()
        stream = "s2sin" if first == "the gateway" else "s2sout"
        for words in ("Received ack request, acking for", f"Received[{stream}]: <a "):
            check(words in log, f"{OUTSIDE}: no {words!r}")
        check("<resume " not in log + at.behind.logged(), "a Prosody, which gives no id, was asked to resume")
        check("handled-count-too-high" not in log + at.behind.logged(), "an impossible h")
        step(f"{log.count('<a ')} acknowledgements received by {OUTSIDE}")

    return made


gateway_first, peer_first = _stage("the gateway"), _stage("the peer")
