"""The other end: accept stanzas and count them. One process, one of six kinds.

    python -m benchmarks.sink '{"kind": "server", "port": …, "chain": …, "key": …, "anchors": …, "domain": …, "count": …}'
        an XMPP server's s2s port: STARTTLS, a certificate of `anchors` required, EXTERNAL accepted
    python -m benchmarks.sink '{"kind": "managed", …}'
        the same with XEP-0198: it acknowledges on request
    python -m benchmarks.sink '{"kind": "answering", "inner": …, …}'
        as "server", and it answers the gateway's pings, as every XMPP server does, on streams that it opens at `inner`
    python -m benchmarks.sink '{"kind": "component", "port": …, "domain": …, "secret": …, "count": …}'
        an XEP-0114 component of the server that listens at `port`
    python -m benchmarks.sink '{"kind": "plain", "port": …, …}'
        as "server" without TLS, for a relay that terminates TLS
    python -m benchmarks.sink '{"kind": "bare", "port": …, "chain": …, "key": …, "anchors": …, "domain": …, "count": …}'
        as "server", and every byte goes through expat without handlers: the limit of Python

With `"timed": true` the ids of the messages have the time of sending (`benchmarks.delays`), and the report has their delays.
With `"patience": 4` the report is also printed after this many seconds without a message.

It prints `ready`, `warm` after the first `warm` messages (one for each stream), and after `count` more a JSON object: the seconds
from the first to the last of those, the CPU seconds of this process meanwhile, and the number of bytes.
"""

from __future__ import annotations

import hashlib
import json
import selectors
import socket
import ssl
import sys
import time
from typing import Any
from xml.parsers import expat

from benchmarks.answers import Answers, Pings
from benchmarks.delays import Delays
from benchmarks.stanzas import Counter
from tests.lab.certificates import Certificate
from tests.lab.peer import SASL, TLS, PeerError, Stream, server_context

_READ = 262144
#: Seconds in which requests after the end are still answered, so that nothing stays in doubt for the next measurement.
_LINGER = 1.0
_HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' "
    "xmlns:stream='http://etherx.jabber.org/streams' id='{id}' from='{domain}' to='{peer}' version='1.0'>"
)
_FEATURES = "<stream:features>{}</stream:features>"
_STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
_MANAGEMENT = "<sm xmlns='urn:xmpp:sm:3'/>"
_ENABLE, _REQUEST = b"<enable ", b"<r xmlns='urn:xmpp:sm:3'/>"
_CLOSE = b"</stream:stream>"
_EXTERNAL = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"


class Tally:
    """The count of all connections together; `done` when it is complete."""

    def __init__(self, count: int, warm: int, timed: bool = False) -> None:
        self.timed = timed
        self.milliseconds: list[float] = []
        self.wanted = count
        self.count = -warm
        self.bytes = 0
        self.first = self.last = self.cpu = 0.0

    def add(self, found: int, data: bytes) -> None:
        """Count this many messages that ended in `data`."""
        if self.count < 0:
            self.count += found
            if self.count == 0:
                self.last = time.monotonic()
                print("warm", flush=True)
            return
        if not self.first:
            self.first, self.cpu = time.monotonic(), time.process_time()
        self.last = time.monotonic()
        self.count += found
        self.bytes += len(data)

    def done(self, patience: float) -> bool:
        """Return whether all messages arrived, or none for `patience` seconds."""
        return self.count >= self.wanted or (self.last > 0 and time.monotonic() - self.last > patience)

    def report(self) -> None:
        """Print the account, as JSON."""
        seconds, cpu = self.last - self.first, time.process_time() - self.cpu
        report = {"count": self.count, "seconds": seconds, "cpu": cpu, "bytes": self.bytes, "delays": self.milliseconds}
        print(json.dumps(report), flush=True)


class Source:
    """One connection that brings stanzas."""

    def __init__(
        self, connection: socket.socket, parse: bool, managed: bool = False, pings: Pings | None = None, closes: bool = False,
    ) -> None:
        """`closes`: a closing tag is answered, and ends the connection."""
        self._socket = connection
        self._closes = closes
        self._pings = pings
        self._managed = managed
        self._counter = Counter()
        self._delays = Delays()
        self._enabling = True
        self._tail = b""
        self._parser = expat.ParserCreate("utf-8") if parse else None
        if self._parser is not None:
            self._parser.Parse(b"<stream>", False)
        connection.setblocking(False)

    def read(self, tally: Tally) -> bool:
        """Read the available data; return False at the end of the connection."""
        while True:
            try:
                data = self._socket.recv(_READ)
            except (BlockingIOError, ssl.SSLWantReadError):
                return True
            except OSError:
                return False
            if not data:
                return False
            if self._parser is not None and b"</stream:stream>" not in data:
                self._parser.Parse(data, False)
            if tally.timed:
                self._delays.feed(data, tally.milliseconds)
            tally.add(self._counter.feed(data), data)
            if self._managed:
                self._answer(data)
            if self._pings is not None:
                self._pings.feed(data)
            if self._closes and data.endswith(_CLOSE):
                self._say(_CLOSE)
                return False

    def close(self) -> None:
        self._socket.close()

    def _answer(self, data: bytes) -> None:
        """Answer XEP-0198 elements. Stanzas after `<enable/>` are counted, so none may arrive before it."""
        if self._enabling and _ENABLE in data:
            self._enabling = False
            self._say(b"<enabled xmlns='urn:xmpp:sm:3'/>")
        if _REQUEST in data or _REQUEST in self._tail + data[: len(_REQUEST) - 1]:
            self._say(b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self._counter.count)
        self._tail = data[1 - len(_REQUEST):]  # never a whole one, which would be answered twice

    def _say(self, data: bytes) -> None:
        """Send a few bytes, for which there is always space."""
        self._socket.setblocking(True)
        self._socket.sendall(data)
        self._socket.setblocking(False)


def accept(listener: socket.socket, job: dict[str, Any], context: ssl.SSLContext, number: int) -> Stream:
    """Negotiate one accepted connection up to the header after EXTERNAL."""
    connection, _ = listener.accept()
    stream = Stream(connection)
    for offer in (*(() if job["kind"] == "plain" else (_STARTTLS,)), _EXTERNAL, _MANAGEMENT if job["kind"] == "managed" else ""):
        header = stream.wait_header()
        peer, domain = header.get("from", ""), header.get("to", job["domain"])
        stream.send(_HEADER.format(id=f"sink{number}-{len(offer)}", domain=domain, peer=peer) + _FEATURES.format(offer))
        if offer == _STARTTLS:
            stream.expect(f"{TLS}starttls")
            stream.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            stream.secure(context, None)
        elif offer == _EXTERNAL:
            stream.expect(f"{SASL}auth")
            stream.restart()
            stream.send("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
    return stream


def component(job: dict[str, Any]) -> Stream:
    """Do the XEP-0114 handshake."""
    stream = Stream.dial(job["port"])
    stream.send(
        f"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' to='{job['domain']}' "
        "xmlns:stream='http://etherx.jabber.org/streams'>"
    )
    ident = stream.wait_header()["id"]
    stream.send(f"<handshake>{hashlib.sha1((ident + job['secret']).encode()).hexdigest()}</handshake>")
    stream.expect("{jabber:component:accept}handshake")
    return stream


def serve(job: dict[str, Any]) -> None:
    """Run the job of the command line until it is complete."""
    tally, selector = Tally(job["count"], job["warm"], "timed" in job), selectors.DefaultSelector()
    listener: socket.socket | None = None
    parse = job["kind"] == "bare"
    answers = Answers(job) if job["kind"] == "answering" else None
    if job["kind"] == "component":
        selector.register((ours := component(job)).raw, selectors.EVENT_READ, Source(ours.raw, parse))
    else:
        listener = socket.create_server(("127.0.0.1", job["port"]), backlog=64)
        selector.register(listener, selectors.EVENT_READ, None)
        context = server_context(Certificate(job["chain"], job["key"]), job["anchors"])
    print("ready", flush=True)
    until, patience = float("inf"), job.get("patience", float("inf"))
    while time.monotonic() < until:
        if tally.done(patience) and until == float("inf"):
            tally.report()
            until = time.monotonic() + _LINGER
        for key, _ in selector.select(_LINGER):
            if key.data is not None:
                if not key.data.read(tally):
                    selector.unregister(key.fileobj)
                    key.data.close()
            elif listener is not None:
                try:
                    stream = accept(listener, job, context, len(selector.get_map()))
                except PeerError:
                    continue  # it was closed before it was a stream; another one follows
                kind = job["kind"]
                source = Source(stream.raw, parse, kind == "managed", answers.watch() if answers else None, kind == "plain")
                selector.register(stream.raw, selectors.EVENT_READ, source)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
