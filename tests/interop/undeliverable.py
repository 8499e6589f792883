"""Errors that the users of the existing server get when a peer cannot be reached or proven (R12, R33, R34)."""

from __future__ import annotations

import asyncio
import threading
import time
import xml.etree.ElementTree as ET

from tests.lab.certificates import Certificate, Names
from tests.lab.client import Client, body, error
from tests.lab.guests import BROKEN, NOWHERE, SILENT, Door, door, visit
from tests.lab.peer import SERVER, Stream
from tests.lab.receiver import Receiver
from tests.lab.scenario import Stage, check, expect, expect_in_order, step

stage = Stage("errors that users get about peers", door)


def receiver(at: Door, domain: str, certificate: Certificate, **options: object) -> Receiver:
    """Return a listening peer that is in the DNS."""
    made = Receiver(at.made.lab, domain, certificate, str(at.made.authority.file), **options)  # type: ignore[arg-type]
    at.made.dns.serve(domain, made.port)
    at.made.dns.reload()
    return made


def _wait(at: Door, what: object, seconds: float) -> object:
    return asyncio.run_coroutine_threadsafe(what, at.loop).result(seconds)  # type: ignore[arg-type]


def _juliet(at: Door) -> Client:
    return at.made.ends.left


def _bounced(at: Door, to: str, wanted: tuple[str, ...], seconds: float = 20.0) -> str:
    """Check that a message to `to` is bounced once, from its address, without its payload."""
    async def ask() -> ET.Element:
        ident = await _juliet(at).message(to, "a secret that must not come back")
        return await _juliet(at).wait(lambda got: got.get("id") == ident and got.get("type") == "error", seconds, "a bounce")
    start = time.monotonic()
    got = _wait(at, ask(), seconds + 2)
    assert isinstance(got, ET.Element)
    condition, text = error(got)
    step(f"{to}: {condition} after {time.monotonic() - start:.1f} s, {text!r}")
    check(condition in wanted, f"{to}: {condition} ({text}), expected {' or '.join(wanted)}")
    expect(got.get("from"), to, "from of the bounce")
    check(body(got) is None, "the payload was echoed")
    check(text, "the bounce has no text")
    check(to.partition("@")[2].partition("/")[0] not in text, "the peer's name is in the text")
    return condition


@visit(stage, "a peer that does not exist: remote-server-not-found, at once")
def _nowhere(at: Door) -> None:
    _bounced(at, f"a@{NOWHERE}/x", ("remote-server-not-found",), 6.0)


@visit(stage, "a peer whose DNS look-up fails (SERVFAIL, no answer), or where nothing listens: remote-server-timeout")
def _unreachable(at: Door) -> None:
    for domain in (BROKEN, SILENT):
        _bounced(at, f"a@{domain}/x", ("remote-server-timeout",))
    _bounced(at, "a@friend.example/x", ("remote-server-timeout",))


@visit(stage, "an IQ to a peer that does not exist gets an error, and no bounce is bounced")
def _iq(at: Door) -> None:
    got = _wait(at, _juliet(at).ping(NOWHERE), 20.0)
    assert isinstance(got, ET.Element)
    expect(got.get("type"), "error", "type")
    expect(error(got)[0], "remote-server-not-found", "condition")


@visit(stage, "a raw receiver gets messages by EXTERNAL, in order; the gateway presented its own certificate")
def _received(at: Door) -> None:
    """Send one message before the gateway connects, many while it waits for an answer, many on the open stream.

    The first is alone because Prosody does not keep the order while its own stream is being opened: stanzas that it routes between `<success/>` and
    the features of the new stream overtake queued ones (0.12.3, mod_s2s `route_to_existing_session`).
    """
    dialled, answer = threading.Event(), threading.Event()

    def opens() -> None:
        dialled.set()
        answer.wait(10.0)
    far = receiver(at, "listener.example", at.certificate("listener.example"), opens=opens)
    texts = [f"number {number}" for number in range(200)]

    async def send(some: list[str]) -> None:
        for text in some:
            await _juliet(at).message("a@listener.example/x", text)
    _wait(at, send(texts[:1]), 10.0)
    check(dialled.wait(10.0), "the gateway does not connect")
    _wait(at, send(texts[1:100]), 10.0)
    answer.set()
    _wait(at, send(texts[100:]), 10.0)
    got = [one.findtext(f"{SERVER}body") for one in far.wait(len(texts))]
    expect_in_order(got, texts, "in order")
    expect(far.connections, 1, "connections")
    far.close()


def _unproven(at: Door, domain: str, certificate: Certificate) -> None:
    far = receiver(at, domain, certificate)
    _bounced(at, f"a@{domain}/x", ("policy-violation", "remote-server-timeout", "remote-server-not-found"))
    expect(far.stanzas, [], "stanzas that arrived")
    check(not any("auth" in said for said in far.said), f"the gateway authenticated to it: {far.said}")
    far.close()


@visit(stage, "a peer with an untrusted certificate, or with that of another domain, gets no stanza")
def _wrong(at: Door) -> None:
    _unproven(at, "untrusted-far.example", at.stranger.issue(Names(dns=("untrusted-far.example",))))
    _unproven(at, "mismatch-far.example", at.certificate("friend.example"))
    _unproven(at, "common-far.example", at.certificate("", Names(common="common-far.example")))


@visit(stage, "a reply arrives on another stream")
def _answer(at: Door) -> None:
    streams: list[Stream] = []

    def answer(_: Stream, element: ET.Element) -> None:
        back = at.enter("replier.example")
        streams.append(back)  # a socket that is closed with unread data is reset
        ident = element.get("id", "")
        back.send(f"<iq type='result' from='{element.get('to')}' to='{element.get('from')}' id='{ident}'/>")
    far = receiver(at, "replier.example", at.certificate("replier.example"), answers=answer)
    got = _wait(at, _juliet(at).ping("replier.example"), 20.0)
    assert isinstance(got, ET.Element)
    expect(got.get("type"), "result", "type")
    for stream in streams:
        stream.close()
    far.close()
