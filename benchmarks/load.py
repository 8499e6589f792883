"""The load: peers that federate by EXTERNAL and then send as fast as the other side accepts. One process.

    python -m benchmarks.load '{"port": …, "to": "inside.example", "count": 100000, "peers": [["peer1.example", "x.crt",
    "x.key"], …]}'

It sends one message on each stream after authentication, so that streams behind the relay are open too. Then it prints `ready`,
waits for a line on its input, sends the rest, prints a JSON object (the number sent, and the seconds), and closes its streams
normally. With `"ports": [...]` each peer has its own port. With `"rate": 2000` it sends this many a second, one by one, for at
most `"seconds"`.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
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
#: Stanzas of a stream between two reads of it.
READ_EACH = 8


def _send(stream: Stream, stanza: bytes, count: int, managed: bool) -> None:
    block, each = chunk(stanza)
    behind = REQUEST if managed else b""
    stream.raw.settimeout(120)
    for _ in range(count // each):
        stream.send(block + behind)
    stream.send(stanza * (count % each) + (behind or b"</stream:stream>"))


def _send_all(streams: list[tuple[Stream, bytes]], share: int, managed: bool) -> None:
    """Send as fast as possible, on all streams at once."""
    senders = [threading.Thread(target=_send, args=(stream, stanza, share, managed)) for stream, stanza in streams]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()


def _pace(streams: list[tuple[Stream, bytes]], job: dict[str, Any]) -> int:
    """Send one stanza at a time, on each stream in turn, with the time in its id; return the number sent.

    Data from the other side is read from time to time, and discarded. A stream that accepts no more data is waited for.
    """
    for stream, _ in streams:
        stream.raw.settimeout(0)
    count, begin = int(job["count"]), time.monotonic()
    behind = REQUEST if job.get("managed") else b""
    until = begin + job.get("seconds", 120.0)
    for number in range(count):
        ahead = begin + number / job["rate"] - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        stream, stanza = streams[number % len(streams)]
        if number // len(streams) % READ_EACH == 0:
            with contextlib.suppress(ssl.SSLWantReadError):
                stream.raw.recv(65536)
        if not _sent(stream.raw, stanza.replace(ID, stamp()) + behind, until):
            return number
    return count


def _sent(connection: socket.socket, data: bytes, until: float) -> bool:
    """Write `data`, waiting for space until `until`; return whether it was sent. TLS needs the same data again."""
    while time.monotonic() < until:
        try:
            written = connection.send(data)
        except ssl.SSLWantWriteError:
            select.select([], [connection], [], 0.5)
        except ssl.SSLWantReadError:
            connection.recv(65536)
        else:
            data = data[written:]
            if not data:
                return True
    return False


def _drain(stream: Stream) -> None:
    """Read the other side's data (acknowledgement requests, the closing tag), so that it never blocks on this side."""
    try:
        while stream.raw.recv(65536):
            pass
    except (OSError, ssl.SSLError):
        return


def main(job: dict[str, Any]) -> None:
    """Run the job of the command line."""
    streams = []
    ports = job.get("ports") or [job["port"]] * len(job["peers"])
    for (domain, chain, key), port in zip(job["peers"], ports, strict=True):
        stream = authenticated(port, job["to"], domain, Certificate(Path(chain), Path(key)))
        # a new id for this run: stanzas from before a lost stream must not be taken for repeats
        stanza = message(domain, job["to"])
        stream.send((ENABLE if job.get("managed") else b"") + stanza.replace(ID, stamp()))
        streams.append((stream, stanza if "rate" in job else stanza.replace(ID, stamp())))
    print("ready", flush=True)
    sys.stdin.readline()
    begin, count = time.monotonic(), job["count"]
    if "rate" in job:
        count = _pace(streams, job)
    else:
        _send_all(streams, count // len(streams), bool(job.get("managed")))
    print(json.dumps({"count": count, "seconds": time.monotonic() - begin}), flush=True)
    for stream, _ in streams:
        stream.raw.settimeout(10)
        _drain(stream)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
