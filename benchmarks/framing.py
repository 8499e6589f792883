"""The cost of the framer: microseconds per stanza, beside expat alone. Run: python benchmarks/framing.py"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from s2sgw.xmpp.framing import Framer
from s2sgw.xmpp.header import stream_header

#: 378 bytes with five children, as a chat client sends them.
STANZA = (
    b"<message to='romeo@montague.example/orchard' from='juliet@capulet.example/balcony' type='chat' id='ab7f-00012'>"
    b"<body>Art thou not Romeo, and a Montague? Neither, fair saint, o!</body>"
    b"<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/>"
    b"<markable xmlns='urn:xmpp:chat-markers:0'/><origin-id xmlns='urn:xmpp:sid:0' id='ab7f-00012'/></message>"
)
PER_CHUNK = 43  # 16 kB: a TLS record
CHUNKS = 400
ROUNDS = 7

HEADERS = {
    "plain header": stream_header(to="montague.example", from_="capulet.example"),
    "header with xml:lang": stream_header(to="montague.example", from_="capulet.example", lang="en"),
    "header with a prefix": stream_header(to="montague.example", from_="capulet.example").replace(
        b" xmlns:db", b" xmlns:x='urn:example:x' xmlns:db"
    ),
}


def bare(start: Callable[..., None] | None, end: Callable[..., None] | None) -> Callable[[bytes], object]:
    parser = expat.ParserCreate("utf-8", "}", None)
    parser.Parse(HEADERS["plain header"], False)
    parser.StartElementHandler, parser.EndElementHandler = start, end
    return lambda data: parser.Parse(data, False)


def framer(header: bytes) -> Callable[[bytes], object]:
    feed = Framer().feed
    feed(header)
    return feed


def measure(make: Callable[[], Callable[[bytes], object]], chunk: bytes, stanzas: int) -> float:
    """Return the best of `ROUNDS`, in microseconds of CPU per stanza."""
    best = float("inf")
    for _ in range(ROUNDS):
        feed = make()
        begin = time.process_time()
        for _ in range(CHUNKS):
            feed(chunk)
        best = min(best, time.process_time() - begin)
    return best * 1e6 / (CHUNKS * stanzas)


def main() -> None:
    chunk = STANZA * PER_CHUNK
    print(f"{len(STANZA)}-byte stanza, five children, {PER_CHUNK} to a chunk, {expat.EXPAT_VERSION}, µs per stanza:")
    rows: list[tuple[str, Callable[[], Callable[[bytes], object]], bytes, int]] = [
        ("expat, no handlers", lambda: bare(None, None), chunk, PER_CHUNK),
        ("expat, empty handlers", lambda: bare(lambda name, attributes: None, lambda name: None), chunk, PER_CHUNK),
        *((f"framer, {name}", lambda header=header: framer(header), chunk, PER_CHUNK) for name, header in HEADERS.items()),
        ("framer, one stanza a feed", lambda: framer(HEADERS["plain header"]), STANZA, 1),
    ]
    for name, make, data, stanzas in rows:
        print(f"  {name:28} {measure(make, data, stanzas):6.2f}")


if __name__ == "__main__":
    main()
