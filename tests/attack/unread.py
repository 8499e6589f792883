"""Peers that never read, acknowledge stanzas that were never sent, or send as fast as they can."""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.attack.honest import connect
from tests.attack.shared import GUESTS, SECONDS, Case, Cases, Phase, begin, guest, played, source, stage
from tests.attack.world import INSIDE, AttackWorld
from tests.lab.certificates import Certificate
from tests.lab.peer import PeerError, Stream
from tests.lab.scenario import check, step

#: Memory for a hundred peers that read nothing, while they are connected.
OWED_BYTES = 30_000_000
#: The number of streams that read nothing.
STREAMS = 60
_SM = "xmlns='urn:xmpp:sm:3'"

#: Sub-domains of a peer that all send at once, and the memory of the errors to them that wait: the peer has its share of the queue.
MANY, WAITING_BYTES = 80, 70_000_000


def never_read(port: int, phase: Phase, files: tuple[str, str], text: str, number: int, seconds: float) -> None:
    """Send `text` on several streams as fast as possible, and read nothing."""
    certificate, end = Certificate(Path(files[0]), Path(files[1])), time.monotonic() + seconds
    streams: list[Stream] = []
    for at in range(number):
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            stream = begin(port, f"127.50.{at}.1", phase, f"u{at}.{GUESTS}", certificate)
            stream.raw.setblocking(False)
            streams.append(stream)
    said = (text * (16_000 // len(text) + 1)).encode()
    while time.monotonic() < end and streams:
        _, writable, _ = select.select([], [stream.raw for stream in streams], [], 0.2)
        for stream in [stream for stream in streams if stream.raw in writable]:
            try:
                stream.raw.send(said)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                streams.remove(stream)
        time.sleep(0.02)


async def _owed(at: AttackWorld, phase: Phase, text: str) -> None:
    certificate = guest(at)
    before, most = at.process.resident_bytes(), 0
    async with at.under(
        never_read, 6, phase=phase, files=(str(certificate.chain), str(certificate.key)), text=text, number=STREAMS,
    ):
        for _ in range(20):
            await asyncio.sleep(0.25)
            most = max(most, at.process.resident_bytes() - before)
        step(f"memory {most / 1e6:+.1f} MB at most")
    check(most <= OWED_BYTES, f"{STREAMS} streams that read nothing cost {most / 1e6:.0f} MB")


@stage.scenario("strangers that ask without end and never read the answers", quick=True)
async def _unproven(at: AttackWorld) -> None:
    await _owed(at, "tls", f"<db:verify from='u.{GUESTS}' to='{INSIDE}' id='{'&apos;' * 150}'>0</db:verify>")


@stage.scenario("proven peers that ask for acknowledgements without end and never read them")
async def _acknowledged(at: AttackWorld) -> None:
    await _owed(at, "proven", f"<r {_SM}/>")


@stage.scenario("proven peers that ask for dialback without end and never read the answers")
async def _asked(at: AttackWorld) -> None:
    await _owed(at, "proven", f"<db:result from='x.{GUESTS}' to='elsewhere.example' id='{'&apos;' * 150}'>0</db:result>")


# --- acknowledgements ------------------------------------------------------------------------------------------------

_ENABLE = f"<enable {_SM} resume='true'/>"
CASES: Cases = {
    name: Case("proven", lambda _, said=said: said.encode(), wanted)  # type: ignore[misc]
    for name, said, wanted in (
        ("more than was sent", f"{_ENABLE}<a {_SM} h='4294967295'/>", ("undefined-condition",)),
        ("less than nothing", f"{_ENABLE}<a {_SM} h='-1'/>", ("undefined-condition", "bad-format", "policy-violation", "open")),
        ("a number of a million digits", f"{_ENABLE}<a {_SM} h='{'9' * 60_000}'/>", ("undefined-condition", "bad-format", "policy-violation", "open")),
        ("no number", f"{_ENABLE}<a {_SM} h='x'/>", ("undefined-condition", "bad-format", "policy-violation", "open")),
        ("an answer before it is enabled", f"<a {_SM} h='1'/>", ("undefined-condition", "unsupported-stanza-type", "policy-violation", "open")),
        ("enabled twice", _ENABLE * 2, ("undefined-condition", "unsupported-stanza-type", "policy-violation", "open")),
        ("enabled a thousand times", _ENABLE * 1000, ("undefined-condition", "unsupported-stanza-type", "policy-violation", "open")),
        ("resumed a thousand times", f"<resume {_SM} previd='x' h='0'/>" * 1000, ("undefined-condition", "unsupported-stanza-type", "policy-violation", "open")),
    )
}


@stage.scenario("acknowledgements of stanzas that were never sent, and repeated stream management")
async def _lies(at: AttackWorld) -> None:
    await played(at, __name__, CASES)


# --- as fast as it can -----------------------------------------------------------------------------------------------


def flood(port: int, files: tuple[str, str], kind: str, streams: int, seconds: float, sub_domains: bool = False) -> None:
    """Send stanzas on several streams as fast as possible, all as one peer or each as another sub-domain of it."""
    certificate, end = Certificate(Path(files[0]), Path(files[1])), time.monotonic() + seconds
    names = [f"s{at}.{GUESTS}" if sub_domains else GUESTS for at in range(streams)]
    threads = [
        threading.Thread(target=_flood, args=(port, at, name, certificate, kind, end), daemon=True) for at, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()) + 0.2)


def _flood(port: int, at: int, domain: str, certificate: Certificate, kind: str, end: float) -> None:
    names = f"from='a@{domain}' to='missing@{INSIDE}'"
    each = {
        "messages": f"<message {names}><body>{'x' * 300}</body></message>",
        "errors": f"<message {names} type='error'><error type='cancel'/></message><iq {names} type='error' id='e'/>",
        "pongs": "".join(f"<iq {names} type='result' id='s2sgw-{number}'/>" for number in range(10)),
        "presence": f"<presence {names}/><presence {names} type='unavailable'/>",
    }[kind]
    said = each * 50
    with contextlib.suppress(OSError, PeerError):
        stream = connect(port, f"127.51.{at}.1", INSIDE, domain, certificate, 8.0)
        while time.monotonic() < end:
            stream.send(said)


async def _fast(at: AttackWorld, kind: str) -> None:
    certificate = guest(at)
    used = at.process.cpu_seconds()
    async with at.under(flood, SECONDS, files=(str(certificate.chain), str(certificate.key)), kind=kind, streams=4):
        pass
    step(f"{at.process.cpu_seconds() - used:.1f} s of CPU")


@stage.scenario("a proven peer that sends messages as fast as it can, whose server cannot be reached", quick=True)
async def _messages(at: AttackWorld) -> None:
    await _fast(at, "messages")


@stage.scenario("eighty sub-domains of one peer that send messages as fast as they can, each on a stream of its own", 240)
async def _many_messages(at: AttackWorld) -> None:
    certificate, before = guest(at), at.connections("proven")
    files = str(certificate.chain), str(certificate.key)
    async with at.under(
        flood, 12, left=WAITING_BYTES, patient=True, files=files, kind="messages", streams=MANY, sub_domains=True,
    ):
        await at.felt(lambda: at.connections("proven") >= before + MANY * 3 / 4, "the peer has few streams")
        await asyncio.sleep(8)


@stage.scenario("unsolicited errors are not answered by an error", quick=True)
async def _errors(at: AttackWorld) -> None:
    domain = f"errors.{GUESTS}"
    async with at.holding(2):
        stream = await asyncio.to_thread(connect, at.port, source(), INSIDE, domain, guest(at))
        stream.send("".join(
            f"<{kind} from='a@{domain}' to='missing@{INSIDE}' type='{type}' id='x'/>"
            for kind, type in (("message", "error"), ("iq", "error"), ("iq", "result"), ("presence", "error"))
        ))
        await asyncio.sleep(1)
        rows = [row for row in at.gateway.asked("lanes", domain) if row.get("from") != domain and row["stanzas"]]
        check(not rows, f"stanzas wait to be sent back: {rows}")
        stream.close()
    await _fast(at, "errors")


@stage.scenario("answers to pings that were never sent")
async def _pongs(at: AttackWorld) -> None:
    await _fast(at, "pongs")


@stage.scenario("presence that changes endlessly")
async def _presence(at: AttackWorld) -> None:
    await _fast(at, "presence")
