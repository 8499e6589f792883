"""The local server is down, or does not trust the gateway. The gateway blames it, and no peer."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import time
import tomllib
from pathlib import Path
from typing import Any

from tests.interop.conversation import login, talk
from tests.lab.certificates import Authority, Names
from tests.lab.scenario import Failed, Stage, check, expect, step
from tests.lab.servers.prosody import PROSODY
from tests.lab.toml import dumps
from tests.lab.world import OUTSIDE, World, world

stage = Stage("the local server fails: it is blamed, and no peer", lambda lab: world(lab, "prosody", "prosody"))


def _backend(made: World) -> dict[str, Any]:
    (row,) = made.gateway.asked("status")["backends"]
    return dict(row)


async def _until(made: World, state: str, cause: str | None, seconds: float = 30.0) -> dict[str, Any]:
    """Wait until the backend is shown in that state; return its row."""
    deadline = time.monotonic() + seconds
    row = await asyncio.to_thread(_backend, made)
    while (row["state"], row["cause"]) != (state, cause) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        row = await asyncio.to_thread(_backend, made)
    expect((row["state"], row["cause"]), (state, cause), f"state of the backend ({row['streams']} streams)")
    return row


def _start(made: World) -> None:
    """Start the server behind the gateway again, with its current configuration."""
    folder = made.behind.log.parent
    process = made.lab.start("prosody", [PROSODY, "--config", str(folder / "prosody.cfg.lua"), "-F"], folder)
    made.behind.processes = [process]
    made.lab.wait_for_port(process, made.behind.client_port)


def _lines(made: World, event: str) -> list[str]:
    return [line for line in made.gateway.logged().splitlines() if f" {event} " in line]


def _letter(made: World) -> str:
    return made.gateway.command("refusals", OUTSIDE, "--letter", check=False)


@stage.scenario("it is down: status says so, one line in the log, no letter; it is back: waiting stanzas arrive", 120.0)
async def _down(made: World) -> None:
    await talk(made.ends.right, made.ends.left, "make sure that streams are up")
    await _until(made, "up", None)
    before = len(_lines(made, "refused")) + len(_lines(made, "connection failed"))
    await asyncio.to_thread(made.behind.stop, made.lab)
    for number in range(3):
        await made.ends.right.message(made.ends.left.jid.partition("/")[0], f"while it is down {number}")
    row = await _until(made, "down", "backend-refused")
    step(f"status: {row['detail']}")
    expect(len(_lines(made, "backend down")), 1, "lines for a server that is down")
    expect(len(_lines(made, "refused")) + len(_lines(made, "connection failed")), before, "lines that blame a peer")
    (refusal,) = [one for one in made.gateway.asked("refusals", OUTSIDE) if one["cause"] == "backend-refused"][-1:]
    check("your XMPP server" in refusal["remedy"], refusal["remedy"])
    letter = await asyncio.to_thread(_letter, made)
    check("no letter" in letter and "To the administrator" not in letter, letter)
    step(letter.strip())
    await asyncio.to_thread(_start, made)
    await _until(made, "up", None)
    expect(len(_lines(made, "backend up")), 2, "lines for a server that is up")
    made.ends.left = await login(made.behind, "juliet")
    for number in range(3):
        await made.ends.left.wait_message(f"while it is down {number}", 60.0)
    (row,) = (await asyncio.to_thread(made.gateway.asked, "report", OUTSIDE))["peers"]
    check(row["successes"]["sessions"] and row["stanzas"]["inbound"] > 3, str(row))
    check(any(each["cause"] == "backend-refused" for each in row["failures"]["details"]), str(row["failures"]))
    step(f"report: {row['successes']['sessions']} streams, {row['stanzas']}, waited {row['oldest']:.0f} s")


@stage.scenario("it does not trust the gateway's CA: the message names the CA's file", 180.0)
async def _distrusts(made: World) -> None:
    folder = made.behind.log.parent
    config = folder / "prosody.cfg.lua"
    kept = config.read_text()
    other = Authority(made.lab.directory("another-authority")).file
    await asyncio.to_thread(made.behind.stop, made.lab)
    ours = next(line for line in kept.splitlines() if "backend-ca.pem" in line)
    config.write_text(kept.replace(ours.split('"')[1], str(other)))
    await asyncio.to_thread(_start, made)
    await made.ends.right.message("juliet@inside.example", "to a server that trusts another authority")
    await asyncio.to_thread(made.gateway.command, "queue", "flush", OUTSIDE, check=False)
    row = await _until(made, "down", "backend-distrusts-us", 60.0)
    check("backend-ca.pem" in row["detail"], row["detail"])
    step(f"status: {row['detail']}")
    alerts = await asyncio.to_thread(lambda: made.gateway.asked("status")["alerts"])
    check(any("s2sgw setup prosody" in alert for alert in alerts), str(alerts))
    await asyncio.to_thread(made.behind.stop, made.lab)
    config.write_text(kept)
    await asyncio.to_thread(_start, made)
    await asyncio.to_thread(made.gateway.command, "queue", "flush", OUTSIDE)
    await _until(made, "up", None, 60.0)
    made.ends.left = await login(made.behind, "juliet")
    _tidy(Path(other).parent)


@stage.scenario("a renewed certificate is loaded without a reload; a key of another certificate changes nothing", 150.0)
async def _renewed(made: World) -> None:
    store = made.gateway.folder / "certs"
    renewed = made.authority.issue(Names(dns=("inside.example",)), days=60)
    shutil.copy(made.authority.issue(Names(dns=("inside.example",))).key, store / "0.key")
    await _logged(made, "certificates not loaded")
    shutil.copy(renewed.chain, store / "0.crt")
    shutil.copy(renewed.key, store / "0.key")
    await _logged(made, "certificates loaded")
    (row,) = await asyncio.to_thread(made.gateway.asked, "certs")
    check(row["left"] > 55 * 86400, f"the certificate in use ends in {row['left'] / 86400:.0f} days")
    step(_lines(made, "certificates loaded")[0][:150])


@stage.scenario("a reload adds a domain, moves a listener, and connects to the server at another port", 120.0)
async def _reloaded(made: World) -> None:
    gateway = made.gateway
    original, port = gateway.config.read_text(), made.lab.port()
    certificate = made.authority.issue(Names(dns=("inside.example", "rooms.inside.example")))
    shutil.copy(certificate.chain, gateway.folder / "certs" / "0.crt")
    shutil.copy(certificate.key, gateway.folder / "certs" / "0.key")
    changed = original.replace('domains = ["inside.example"]', 'domains = ["inside.example", "rooms.inside.example"]')
    changed = changed.replace(f"tcp:{gateway.direct}:interface=127.0.0.1", f"tcp:{port}:interface=127.0.0.1")
    changed = changed.replace('format = "text"', 'format = "json"')
    gateway.config.write_text(changed)
    plan = await asyncio.to_thread(gateway.command, "check", "--against-running")
    for line in plan.splitlines():
        step(line)
    answer = await asyncio.to_thread(gateway.asked, "reload")
    check(answer["ok"], str(answer["complaints"]))
    assert gateway.process is not None
    await asyncio.to_thread(made.lab.wait_for_port, gateway.process, port)
    status = await asyncio.to_thread(gateway.asked, "status")
    check("rooms.inside.example" in status["domains"], str(status["domains"]))
    check(any(str(port) in each["endpoint"] for each in status["listeners"]), str(status["listeners"]))
    check(gateway.logs('"event": "reloaded"'), "the log is not in JSON")
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", gateway.direct), 1.0).close()
        raise Failed(f"port {gateway.direct} is still open")
    await talk(made.ends.right, made.ends.left, "after the reload")
    gateway.config.write_text(original + '\n[queue]\nmemory = "32MiB"\n')
    plan = await asyncio.to_thread(gateway.command, "check", "--against-running", check=False)
    for line in plan.splitlines():
        step(line)
    check("Only a restart changes" in plan and "queue.memory" in plan, plan)
    gateway.config.write_text(changed)


@stage.scenario("a reload gives the domain up: stanzas to it return, its server is released; the next reload takes it back", 120.0)
async def _given_up(made: World) -> None:
    gateway = made.gateway
    before, account = gateway.config.read_text(), made.ends.left.jid.partition("/")[0]
    other = made.authority.issue(Names(dns=("rooms.inside.example",)))
    shutil.copy(other.chain, gateway.folder / "certs" / "rooms.crt")
    shutil.copy(other.key, gateway.folder / "certs" / "rooms.key")
    await made.ends.right.message(account, "just before the domain is given up")
    document = tomllib.loads(before)
    document["gateway"]["domains"] = ["rooms.inside.example"]
    document["backend"] = [{"kind": "echo"}]
    gateway.config.write_text(dumps(document))
    answer = await asyncio.to_thread(gateway.asked, "reload")
    check(answer["ok"], str(answer["complaints"]))
    await made.ends.left.wait_message("just before the domain is given up")
    ident = await made.ends.right.message(account, "to a domain that was given up")
    condition, text = await made.ends.right.wait_error(ident, 30.0)
    step(f"{made.ends.right.jid} reads: {condition}: {text}")
    await _released(made)
    gateway.config.write_text(before)
    answer = await asyncio.to_thread(gateway.asked, "reload")
    check(answer["ok"], str(answer["complaints"]))
    await talk(made.ends.right, made.ends.left, "after the domain was taken back")
    await talk(made.ends.left, made.ends.right, "in both directions")


async def _released(made: World) -> None:
    """Wait until no stream to the server behind is open: those for a domain that was given up end after 5 seconds."""
    deadline = time.monotonic() + 30.0
    while rows := [row for row in await asyncio.to_thread(made.gateway.asked, "streams", "--all") if row["leg"] == "backend"]:
        check(time.monotonic() < deadline, f"streams to the server behind are open: {rows}")
        await asyncio.sleep(1.0)


async def _logged(made: World, event: str) -> None:
    deadline = time.monotonic() + 60.0
    while not _lines(made, event) and time.monotonic() < deadline:
        await asyncio.sleep(1.0)
    expect(len(_lines(made, event)), 1, f"lines {event!r} within a minute")


def _tidy(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
