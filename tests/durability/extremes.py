"""`python -m tests.durability.extremes`: what comes seldom: a restart with the port in systemd's hands, a full disk, a damaged spool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections import Counter
from math import inf

from tests.durability.account import HEADING
from tests.durability.arena import Arena
from tests.lab.gateway import TWISTD
from tests.lab.peer import header
from tests.lab.place import Lab

#: Stanzas a second of each pair, and seconds of it.
RATE, WORK = 100.0, 1.5
#: Seconds between two callers at the port that is handed over, for one to be served, and between restarts.
CALL, SERVED, LIFE = 0.05, 20.0, 2.0
RESTARTS = 3
#: A spool of so many bytes has no room for what comes in `WORK`.
DISK = 65536
#: Pages that a disk without room has for the spool's file beyond its empty tables.
PAGES = 8
#: The first argument is the number of a descriptor; the rest becomes the program, to which it is handed as systemd does it.
_HAND_OVER = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="s2sgw.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


async def handed_over(lab: Lab) -> list[str]:
    """The gateway's port is ours: while it restarts nobody is refused; whom a stop does not cut off waits for the next life."""
    arena = Arena(lab, 0.0, {"listen": [{"endpoint": "systemd:domain=INET:name=s2sgw.socket", "tls": "starttls"}]})
    await arena.start()
    callers, outcomes = set(), Counter[str]()
    with socket.create_server(("127.0.0.1", arena.door.port), backlog=1024) as ours:
        program = sys.executable, "-c", _HAND_OVER, str(ours.fileno()), TWISTD
        for _ in range(RESTARTS + 1):
            process = arena.door.begin(*program, descriptors=[ours.fileno()])
            began, served = time.monotonic(), outcomes["served"]
            while process.alive:
                callers.add(asyncio.create_task(_call(arena.door.port, outcomes)))
                await asyncio.sleep(CALL)
                if outcomes["served"] > served and time.monotonic() > began + LIFE:
                    process.signal(signal.SIGTERM)
                    began = inf
            outcomes["ended with another status"] += process.status != 0
        process = arena.door.begin(*program, descriptors=[ours.fileno()])
        await asyncio.gather(*callers)
        process.stop()
    served, cut = (outcomes.pop(outcome, 0) for outcome in ("served", "cut off"))
    print(f"{RESTARTS + 1} restarts with the port in other hands: {served} callers were served, {cut} cut off by a stop")
    return [f"{number} {outcome}" for outcome, number in outcomes.items() if number]


async def _call(port: int, outcomes: Counter[str]) -> None:
    """Open a stream, up to the features."""
    writer = None
    try:
        async with asyncio.timeout(SERVED):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(header("managed.inside.example", "managed.example"))
            said = await reader.read(4096)
        outcomes["served" if b"<stream:stream" in said else "cut off"] += 1
    except ConnectionRefusedError:
        outcomes["callers were refused"] += 1
    except TimeoutError:
        outcomes["callers waited in vain"] += 1
    except OSError:
        outcomes["cut off"] += 1
    finally:
        if writer is not None:
            writer.close()


async def without_room(lab: Lab) -> list[str]:
    """A spool that is full refuses in words, and loses nothing; then it is damaged, and the gateway starts with another."""
    arena = Arena(lab, RATE, {"queue": {"disk": DISK}})
    await arena.start()
    arena.begin()
    await arena.ready()
    await asyncio.sleep(WORK / 2)
    arena.shut_out()
    await asyncio.sleep(WORK)
    arena.open()
    await arena.quiet()
    faults = _account(arena)
    if not any(pair.bounced for pair in arena.pairs):
        faults.append("the disk had room for everything")
    arena.process.signal(signal.SIGTERM)
    await arena.ended(arena.process)
    spool = arena.door.folder / "state" / "spool.db"
    spool.write_bytes(b"not what it was".ljust(spool.stat().st_size, b"."))
    arena.begin()
    await arena.ready()
    arena.direct(inward=True, outward=True)
    await asyncio.sleep(WORK)
    await arena.quiet()
    faults += _account(arena)
    await arena.stop()
    aside = [fault for fault in arena.faults() if "set aside" in fault]
    return faults + [fault for fault in arena.faults() if fault not in aside] + ([] if aside else ["nothing was set aside"])


async def stopped_without_room(lab: Lab) -> list[str]:
    """Stops in order while the spool's bound is reached: nothing is lost, whoever brought it, and nothing changes places."""
    return await _stopped(Arena(lab, RATE, {"queue": {"disk": DISK}}))


async def stopped_on_a_full_disk(lab: Lab) -> list[str]:
    """The same where the disk itself takes no more (SQLITE_FULL), as long as the sender's server can be told."""
    return await _stopped(Arena(lab, RATE), f"full:{PAGES}")


async def _stopped(arena: Arena, trap: str = "") -> list[str]:
    """Two lives that end so, the second of which begins so, and one in which everything goes through."""
    await arena.start()
    for _ in range(2):
        arena.begin(trap)
        await arena.ready()
        await asyncio.sleep(WORK / 2)
        arena.shut_out()
        await asyncio.sleep(WORK)
        arena.process.signal(signal.SIGTERM)
        await arena.ended(arena.process)
    arena.open()
    arena.begin()
    await arena.ready()
    await arena.quiet()
    faults = _account(arena)
    if not any(pair.bounced for pair in arena.pairs):
        faults.append("the disk had room for everything")
    await arena.stop()
    return faults + arena.faults()


def _account(arena: Arena) -> list[str]:
    lines = [pair.account(arena.times) for pair in arena.pairs]
    print("\n".join([HEADING, *(line.text() for line in lines)]))
    return [fault for line in lines for fault in line.faults()]


def main() -> int:
    """All of them; the exit status."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    faults = []
    chosen = sys.argv[1:]
    for extreme in (handed_over, without_room, stopped_without_room, stopped_on_a_full_disk):
        if chosen and extreme.__name__ not in chosen:
            continue
        with Lab() as lab:
            print(f"\n{extreme.__name__.replace('_', ' ')}", flush=True)
            faults += asyncio.run(extreme(lab))
    print("\n" + ("\n".join(faults) or "What must hold holds."))
    return 1 if faults else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
