"""A backend's answers to the gateway's pings (R41). They arrive on streams that the backend opens, as its other stanzas do."""

from __future__ import annotations

import queue
import re
import threading
from typing import Any

from tests.lab.certificates import Certificate
from tests.lab.peer import Stream, authenticated

_MARK = b"s2sgw-"
_PING = re.compile(rb"<iq [^>]*\bid=['\"]s2sgw-[^>]*>")
_ID, _FROM = re.compile(rb"\bid=['\"]([^'\"]+)"), re.compile(rb"\bfrom=['\"]([^'\"]+)")
#: Longer than any start tag of such a ping.
_TAG = 512


class Answers:
    """A thread that answers every ping. `job` has the inner listener, the domain and its certificate."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._asked: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._streams: dict[str, Stream] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def watch(self) -> Pings:
        """Return a watcher for one connection."""
        return Pings(self._asked)

    def _run(self) -> None:
        while True:
            peer, ident = self._asked.get()
            self._stream(peer).send(f"<iq type='result' from='{self._job['domain']}' to='{peer}' id='{ident}'/>")

    def _stream(self, peer: str) -> Stream:
        if peer not in self._streams:
            certificate = Certificate(self._job["chain"], self._job["key"])
            self._streams[peer] = authenticated(self._job["inner"], peer, self._job["domain"], certificate)
        return self._streams[peer]


class Pings:
    """A finder of pings in a stream that arrives in pieces."""

    def __init__(self, asked: queue.SimpleQueue[tuple[str, str]]) -> None:
        self._asked = asked
        self._tail = b""
        self._last = b""

    def feed(self, data: bytes) -> None:
        """Find pings in a piece. One ping is open at a time, so the last id tells a new ping from the same one in the tail."""
        text = self._tail + data
        if _MARK in text:
            for found in _PING.findall(text):
                self._found(found)
        self._tail = text[-_TAG:]

    def _found(self, tag: bytes) -> None:
        ident, peer = _ID.search(tag), _FROM.search(tag)
        if ident is not None and peer is not None and ident[1] != self._last:
            self._last = ident[1]
            self._asked.put((peer[1].decode(), ident[1].decode()))
