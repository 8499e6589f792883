"""Look-ups, dialback and claims: requests of strangers delay no others, and do not make the gateway a scanner."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
import threading
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

from tests.attack.crowd import Crowd, addresses
from tests.attack.honest import connect
from tests.attack.world import INSIDE, AttackWorld, attack_world
from tests.lab.certificates import Certificate
from tests.lab.peer import DIALBACK, STREAMS, PeerError, Stream, client_context, header, stream_error
from tests.lab.scenario import Stage, check, expect, step

#: Names below these are never answered: each below a separate registered domain, and all below one.
SILENT, SILENT_ZONE = "silent", "zone.test"
#: Domains whose name servers answer with hundreds of records of very long names.
BOMBS = "bombs.test"
#: Domains whose SRV records name sixteen hosts in a victim's zone, and sixteen hosts with an address.
AMPLIFYING, VICTIM = "amplifying.test", "victim.test"
SCANNING, SCANNED_PORT = "scanning.test", 15269
#: Domains whose server is the scenario's listener.
OUTBOUND = "outbound.test"
SERVICES = {
    AMPLIFYING: (VICTIM, 5269, 16), SCANNING: ("scanned.example", SCANNED_PORT, 16), OUTBOUND: ("new.example", SCANNED_PORT, 1),
}

#: Look-ups at once for strangers (half of `limits.lookups`), and the share of the others.
STRANGERS_LOOKUPS, OUR_LOOKUPS = 128, 10

_POLICY = {"default": {"dialback": "with-tls"}, "*.many.example": {"dialback": "never"}}
stage = Stage(
    "look-ups under attack", partial(attack_world, changes={"peers": _POLICY}, silent=(SILENT, SILENT_ZONE), services=SERVICES, bombs=(BOMBS,)),
)


# --- silent names ----------------------------------------------------------------------------------------------------


def headers(port: int, sources: list[str], names: str, per_second: float, seconds: float, hold: float) -> None:
    """Open connections that claim new names, at this rate in total, and close each after `hold` seconds."""
    crowd, numbers = Crowd(port), itertools.count(int(time.monotonic() * 1000) % 10**9)
    closing: list[tuple[float, int]] = []
    began, sent = time.monotonic(), 0
    while (now := time.monotonic()) < began + seconds:
        while sent < (now - began) * per_second:
            before = set(crowd.open)
            crowd.connect(sources[sent % len(sources)], header(INSIDE, names.format(next(numbers))))
            closing += [(now + hold, each) for each in crowd.open.keys() - before]
            sent += 1
        while closing and closing[0][0] < now:
            _, descriptor = closing.pop(0)
            if descriptor in crowd.open:
                crowd.close(descriptor)
        crowd.reap(0.01)


@stage.scenario("200 names a second whose servers are silent, from one address", 120)
async def _one_address(at: AttackWorld) -> None:
    async with at.under(headers, 10, sources=["127.8.0.1"], names=f"x.n{{}}.{SILENT}", per_second=200, hold=8.0):
        await asyncio.sleep(8)
        metrics = at.metrics()
        step(f"look-ups in flight {metrics[_LOOKUPS.format('in-flight')]:.0f}, in line {metrics[_LOOKUPS.format('in-line')]:.0f}")
        check(metrics[_LOOKUPS.format("in-flight")] <= 40, "one address has more look-ups under way than it may")


@stage.scenario("10 names a second whose servers are silent, from each of 50 addresses", 120)
async def _fifty_addresses(at: AttackWorld) -> None:
    async with at.under(headers, 12, sources=addresses("127.9.", 50), names=f"x.n{{}}.{SILENT}", per_second=500, hold=12.0):
        await asyncio.sleep(6)
        seconds = await _outbound(at)
        step(f"a message to a new peer was on its way after {seconds:.2f} s")
        check(seconds <= 2.0 * at.noise, "a message to a new peer waited for strangers' look-ups")


@stage.scenario("names in one zone whose servers are silent are soon no longer looked up", 120)
async def _silent_zone(at: AttackWorld) -> None:
    async with at.under(
        headers, 16, patient=True, sources=addresses("127.10.", 40), names=f"n{{}}.{SILENT_ZONE}", per_second=100, hold=12.0,
    ):
        await at.felt(lambda: _given_up(at, "silent-zone") > 0, "the zone was not detected as silent")
        await asyncio.sleep(5)  # look-ups in flight end
        before = at.questions(SILENT_ZONE)
        await asyncio.sleep(6)
        asked = at.questions(SILENT_ZONE) - before
        step(f"{asked} questions in 6 s, of 1,200 requests")
        check(asked <= 60, f"{asked} questions were asked about a silent zone")


@stage.scenario("100 names a second whose servers are silent, from 200 addresses: they get no more than their share", 240, quick=True)
async def _many_addresses(at: AttackWorld) -> None:
    async with at.under(
        headers, 8, patient=True, sources=addresses("127.24.", 200), names=f"x.m{{}}.{SILENT}", per_second=100, hold=8.0,
    ):
        await at.felt(lambda: at.metrics()[_LOOKUPS.format("in-line")] > 0, "the attackers' look-ups do not fill their share")
        await asyncio.sleep(3)
        flying = at.metrics()[_LOOKUPS.format("in-flight")]
        seconds = await _outbound(at)
        step(f"look-ups in flight {flying:.0f}; a message to a new peer was on its way after {seconds:.2f} s")
        check(flying <= OUR_LOOKUPS + STRANGERS_LOOKUPS, "strangers have more look-ups under way than they may")
        check(seconds <= 2.0 * at.noise, "a message to a new peer waited for strangers' look-ups")


@stage.scenario("20 names a second whose name servers answer with hundreds of records of a hundred labels", 120, quick=True)
async def _bombs(at: AttackWorld) -> None:
    async with at.under(
        headers, 4, patient=True, sources=addresses("127.58.", 20), names=f"n{{}}.{BOMBS}", per_second=20, hold=8.0,
    ):
        await at.felt(lambda: any("the answer has" in row["detail"] for row in at.gateway.asked("refusals")), "no answer was refused")


@stage.scenario("connections that claim silent names and are closed at once leave no look-up behind", 120)
async def _abandoned(at: AttackWorld) -> None:
    async with at.under(
        headers, 8, patient=True, sources=addresses("127.11.", 200), names=f"x.n{{}}.{SILENT}", per_second=100, hold=0.3,
    ):
        await at.felt(lambda: _given_up(at, "abandoned") > 0, "no look-up was abandoned")
    waiting = at.metrics()[_LOOKUPS.format("in-flight")]
    step(f"look-ups in flight {waiting:.0f}, abandoned {_given_up(at, 'abandoned'):.0f}")
    check(waiting <= 10, f"{waiting:.0f} look-ups are under way without a waiting request")


_LOOKUPS = 's2sgw_lookups{{state="{}"}}'


def _given_up(at: AttackWorld, reason: str) -> float:
    return at.metrics().get(f's2sgw_lookups_given_up_total{{reason="{reason}"}}', 0.0)


async def _outbound(at: AttackWorld) -> float:
    """Let the echo answer a peer whose server is new to the gateway; return the seconds until the gateway connects to that server."""
    domain = f"o{int(time.monotonic() * 1000)}.{OUTBOUND}"
    with socket.create_server(("127.0.0.1", SCANNED_PORT)) as listener:
        listener.settimeout(10)
        stream = await asyncio.to_thread(connect, at.port, "127.12.0.1", INSIDE, domain, at.certificate(domain), 5.0)
        began = time.monotonic()
        stream.send(f"<message from='a@{domain}' to='echo@{INSIDE}'><body>hello</body></message>")
        connection, _ = await asyncio.to_thread(listener.accept)
        seconds = time.monotonic() - began
        connection.close()
        stream.close()
    return seconds


# --- amplification ---------------------------------------------------------------------------------------------------


@stage.scenario("300 claims of a domain with sixteen targets in a victim's zone: at most eight questions each", 120)
async def _amplified(at: AttackWorld) -> None:
    before = at.questions(VICTIM) + at.questions(AMPLIFYING)
    async with at.under(headers, 10, sources=addresses("127.13.", 60), names=f"n{{}}.{AMPLIFYING}", per_second=30, hold=9.0):
        pass
    asked = at.questions(VICTIM) + at.questions(AMPLIFYING) - before
    step(f"{asked / 300:.1f} questions for each claim")
    check(asked <= 8 * 300, f"{asked} questions for 300 claims")


def dialback(port: int, domains: str, number: int, per_second: float, seconds: float, source: str) -> None:
    """Request dialback of new domains all the time, each on a separate stream with TLS."""
    end = time.monotonic() + seconds
    streams = []
    for each in range(number):
        with contextlib.suppress(OSError, PeerError):
            streams.append(_asked(port, source, domains.format(each, int(end))))
        time.sleep(1 / per_second)
    time.sleep(max(0.0, end - time.monotonic()))


def _asked(port: int, source: str, domain: str) -> Stream:
    stream = Stream(socket.create_connection(("127.0.0.1", port), 8, (source, 0)))
    stream.open(INSIDE, domain)
    stream.starttls(client_context(None), INSIDE)
    stream.open(INSIDE, domain)
    stream.send(f"<db:result from='{domain}' to='{INSIDE}'>0123456789abcdef</db:result>")
    return stream


class Scanned:
    """A port of a victim. It counts connections, and sends nothing."""

    def __init__(self) -> None:
        self.dials = 0
        self._listener = socket.create_server(("127.0.0.1", SCANNED_PORT), backlog=1000)
        self._over = False
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Scanned:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        self._listener.close()

    def _count(self) -> None:
        held = []
        while not self._over:
            if select.select([self._listener], [], [], 0.1)[0]:
                held.append(self._listener.accept()[0])
                self.dials += 1
        for each in held:
            each.close()


@stage.scenario("dialback of domains with sixteen targets: at most four connections each, and few at once", 120)
async def _scanner(at: AttackWorld) -> None:
    with Scanned() as victim:
        number = 60
        async with at.under(
            dialback, 16, domains=f"n{{}}-{{}}.{SCANNING}", number=number, per_second=20, source="127.14.0.1",
        ):
            await asyncio.sleep(6)
            step(f"verifications under way {at.metrics()[_VERIFICATIONS]:.0f}")
            check(at.metrics()[_VERIFICATIONS] <= 8, "one address has more verifications under way than it may")
        step(f"{victim.dials / number:.1f} connections for each claim")
        check(0 < victim.dials <= 4 * number, f"{victim.dials} connections for {number} claims")


_VERIFICATIONS = 's2sgw_verifications{state="in-flight"}'


# --- claims on one stream ----------------------------------------------------------------------------------------------


def _bulk(port: int, source: str, certificate: dict[str, str], domain: str) -> Stream:
    chain = Certificate(Path(certificate["chain"]), Path(certificate["key"]))
    return connect(port, source, INSIDE, domain, chain, 8.0)


def claims(port: int, certificate: dict[str, str], domain: str, streams: int, requests: int, text: str, seconds: float) -> None:
    """Send `requests` dialback requests without waiting, on each of these streams, and again after a stream ends."""
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_claim, args=(port, f"127.15.{at}.1", certificate, domain, requests, text, end), daemon=True)
        for at in range(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 20)


def _claim(port: int, source: str, certificate: dict[str, str], domain: str, requests: int, text: str, end: float) -> None:
    rounds = itertools.count()
    while time.monotonic() < end:
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            stream = _bulk(port, source, certificate, domain)
            number = next(rounds)
            stream.send("".join(text.format(f"{number}-{each}") for each in range(requests)))
            stream.end(5.0)
            stream.close()
        time.sleep(0.5)


def _request(name: str, to: str = INSIDE) -> str:
    return f"<db:result from='{name}' to='{to}'>0123456789abcdef</db:result>"


def _files(certificate: Certificate) -> dict[str, str]:
    return {"chain": str(certificate.chain), "key": str(certificate.key)}


@stage.scenario("3,000 dialback requests of sub-domains on each of eight streams: told to try again later, then the stream ends", 120)
async def _many_requests(at: AttackWorld) -> None:
    domain = "wild.example"
    certificate = at.certificate(domain, f"*.{domain}")
    before = at.process.cpu_seconds()
    async with at.under(
        claims, 12, certificate=_files(certificate), domain=domain, streams=8, requests=3000, text=_request(f"s{{}}.{domain}"),
    ):
        pass
    step(f"{at.process.cpu_seconds() - before:.1f} s of processor")
    check(at.limit_hits("claims_per_second") > 0, "the requests were not rate-limited")
    stream = await asyncio.to_thread(connect, at.port, "127.16.0.1", INSIDE, domain, certificate, 8.0)
    stream.send("".join(_request(f"t{number}.{domain}") for number in range(200)))
    expect(await asyncio.to_thread(_answers, stream), "resource-constraint", "the end of a stream with 200 requests at once")


def _answers(stream: Stream) -> str:
    """Return the stream error that ends the stream."""
    while (element := stream.next(15.0)) is not None:
        if element.tag == f"{STREAMS}error":
            return stream_error(element)[0]
    return "no error"


@stage.scenario("requests within the limits are all answered, and the domains of a stream are bounded", 60)
async def _within(at: AttackWorld) -> None:
    domain = "many.example"
    certificate = at.certificate(domain, f"*.{domain}")
    stream = await asyncio.to_thread(connect, at.port, "127.17.0.1", INSIDE, domain, certificate, 8.0)
    answers: dict[str, str] = {}
    for number in range(80):
        stream.send(_request(f"t{number}.{domain}"))
        answer = await asyncio.to_thread(stream.expect, f"{DIALBACK}result")
        answers[answer.get("to", "")] = answer.get("type", "")
        await asyncio.sleep(0.11)
    stream.close()
    proven = sum(answer == "valid" for answer in answers.values())
    step(f"{proven} further domains proven, {len(answers) - proven} referred to another stream")
    check(40 <= proven <= 63, f"{proven} further domains were proven")


@stage.scenario("requests for domains that are not served: three are answered, the next ends the stream", 60)
async def _not_served(at: AttackWorld) -> None:
    domain = "unserved.example"
    stream = await asyncio.to_thread(connect, at.port, "127.18.0.1", INSIDE, domain, at.certificate(domain), 8.0)
    stream.send("".join(_request(domain, to=f"n{number}.example") for number in range(10)))
    answers = 0
    while (element := await asyncio.to_thread(stream.next)) is not None and element.tag == f"{DIALBACK}result":
        answers += 1
    check(element is not None, "the stream ended without an error")
    assert element is not None
    expect((answers, stream_error(element)[0]), (4, "resource-constraint"), "answers, and the end")


@stage.scenario("internationalised names that are expensive to convert, in requests and headers", 120)
async def _dear_names(at: AttackWorld) -> None:
    domain = "dear.example"
    certificate = at.certificate(domain)
    before = at.process.cpu_seconds()
    text = _request(_dear(), to="ü" * 20 + "{}." + _dear())
    async with at.under(claims, 10, certificate=_files(certificate), domain=domain, streams=8, requests=400, text=text):
        pass
    step(f"{at.process.cpu_seconds() - before:.1f} s of processor")


def _dear() -> str:
    return ".".join("абвгдежзик" * 2 for _ in range(5)) + ".test"
