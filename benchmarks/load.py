"""The load: peers that federate by EXTERNAL and then send as fast as the other side takes it. One process.

    python -m benchmarks.load '{"port": …, "to": "inside.example", "count": 100000, "peers": [["peer1.example", "x.crt",
    "x.key"], …]}'

Sends one message on each stream when it is authenticated, so that the way behind is open too. Then prints `ready`, waits for
a line on its input, sends the rest, and closes its streams in order. With `"rate": 2000` it sends so many a second, one by one.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.delays import stamp
from benchmarks.stanzas import ID, chunk, message
from tests.lab.certificates import Certificate
from tests.lab.peer import Stream, authenticated

ENABLE = b"<enable xmlns='urn:xmpp:sm:3'/>"
REQUEST = b"<r xmlns='urn:xmpp:sm:3'/>"


def _send(stream: Stream, stanza: bytes, count: int, managed: bool) -> None:
    block, each = chunk(stanza)
    behind = REQUEST if managed else b""
    stream.raw.settimeout(120)
    for _ in range(count // each):
        stream.send(block + behind)
    stream.send(stanza * (count % each) + (behind or b"</stream:stream>"))


def _send_all(streams: list[tuple[Stream, bytes]], share: int, managed: bool) -> None:
    """As fast as it goes, on all streams at once."""
    senders = [threading.Thread(target=_send, args=(stream, stanza, share, managed)) for stream, stanza in streams]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()


def _pace(streams: list[tuple[Stream, bytes]], count: int, rate: float, managed: bool) -> None:
    """One stanza at a time, on each stream in turn, its id saying when it was sent; what comes meanwhile is forgotten."""
    for stream, _ in streams:
        stream.raw.settimeout(0)
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        stream, stanza = streams[number % len(streams)]
        with contextlib.suppress(ssl.SSLWantReadError):
            stream.raw.recv(65536)
        stream.send(stanza.replace(ID, stamp()) + (REQUEST if managed else b""))


def _drain(stream: Stream) -> None:
    """Read what the other side says (acknowledgement requests, the closing tag), so that it never blocks on us."""
    try:
        while stream.raw.recv(65536):
            pass
    except (OSError, ssl.SSLError):
        return


def main(job: dict[str, Any]) -> None:
    """Run the job of the command line."""
    streams = []
    for domain, chain, key in job["peers"]:
        stream = authenticated(job["port"], job["to"], domain, Certificate(Path(chain), Path(key)))
        # an id of this run's: what came before a stream was lost is not to be taken for sent again
        stanza = message(domain, job["to"])
        stream.send((ENABLE if job.get("managed") else b"") + stanza.replace(ID, stamp()))
        streams.append((stream, stanza if "rate" in job else stanza.replace(ID, stamp())))
    print("ready", flush=True)
    sys.stdin.readline()
    managed = bool(job.get("managed"))
    if "rate" in job:
        _pace(streams, job["count"], job["rate"], managed)
    else:
        _send_all(streams, job["count"] // len(streams), managed)
    print("sent", flush=True)
    for stream, _ in streams:
        stream.raw.settimeout(10)
        _drain(stream)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
