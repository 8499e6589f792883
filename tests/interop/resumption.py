"""Streams that break and are resumed (XEP-0198 §5): between two gateways on a line that is cut, and by a raw peer."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.interop.conversation import Ends, collect, login, talk
from tests.lab.certificates import Authority
from tests.lab.client import Client, body
from tests.lab.gateway import Gateway, gateway
from tests.lab.guests import Door, door, visit
from tests.lab.lab import Lab
from tests.lab.nameserver import nameserver
from tests.lab.peer import Stream, stream_error
from tests.lab.relay import Relay
from tests.lab.scenario import Stage, check, expect, expect_in_order, step
from tests.lab.world import INSIDE, OUTSIDE, Front

SM = "{urn:xmpp:sm:3}"
_SM = "xmlns='urn:xmpp:sm:3'"
#: Messages in each direction while the line is cut this many times; seconds between cuts.
MANY, CUTS, BETWEEN = 2000, 12, 0.5


# --- two gateways ----------------------------------------------------------------------------------------------------


@dataclass
class Two:
    """A Prosody behind each of two gateways, and the lines to each; fits `HasEnds`."""

    doors: tuple[Gateway, Gateway]
    lines: tuple[Relay, Relay]
    ends: Ends


def _stage(bidi: bool) -> Stage:
    @asynccontextmanager
    async def two(lab: Lab) -> AsyncIterator[Two]:
        dns, authority = nameserver(lab), Authority(lab.directory("authority"))
        doors = gateway(lab, INSIDE), gateway(lab, OUTSIDE)
        lines = Relay(lab, doors[0].port), Relay(lab, doors[1].port)
        for each, line in zip(doors, lines, strict=True):
            dns.serve(each.domain, line.port)
        dns.start()
        changes = {"peers": {"default": {"features": {"bidi": bidi}}}}
        near, far = (Front(each, "prosody", [authority.for_domain(each.domain)], changes).start(dns, authority) for each in doors)
        made = Two(doors, lines, Ends(near, far, await login(near, "juliet"), await login(far, "romeo")))
        try:
            yield made
        finally:
            await made.ends.close()
            for each in doors:
                each.stop()
            for line in lines:
                line.close()

    words = "one stream for both directions" if bidi else "a stream for each direction"
    stage = Stage(f"two gateways on a line that is cut, {words}", two)

    title = f"R35, {words}: {MANY} messages in each direction while the line is cut {CUTS} times: none lost, none twice, in order"

    @stage.scenario(title, 120.0)
    async def _cut(at: Two) -> None:
        for _ in range(2):
            for sender, receiver in at.ends.ways():
                await talk(sender, receiver, f"before the cuts, from {sender.jid}")
        traffic = [asyncio.ensure_future(_pour(sender, receiver, way)) for way, (sender, receiver) in enumerate(at.ends.ways())]
        await _cuts(at.lines)
        for arrived in await asyncio.gather(*traffic):
            step(arrived)
        cuts = sum(line.cuts for line in at.lines)
        told = [await asyncio.to_thread(each.asked, "status") for each in at.doors]
        outcomes: Counter[str] = Counter()
        for row in (row for status in told for row in status["stanzas"]):
            outcomes[row["outcome"]] += row["number"]
        resumed = [each.logged().count("stream resumed") for each in at.doors]
        step(f"{cuts} cuts; lines of the log that say 'stream resumed': {resumed}; {dict(outcomes)}")
        check(all(resumed), "a gateway resumed no stream")
        forbidden = {"duplicate", "bounced"}
        if min(resumed) >= cuts:  # else a stream was not resumed: it was cut before any acknowledgement, and its extensions are suspected
            forbidden.add("resent")
        doubtful = {key: number for key, number in outcomes.items() if key in forbidden}
        expect(doubtful, {}, "stanzas sent twice, or in doubt")

    return stage


async def _pour(sender: Client, receiver: Client, way: int) -> str:
    texts = [f"way {way} number {number}" for number in range(MANY)]
    reading = asyncio.ensure_future(collect(receiver, len(texts), f"way {way} ", 90.0))
    for number, text in enumerate(texts):
        await sender.message(receiver.jid, text)
        if number % 20 == 0:
            await asyncio.sleep(CUTS * BETWEEN * 20 / MANY)
    expect_in_order([body(one) for one in await reading], texts, f"{sender.jid} -> {receiver.jid}")
    await asyncio.sleep(1.0)
    late = receiver.take(lambda got: (body(got) or "").startswith(f"way {way} "))
    check(late is None, f"one message arrived twice: {late is not None and body(late)}")
    return f"{MANY} messages {sender.jid} -> {receiver.jid}"


async def _cuts(lines: tuple[Relay, Relay]) -> None:
    """Cut the line repeatedly. Every other time the line drops all data for a moment before it is cut."""
    dice = random.Random(4)
    for number in range(CUTS):
        await asyncio.sleep(BETWEEN * (0.5 + dice.random()))
        if number % 2:
            for line in lines:
                line.swallow()
            await asyncio.sleep(0.1)
        for line in lines:
            line.cut()


both_ways, each_way = _stage(True), _stage(False)


# --- a raw peer ------------------------------------------------------------------------------------------------------

FRIEND, OTHER = "friend.example", "other.example"
raw = Stage("a raw peer that resumes", door)


def _begin(at: Door, domain: str = FRIEND) -> tuple[Stream, str]:
    """Return a managed stream, and the id that resumes it."""
    stream = at.enter(domain)
    stream.send(f"<enable {_SM} resume='true'/>")
    enabled = stream.expect(f"{SM}enabled")
    expect(enabled.get("resume"), "true", "resume")
    expect(enabled.get("max"), "120", "max")
    check(len(enabled.get("id") or "") >= 16, f"an id that can be guessed: {enabled.get('id')!r}")
    return stream, enabled.get("id") or ""


def _break(stream: Stream) -> None:
    """Reset the connection."""
    stream.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def _resume(stream: Stream, id: str, h: int) -> ET.Element:
    stream.send(f"<resume {_SM} previd='{id}' h='{h}'/>")
    return stream.expect(f"{SM}resumed", f"{SM}failed")


def _asks(stream: Stream) -> int:
    """Return the number of the peer's stanzas that are safe."""
    stream.send(f"<r {_SM}/>")
    return int(stream.expect(f"{SM}a").get("h") or -1)


def _failed(answer: ET.Element, h: str | None = None) -> None:
    expect(answer.tag, f"{SM}failed", "the answer")
    expect([child.tag.rpartition("}")[2] for child in answer], ["item-not-found"], "the condition")
    expect(answer.get("h"), h, "h")


@visit(raw, "R35: a stream that was reset is resumed: stanzas after `h` are sent again, and arrive once")
def _resumes(at: Door) -> None:
    stream, id = _begin(at)
    texts = [f"resumed {number}" for number in range(4)]
    for text in texts[:2]:
        stream.send(at.message(FRIEND, text))
        at.delivered(text)
    _break(stream)
    stream = at.enter(FRIEND)
    answer = _resume(stream, id, 0)
    expect((answer.tag, answer.get("previd")), (f"{SM}resumed", id), "the answer")
    h = int(answer.get("h") or -1)
    for text in texts[h:]:
        stream.send(at.message(FRIEND, text))
    for text in texts[2:]:
        at.delivered(text)
    late = at.made.ends.left.take(lambda got: (body(got) or "").startswith("resumed "))
    check(late is None, "a message arrived twice")
    step(f"resumed at h={h}; {_asks(stream)} acknowledged since")
    [row] = [row for row in at.made.gateway.asked("streams", FRIEND) if row["leg"] == "federation"]
    expect(row["resumption"], "resumed", "s2sgw streams")
    stream.send("</stream:stream>")
    stream.end()


@visit(raw, "R35: a stream that is still open is taken over, and ended with <conflict/>")
def _takes_over(at: Door) -> None:
    former, id = _begin(at)
    stream = at.enter(FRIEND)
    expect(_resume(stream, id, 0).tag, f"{SM}resumed", "the answer")
    expect(former.end()[0], "conflict", "the end of the old stream")
    _break(stream)


@visit(raw, "R35: a stream is not resumed with a wrong id, by another peer, or after it was closed; the new stream continues without it")
def _not_resumed(at: Door) -> None:
    stream, id = _begin(at)
    _break(stream)
    other = at.enter(OTHER)
    _failed(_resume(other, id, 0))
    other.send(f"<enable {_SM}/>" + at.message(OTHER, "without resumption"))
    other.expect(f"{SM}enabled")
    at.delivered("without resumption")
    other.close()
    stream = at.enter(FRIEND)
    _failed(_resume(stream, id + "x", 0))
    expect(_resume(stream, id, 0).tag, f"{SM}resumed", "by its owner")
    stream.send("</stream:stream>")
    stream.end()
    stream = at.enter(FRIEND)
    _failed(_resume(stream, id, 0))
    stream.close()


@visit(raw, "R35: an `h` that is too high is an error, and does not affect the broken stream")
def _too_high(at: Door) -> None:
    stream, id = _begin(at)
    _break(stream)
    stream = at.enter(FRIEND)
    stream.send(f"<resume {_SM} previd='{id}' h='1'/>")
    answer = stream.expect("{http://etherx.jabber.org/streams}error")
    expect(stream_error(answer)[0], "undefined-condition", "the error")
    check(any(child.tag == f"{SM}handled-count-too-high" for child in answer), "the count is not mentioned")
    stream.close()
    stream = at.enter(FRIEND)
    expect(_resume(stream, id, 0).tag, f"{SM}resumed", "with the right one")
    stream.close()
