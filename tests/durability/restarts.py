"""`python -m tests.durability.restarts`: restarts with a socket that systemd holds, with a full spool, and with a damaged spool."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections import Counter
from math import inf

from tests.durability.crash import silence_asyncio
from tests.durability.crash_account import HEADING, judge
from tests.durability.crash_testbed import CrashTestbed
from tests.lab.gateway import TWISTD
from tests.lab.lab import Lab
from tests.lab.peer import header

#: Stanzas a second of each pair, and seconds of load.
RATE, LOAD_SECONDS = 100.0, 1.5
#: Seconds between two callers at the held port, for one to be served, and between restarts.
CALL_SECONDS, SERVED_SECONDS, RUN_SECONDS = 0.05, 20.0, 2.0
RESTARTS = 3
#: Bytes of a spool that has no space for the stanzas of `LOAD_SECONDS`.
DISK = 65536
#: Pages that a full disk has for the spool beyond its empty tables.
PAGES = 8
#: The first argument is the number of a descriptor. The other arguments are the program that gets it as systemd passes it.
_HAND_OVER = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="s2sgw.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


async def socket_activation(lab: Lab) -> list[str]:
    """The port stays open while the gateway restarts: no caller is refused, and callers that a stop did not cut off are served later."""
    testbed = CrashTestbed(lab, 0.0, {"listen": [{"endpoint": "systemd:domain=INET:name=s2sgw.socket", "tls": "starttls"}]})
    await testbed.start()
    port, runner = testbed.gateway.port, testbed.runner
    callers, outcomes = set(), Counter[str]()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as held:
        program = sys.executable, "-c", _HAND_OVER, str(held.fileno()), TWISTD
        for _ in range(RESTARTS + 1):
            process = runner.begin(program, [held.fileno()])
            began, served = time.monotonic(), outcomes["served"]
            while process.alive:
                callers.add(asyncio.create_task(_call(port, outcomes)))
                await asyncio.sleep(CALL_SECONDS)
                if outcomes["served"] > served and time.monotonic() > began + RUN_SECONDS:
                    process.signal(signal.SIGTERM)
                    began = inf
            outcomes["ended with another status"] += process.status != 0
        process = runner.begin(program, [held.fileno()])
        await asyncio.gather(*callers)
        process.stop()
    served, cut = (outcomes.pop(outcome, 0) for outcome in ("served", "cut off"))
    print(f"{RESTARTS + 1} restarts with a port that stays open: {served} callers were served, {cut} were cut off by a stop")
    return [f"{number} {outcome}" for outcome, number in outcomes.items() if number]


async def _call(port: int, outcomes: Counter[str]) -> None:
    """Open a stream, up to the features."""
    writer = None
    try:
        async with asyncio.timeout(SERVED_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(header("managed.inside.example", "managed.example"))
            answer = await reader.read(4096)
        outcomes["served" if b"<stream:stream" in answer else "cut off"] += 1
    except ConnectionRefusedError:
        outcomes["callers were refused"] += 1
    except TimeoutError:
        outcomes["callers were not served"] += 1
    except OSError:
        outcomes["cut off"] += 1
    finally:
        if writer is not None:
            writer.close()


async def full_then_damaged_spool(lab: Lab) -> list[str]:
    """A full spool bounces and loses nothing; a damaged one is set aside at the next start."""
    testbed = CrashTestbed(lab, RATE, {"queue": {"disk": DISK}})
    runner = testbed.runner
    await testbed.start()
    testbed.begin()
    await runner.ready()
    await asyncio.sleep(LOAD_SECONDS / 2)
    _refuse_peers(testbed)
    await asyncio.sleep(LOAD_SECONDS)
    testbed.accept_all()
    await testbed.quiet()
    faults = _account(testbed)
    if not any(account.bounced for account in testbed.accounts):
        faults.append("the disk had room for everything")
    await runner.stop()
    spool = runner.state / "spool.db"
    spool.write_bytes(b"not what it was".ljust(spool.stat().st_size, b"."))
    testbed.begin()
    await runner.ready()
    testbed.send(inbound=True, outbound=True)
    await asyncio.sleep(LOAD_SECONDS)
    await testbed.quiet()
    faults += _account(testbed)
    await testbed.stop()
    aside = [fault for fault in testbed.faults() if "set aside" in fault]
    return faults + [fault for fault in testbed.faults() if fault not in aside] + ([] if aside else ["nothing was set aside"])


async def stops_with_a_full_spool(lab: Lab) -> list[str]:
    """Normal stops with a full spool lose nothing and change no order."""
    return await _stopped(CrashTestbed(lab, RATE, {"queue": {"disk": DISK}}))


async def stops_with_a_full_disk(lab: Lab) -> list[str]:
    """The same if SQLite reports a full disk, as long as the sender's server can be told."""
    return await _stopped(CrashTestbed(lab, RATE), f"full:{PAGES}")


async def _stopped(testbed: CrashTestbed, crash_point: str = "") -> list[str]:
    """Stop two runs while no peer accepts anything, then let all stanzas through in a third one."""
    await testbed.start()
    for _ in range(2):
        testbed.begin(crash_point)
        await testbed.runner.ready()
        await asyncio.sleep(LOAD_SECONDS / 2)
        _refuse_peers(testbed)
        await asyncio.sleep(LOAD_SECONDS)
        await testbed.runner.stop()
        testbed.runs.ends.append((time.time(), "stop"))
    testbed.accept_all()
    testbed.begin()
    await testbed.runner.ready()
    await testbed.quiet()
    faults = _account(testbed)
    if not any(account.bounced for account in testbed.accounts):
        faults.append("the disk had room for everything")
    await testbed.stop()
    return faults + testbed.faults()


def _refuse_peers(testbed: CrashTestbed) -> None:
    """Let all peers refuse connections. Their streams are cut, so stanzas that have just arrived are in doubt, as at an end of the gateway."""
    testbed.refuse_peers()
    testbed.runs.ends.append((time.time(), "stop"))


def _account(testbed: CrashTestbed) -> list[str]:
    results = [judge(account, testbed.runs) for account in testbed.accounts]
    print("\n".join([HEADING, *(result.text() for result in results)]))
    return [fault for result in results for fault in result.faults()]


def main() -> int:
    """Run all of them, or those named; return the exit status."""
    silence_asyncio()
    faults = []
    chosen = sys.argv[1:]
    for case in (socket_activation, full_then_damaged_spool, stops_with_a_full_spool, stops_with_a_full_disk):
        if chosen and case.__name__ not in chosen:
            continue
        with Lab() as lab:
            print(f"\n{case.__name__.replace('_', ' ')}", flush=True)
            faults += asyncio.run(case(lab))
    print("\n" + ("\n".join(faults) or "No promise was broken."))
    return 1 if faults else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
