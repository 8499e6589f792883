"""The operator's interfaces: questions after a flood, reloads, the admin socket and the console under attack."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import signal
import socket
import time
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.attack.crowd import addresses, keep_open
from tests.attack.lookups import headers
from tests.attack.shared import DENIED, SECONDS, source, stage, told_at_once
from tests.attack.world import LEFT_BYTES, AttackWorld
from tests.lab.peer import header
from tests.lab.scenario import check, expect, step

#: Seconds for an answer to the operator, and the number of names claimed before the question.
ANSWER_SECONDS, NAMES = 3.0, 600
#: Seconds for a reload of a long file.
RELOAD_SECONDS = 20.0


@stage.scenario("the operator's questions after a flood of refusals delay nothing", 90, quick=True)
async def _questions(at: AttackWorld) -> None:
    quiet = await _asked(at, "status")
    async with at.under(
        headers, 8, sources=addresses("127.", 2000), names="n{}.nowhere.test", per_second=NAMES / 6, hold=1.0,
    ):
        await asyncio.sleep(6)
        refused = sum(value for name, value in at.metrics().items() if name.startswith("s2sgw_refusals_total"))
        step(f"{refused:.0f} refusals")
        for words in (("refusals",), ("refusals", "nowhere.test"), ("peers",), ("streams",), ("lanes",), ("explain", "x.nowhere.test"), ("status",)):
            seconds = await _asked(at, *words)
            check(seconds <= ANSWER_SECONDS + 3 * quiet, f"`s2sgw {' '.join(words)}` took {seconds:.1f} s (in the quiet {quiet:.1f} s)")
        await asyncio.gather(*(asyncio.to_thread(at.metrics) for _ in range(5)))
    check(at.metrics()["s2sgw_peer_records_bytes"] <= 64 * 2**20, "the records exceed their limit")


async def _asked(at: AttackWorld, *words: str) -> float:
    """Ask the gateway by the command; return the seconds until the answer."""
    began = time.monotonic()
    await asyncio.to_thread(at.gateway.asked, *words)
    return time.monotonic() - began


@stage.scenario("one site's refusals are a few lines of the log")
async def _lines(at: AttackWorld) -> None:
    before = at.gateway.logged().count("\n")
    said = header("elsewhere.example", "x.trick.example").decode()
    async with at.under(keep_open_from_one, SECONDS, say=said):
        pass
    lines = at.gateway.logged().count("\n") - before
    step(f"{lines} lines")
    check(lines <= 100, f"{lines} lines of one site")


def keep_open_from_one(port: int, seconds: float, say: str) -> None:
    """Connect and be refused repeatedly, from one address."""
    keep_open(port, ["127.55.0.1"], 20, seconds, say.encode(), per_second=300)


@stage.scenario("a reload with 5,000 peers and 100,000 denied names, and one of a broken file", 120, quick=True)
async def _reload(at: AttackWorld) -> None:
    config, names = at.gateway.config, at.gateway.config.parent / "denied.txt"
    written = config.read_text()
    names.write_text("".join(f"n{number}.denied.test\n" for number in range(100_000)))
    peers = "".join(f'\n[peers."p{number}.many.test"]\ndialback = "never"\n' for number in range(5000))
    try:
        async with at.holding(4, left=2 * LEFT_BYTES):
            await _reloaded(at, f'{written}\n[policy]\ndeny_lists = ["{names}"]\n{peers}', "reloaded")
            expect(await asyncio.to_thread(told_at_once, at.port, source(), "n7.denied.test"), "policy-violation", "a denied name")
            await _reloaded(at, f"{written}\n[peers.default\nallow = maybe", "reload refused")
            expect(await asyncio.to_thread(told_at_once, at.port, source(), "n9.denied.test"), "policy-violation", "after a broken file")
            await _reloaded(at, written, "reloaded")
    finally:
        config.write_text(written)
    expect(await asyncio.to_thread(told_at_once, at.port, source(), DENIED), "policy-violation", "the previous policy")


async def _reloaded(at: AttackWorld, text: str, event: str) -> None:
    """Let the gateway read this configuration, and wait for its log line."""
    at.gateway.config.write_text(text)
    known = at.gateway.logged().count(event)
    at.process.signal(signal.SIGHUP)
    end = time.monotonic() + RELOAD_SECONDS * at.noise
    while at.gateway.logged().count(event) == known:
        check(time.monotonic() < end, f"not {event} in time:\n{at.gateway.logged()[-1500:]}")
        await asyncio.sleep(0.1)


# --- the admin socket ------------------------------------------------------------------------------------------------


def ask_badly(port: int, path: str, seconds: float) -> None:
    """Send invalid requests, halves of requests and huge ones; hold connections; ask and never read."""
    end = time.monotonic() + seconds
    said = (
        b"\0" * 5000, b"{", b"[]\n" * 100, b'{"verb": "refusals"}\n' * 50, b'{"verb": "nothing"}\n', b"{" * 100_000 + b"\n", b"x" * 2_000_000,
        json.dumps({"verb": "explain", "arguments": {"peer": "x" * 10_000}}).encode() + b"\n", b'{"verb": ' + b"[" * 50_000 + b"\n",
    )
    held: list[socket.socket] = []
    for number, each in enumerate(itertools.cycle(said)):
        if time.monotonic() > end:
            return
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(0.2)
        with contextlib.suppress(OSError):
            made.connect(path)
            made.sendall(each)
            if number % 3:
                made.recv(65536)
        held.append(made)
        if len(held) > 20:
            held.pop(0).close()
        time.sleep(0.01)


@stage.scenario("garbage, halves and huge requests on the admin socket, and answers that are never read")
async def _admin(at: AttackWorld) -> None:
    path = at.gateway.config.parent / "state" / "admin.sock"
    async with at.under(ask_badly, SECONDS, path=str(path)):
        for _ in range(3):
            await asyncio.sleep(1)
            check("streams" in json.dumps(await asyncio.to_thread(at.gateway.asked, "status")), "the operator got no answer")


def browse_badly(port: int, console: int, seconds: float) -> None:
    """Send data that is not HTTP, endless headers and single bytes; ask for /metrics and never read."""
    end = time.monotonic() + seconds
    said = (
        b"\0" * 5000, b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, b"GET /" + b"x" * 100_000, b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20, b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"G",
    )
    held: list[socket.socket] = []
    for each in itertools.cycle(said):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError):
            made = socket.create_connection(("127.0.0.1", console), 1)
            held.append(made)
            made.settimeout(0.2)
            made.sendall(each)
        if len(held) > 60:
            held.pop(0).close()
        time.sleep(0.02)


@stage.scenario("data that is not HTTP, endless headers and slow requests at the console")
async def _console(at: AttackWorld) -> None:
    async with at.under(browse_badly, SECONDS, console=at.gateway.console):
        for _ in range(3):
            await asyncio.sleep(1)
            began = time.monotonic()
            check("s2sgw_streams" in "".join(await asyncio.to_thread(at.metrics)), "no metrics")
            check(time.monotonic() - began <= 2 * at.noise, "metrics came late")
        with contextlib.suppress(HTTPError, http.client.HTTPException):
            page = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{at.gateway.console}/../state/peers.sqlite", timeout=5).read())
            check(not page, "a file was served")
