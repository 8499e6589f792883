"""A peer with an unannounced limit, which reads nothing after a larger stanza, as jabberd2 does."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.lab import short_timeouts
from tests.lab.client import Client
from tests.lab.lab import Lab
from tests.lab.peer import SASL, SERVER, PeerError, Stream, is_barrier
from tests.lab.receiver import EXTERNAL, Receiver
from tests.lab.scenario import Stage, check, expect, step
from tests.lab.world import World, world

#: The limit in bytes; the bytes of the larger stanza; and the seconds for which nothing is read.
MOST, LARGE, STUCK = 20_000, 50_000, 60.0
_SM = "{urn:xmpp:sm:3}"
_BIDI = "urn:xmpp:bidi"


class Choking(Receiver):
    """A peer that acknowledges (XEP-0198) if it is `managed`; else it answers pings, on the same stream (XEP-0288)."""

    def __init__(self, made: World, domain: str, managed: bool) -> None:
        self._managed = managed
        self._counts: Counter[Stream] = Counter()
        self.over = threading.Event()
        super().__init__(made.lab, domain, made.authority.for_domain(domain), str(made.authority.file))

    def _authenticate(self, stream: Stream) -> None:
        self._open(stream, EXTERNAL if self._managed else f"{EXTERNAL}<bidi xmlns='urn:xmpp:features:bidi'/>")
        if not self._managed:
            self._hears(stream, f"{{{_BIDI}}}bidi")
        self._hears(stream, f"{SASL}auth")
        stream.restart()
        stream.send("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        self._open(stream, "<sm xmlns='urn:xmpp:sm:3'/>" if self._managed else "")

    def _heard(self, stream: Stream, element: ET.Element) -> None:
        if element.tag == f"{_SM}enable":
            stream.send("<enabled xmlns='urn:xmpp:sm:3'/>")
        elif element.tag == f"{_SM}r":
            stream.send(f"<a xmlns='urn:xmpp:sm:3' h='{self._counts[stream]}'/>")
        elif len(ET.tostring(element)) > MOST:
            self.over.wait(STUCK)
            raise PeerError("it has choked")
        else:
            self._takes(stream, element)

    def _takes(self, stream: Stream, element: ET.Element) -> None:
        self._counts[stream] += 1
        if is_barrier(element) and not self._managed:
            names = f"from='{element.get('to')}' to='{element.get('from')}'"
            stream.send(f"<iq type='result' {names} id='{element.get('id')}'/>")
        super()._heard(stream, element)

    def bodies(self) -> list[str]:
        return [each.findtext(f"{SERVER}body") or "" for each in self.stanzas]


@asynccontextmanager
async def _world(lab: Lab) -> AsyncIterator[World]:
    async with world(lab, "prosody", "prosody") as made:
        door = made.gateway
        door.stop()
        lab.wait_for_port(door.begin(sys.executable, "-m", "tests.lab.short_timeouts"), door.port)
        yield made


stage = Stage("a peer that stops reading at a large stanza, without an announced limit", _world)


@stage.scenario("by pings and by XEP-0198: only the large stanza is bounced, in a bounded time, and its neighbours arrive", 120.0)
async def _found(made: World) -> None:
    far = {managed: Choking(made, f"choking-{name}.example", managed) for managed, name in ((False, "pings"), (True, "sm"))}
    for each in far.values():
        made.dns.serve(each.domain, each.port)
    made.dns.reload()
    bounds = {False: 2 * short_timeouts.PING_SECONDS, True: 2 * short_timeouts.OVERDUE_SECONDS}
    await asyncio.gather(*(_chokes(made.ends.left, far[managed], bounds[managed]) for managed in far))
    rows = made.gateway.asked("queue", "list", "--poison")
    expect(sorted(row["cause"] for row in rows), ["answered no more, twice"] * 2, "the quarantine")
    check("Traceback" not in made.gateway.logged(), "a traceback in the gateway's log")


async def _chokes(juliet: Client, far: Choking, bound: float) -> None:
    to = f"a@{far.domain}/x"
    await juliet.message(to, "first")
    await asyncio.to_thread(far.wait, 1)
    start = time.monotonic()
    await juliet.message(to, "before")
    large = await juliet.message(to, "x" * LARGE)
    await juliet.message(to, "behind")
    condition, text = await juliet.wait_error(large, bound + 15.0)
    seconds = time.monotonic() - start
    expect(condition, "policy-violation", "the error")
    check("poison" in text, f"its text is {text!r}")
    await juliet.message(to, "last")
    async with asyncio.timeout(15.0):
        while "last" not in far.bodies():
            await asyncio.sleep(0.1)
    far.over.set()
    step(f"{far.domain}: found after {seconds:.1f} s (twice {bound / 2:g} of silence), {far.connections} streams: {far.bodies()}")
    often = Counter(far.bodies())
    check(often["first"] == often["last"] == 1 and {often["before"], often["behind"]} <= {1, 2}, f"copies that arrived: {often}")
    expect(list(dict.fromkeys(far.bodies())), ["first", "before", "behind", "last"], "the order")
    expect(far.connections, 3, "streams")
    far.close()
