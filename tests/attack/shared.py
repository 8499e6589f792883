"""One gateway for many short attacks: the data sent at each point of a stream, and the required answer.

A scenario gives a table of cases. Each case is tried once, and its answer compared. Meanwhile another process tries all of them
repeatedly, from many addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import select
import socket
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Literal

from tests.attack.honest import connect
from tests.attack.world import INSIDE, AttackWorld, attack_world
from tests.lab.certificates import Certificate
from tests.lab.peer import STARTTLS, STREAMS, TLS, PeerError, Stream, client_context, header, stream_error
from tests.lab.scenario import Stage, check, step

#: Domains for which attackers have a certificate; another domain, whose server is a port of the scenario.
GUESTS = "guest.example"
VICTIMS, VICTIM, VICTIM_PORT = "victim.test", "a.victim.test", 15271
#: Domains whose servers are hostile, are the gateway itself, or are missing; and domains with documents on the web,
#: where one server answers and the other does not.
EVIL, EVIL_PORT, LOOP, DOWN = "evil.test", 15272, "loop.test", "down.test"
POSH_WEB, POSH_SILENT, POSH_ADDRESS, POSH_SILENT_ADDRESS = "posh.test", "mute.test", "127.44.54.1", "127.44.54.2"
#: Domains that must present a certificate.
TRICKS = "trick.example"
#: Peers of the configuration: refused by policy, and known by a key.
DENIED, PINNED = "denied.example", "pinned.example"
#: Seconds for one case, between two attacks, and for a short attack.
PATIENCE, PAUSE, SECONDS = 10.0, 0.03, 4.0

_POLICY = {
    "default": {"dialback": "with-tls"}, f"*.{TRICKS}": {"dialback": "never"}, f"*.{EVIL}": {"dialback": "never"}, DENIED: {"allow": False}, PINNED: {"pins": ["sha256:" + "ab" * 32], "dialback": "never"},
}
stage = Stage("one gateway under many attacks", partial(
    attack_world, changes={"peers": _POLICY, "queue": {"memory": "16MiB", "disk": "64MiB"}},
    services={
        VICTIMS: ("victims.example", VICTIM_PORT, 1), EVIL: ("evils.example", EVIL_PORT, 1), LOOP: ("loops.example", 0, 1),
        DOWN: ("downs.example", 15273, 1),
    },
    addresses={POSH_WEB: [POSH_ADDRESS], POSH_SILENT: [POSH_SILENT_ADDRESS]},
))

#: The point of a stream where a case begins: at the start, after the features, before TLS, after TLS, after the proof of a domain.
Phase = Literal["raw", "header", "proceed", "tls", "proven"]


@dataclass(frozen=True)
class Case:
    """Hostile data, which `make` makes for the domain of a stream, and the stream errors that may answer it.

    "" stands for an end without a stream error, "open" for a stream that continues.
    """

    phase: Phase
    make: Callable[[str], bytes]
    wanted: Sequence[str]


Cases = Mapping[str, Case]


def begin(port: int, source: str, phase: Phase, domain: str, certificate: Certificate | None) -> Stream:
    """Return a stream in a phase."""
    if phase == "proven":
        assert certificate is not None
        return connect(port, source, INSIDE, domain, certificate, PATIENCE)
    stream = Stream(socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0)))
    try:
        if phase != "raw":
            stream.open(INSIDE, domain)
        if phase == "proceed":
            stream.send(STARTTLS)
            stream.expect(f"{TLS}proceed")
        elif phase == "tls":
            stream.starttls(client_context(certificate), INSIDE)
            stream.open(INSIDE, domain)
    except BaseException:
        stream.close()
        raise
    return stream


def answer_to(stream: Stream, said: bytes, seconds: float = PATIENCE) -> str:
    """Send data, and return how the stream ends: a stream error, "" without one, "open" if it continues."""
    with contextlib.suppress(OSError):
        stream.raw.settimeout(seconds)
        stream.send(said)
    end = time.monotonic() + seconds
    condition = ""
    try:
        while (element := stream.next(max(0.01, end - time.monotonic()))) is not None:
            if element.tag == f"{STREAMS}error":
                condition = stream_error(element)[0]
    except PeerError:
        return condition or "open"
    except (OSError, ET.ParseError):
        return condition
    return condition


def tried(port: int, source: str, case: Case, domain: str, certificate: Certificate, seconds: float = PATIENCE) -> str:
    """Play one case; return its answer."""
    stream = begin(port, source, case.phase, domain, certificate if case.phase == "proven" else None)
    with contextlib.closing(stream):
        return answer_to(stream, case.make(domain), seconds)


def told_at_once(port: int, address: str, domain: str) -> str:
    """Return the stream error that answers a header of `domain` and STARTTLS after it; "" if there is none."""
    with contextlib.closing(Stream(socket.create_connection(("127.0.0.1", port), PATIENCE, (address, 0)))) as stream:
        stream.send(header(INSIDE, domain))
        element = stream.next(PATIENCE)
        if element is not None and element.tag == f"{STREAMS}features":
            stream.send(STARTTLS)
            element = stream.next(PATIENCE)
        return stream_error(element)[0] if element is not None and element.tag == f"{STREAMS}error" else ""


def repeat(port: int, module: str, names: Sequence[str], files: Sequence[str], threads: int, seconds: float) -> None:
    """Play cases of a module repeatedly, from several threads with an address and a domain each."""
    cases: Cases = importlib.import_module(module).CASES
    certificate = Certificate(Path(files[0]), Path(files[1]))
    end = time.monotonic() + seconds
    started = [
        threading.Thread(target=_repeat, args=(port, number, [cases[name] for name in names], certificate, end), daemon=True)
        for number in range(threads)
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(max(0.0, end - time.monotonic()) + 0.1)


def _repeat(port: int, number: int, cases: Sequence[Case], certificate: Certificate, end: float) -> None:
    domain, source = f"r{number}.{GUESTS}", f"127.31.{number}.1"
    for case in cycle(cases):
        if time.monotonic() > end:
            return
        with contextlib.suppress(OSError, PeerError, ET.ParseError):
            tried(port, source, case, domain, certificate, 2.0)
        time.sleep(PAUSE)


_sources = (f"127.30.{number // 250}.{number % 250 + 1}" for number in range(60_000))


def source() -> str:
    """Return an address that no attacker has used before."""
    return next(_sources)


def guest(at: AttackWorld) -> Certificate:
    """Return the certificate of `GUESTS` and the domains below it."""
    if GUESTS not in at.kept:
        at.kept[GUESTS] = at.certificate(GUESTS, f"*.{GUESTS}")
    return at.kept[GUESTS]


async def played(at: AttackWorld, module: str, cases: Cases, *, threads: int = 6, seconds: float = SECONDS) -> None:
    """Let attackers repeat `cases`, all of one module, and meanwhile check the answer to each."""
    certificate = guest(at)
    files = (str(certificate.chain), str(certificate.key))
    wrong = []
    async with at.under(repeat, seconds, module=module, names=list(cases), files=files, threads=threads):
        for number, (name, case) in enumerate(cases.items()):
            try:
                answer = await asyncio.to_thread(tried, at.port, source(), case, f"c{number}.{GUESTS}", certificate, 5.0)
            except (PeerError, OSError) as problem:
                answer = str(problem)
            if answer not in case.wanted:
                wrong.append(f"{name}: {answer!r}, expected {' or '.join(map(repr, case.wanted))}")
    step(f"{len(cases)} kinds of it refused")
    check(not wrong, "; ".join(wrong))


@contextlib.contextmanager
def no_dial(port: int = VICTIM_PORT) -> Iterator[Callable[[], int]]:
    """Listen as the server of `VICTIM`; the returned function gives the number of connections.

    If the gateway accepts a stanza of `VICTIM`, the echo answers it and the gateway connects.
    """
    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
        def dials() -> int:
            number = 0
            while select.select([listener], [], [], 0)[0]:
                listener.accept()[0].close()
                number += 1
            return number

        yield dials


def from_victim(domain: str = VICTIM) -> bytes:
    """Return a message of a domain that the stream has not proven."""
    return f"<message from='a@{domain}' to='echo@{INSIDE}'><body>hello</body></message>".encode()
