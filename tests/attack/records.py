"""TLS records that no TLS library sends: messages without end that are no data, and handshakes in thousands of pieces."""

from __future__ import annotations

import contextlib
import struct
import time
import xml.etree.ElementTree as ET
from itertools import cycle

from OpenSSL import SSL

from tests.attack.shared import GUESTS, SECONDS, begin, stage
from tests.attack.world import AttackWorld
from tests.lab.peer import PeerError
from tests.lab.scenario import step
from tests.lab.tls_records import Secrets

#: KeyUpdates that one connection sends at once: reading them would take a third of a second.
UPDATES = 20_000
#: Bytes of a ClientHello that has a record for each of them.
HELLO_BYTES = 60_000


def pieces() -> bytes:
    """Return the beginning of a ClientHello, in records of one byte each."""
    hello = b"\1" + (HELLO_BYTES + 1000).to_bytes(3) + b"\3\3" + bytes(HELLO_BYTES)
    return b"".join(struct.pack("!BHHB", 22, 0x301, 1, byte) for byte in hello)


def messages(port: int, seconds: float) -> None:
    """Send TLS messages without end: KeyUpdates, some of which demand an answer, and ClientHellos in pieces."""
    end, broken = time.monotonic() + seconds, pieces()
    for number, requested in enumerate(cycle((False, True))):
        if time.monotonic() > end:
            return
        for kind in (_update, lambda port, number, _: _break(port, number, broken)):
            with contextlib.suppress(OSError, PeerError, ET.ParseError, SSL.Error):
                kind(port, number, requested)


def _update(port: int, number: int, requested: bool) -> None:
    with contextlib.closing(begin(port, f"127.56.{number % 250}.1", "proceed", f"k{number}.{GUESTS}", None)) as stream:
        context = SSL.Context(SSL.TLS_METHOD)
        secrets = Secrets(context)
        stream.raw.settimeout(None)
        connection = SSL.Connection(context, stream.raw)
        connection.set_connect_state()
        connection.do_handshake()
        records = secrets.client()
        stream.raw.settimeout(10)
        stream.raw.sendall(b"".join(records.key_update(requested) for _ in range(UPDATES)))
        stream.raw.recv(65536)


def _break(port: int, number: int, broken: bytes) -> None:
    with contextlib.closing(begin(port, f"127.57.{number % 250}.1", "proceed", f"b{number}.{GUESTS}", None)) as stream:
        stream.raw.sendall(broken)
        stream.raw.recv(65536)


@stage.scenario("KeyUpdates without end, and ClientHellos in sixty thousand records", 120, quick=True)
async def _messages(at: AttackWorld) -> None:
    wanted = ("too many TLS messages without data", "too many small records")
    async with at.under(messages, SECONDS, patient=True):
        await at.felt(lambda: _told(at).issuperset(wanted), "such connections were not refused")
    step(f"refused: {', '.join(sorted(_told(at)))}")


def _told(at: AttackWorld) -> set[str]:
    return {row["detail"] for row in at.gateway.asked("refusals") if row["cause"] == "tls-failed"}
