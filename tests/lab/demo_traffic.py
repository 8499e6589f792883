"""The peer of `make cluster-demo`: sends one numbered message a second through a node, and prints when its echo arrives.

    python -m tests.lab.demo_traffic b=127.0.0.1:PORT c=127.0.0.1:PORT

If the node ends, the peer goes to the next one that is named, as a server on the network goes to the next SRV record. It has no
XEP-0198, so a number that is on its way while a node is killed may be lost. Press Ctrl-C to end it.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import secrets
import select
import signal
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from tests.lab.certificates import Certificate
from tests.lab.gateway import PROJECT
from tests.lab.lab import Lab
from tests.lab.peer import SERVER, STREAMS, PeerError, Stream, authenticated, is_barrier, stream_error
from tests.lab.receiver import Receiver

PEER, DOMAIN = "peer.example", "example.org"
#: The port where the peer listens: that of examples/hello.py.
PORT = 5299
#: Seconds between two numbers, between two looks at the connection, and until the next node is tried.
PACE, LOOK, PAUSE = 1.0, 0.1, 0.5
#: Numbers that are named in the end, because they did not come back.
NAMED = 10


class Place(NamedTuple):
    """A node, and the port of its listener for peers."""

    name: str
    port: int


class _Echoes(Receiver):
    """Listens for the echoes. Pings of the gateway are answered on the stream to it, as a server does."""

    def __init__(self, lab: Lab, certificate: Certificate, port: int, heard: Callable[[ET.Element], None]) -> None:
        self._note = heard
        super().__init__(lab, PEER, certificate, port=port)

    def _heard(self, stream: Stream, element: ET.Element) -> None:
        self._note(element)


class Traffic:
    """Sends numbers to the nodes at `places`, the first that answers. `tell` gets each line for the operator."""

    def __init__(self, places: Sequence[Place], certificate: Certificate, tell: Callable[[str], None]) -> None:
        self.stopping = threading.Event()
        #: the numbers that came back, in this order
        self.echoed: list[int] = []
        self._places = list(places)
        self._certificate = certificate
        self._tell = tell
        self._run = secrets.token_hex(4)
        self._sent: dict[int, float] = {}
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stream: Stream | None = None

    def listen(self, lab: Lab, port: int) -> Receiver:
        """Receive the echoes."""
        return _Echoes(lab, self._certificate, port, self._heard)

    def run(self) -> None:
        """Send until `stopping` is set."""
        due = time.monotonic()
        try:
            while not self.stopping.is_set():
                if self._stream is None and not self._connect():
                    self.stopping.wait(PAUSE)
                elif self._is_open() and self._answer() and time.monotonic() >= due:
                    due = time.monotonic() + PACE
                    self._send_number()
                self.stopping.wait(LOOK)
        finally:
            if self._stream is not None:
                with contextlib.suppress(OSError):
                    self._stream.send("</stream:stream>")
                self._stream.close()

    def summary(self) -> str:
        """Return how many numbers were sent and came back, and which did not."""
        missing = sorted(self._sent.keys() - set(self.echoed))
        more = ", …" if len(missing) > NAMED else ""
        rest = f"; not yet: {', '.join(map(str, missing[:NAMED]))}{more}" if missing else ""
        return f"{len(self._sent)} numbers were sent, {len(set(self.echoed))} came back{rest}"

    # --- the stream to a node ---

    def _connect(self) -> bool:
        place = self._places[0]
        try:
            self._stream = authenticated(place.port, DOMAIN, PEER, self._certificate)
        except (PeerError, OSError) as error:
            self._tell(f"node {place.name} cannot be used: {error}")
            self._places.append(self._places.pop(0))
            return False
        self._tell(f"connected to node {place.name}")
        return True

    def _is_open(self) -> bool:
        """Read what the node says, which may be the end of the stream."""
        assert self._stream is not None
        why = "the connection is lost"
        with contextlib.suppress(PeerError, OSError):
            while select.select([self._stream.raw], [], [], 0)[0]:
                element = self._stream.next(LOOK)
                if element is None:
                    break
                if element.tag == f"{STREAMS}error":
                    why = f"it ended the stream: {stream_error(element)[0]}"
            else:
                return True
        self._lost(why)
        return False

    def _lost(self, why: str) -> None:
        assert self._stream is not None
        self._tell(f"node {self._places[0].name}: {why}")
        self._stream.close()
        self._stream = None
        self._places.append(self._places.pop(0))

    def _answer(self) -> bool:
        """Answer the pings that have come on the other stream."""
        while not self._answers.empty():
            if not self._write(self._answers.get()):
                return False
        return True

    def _send_number(self) -> None:
        number = len(self._sent) + 1
        self._sent[number] = time.monotonic()
        name = self._places[0].name
        attributes = f"from='demo@{PEER}' to='echo@{DOMAIN}' type='chat' id='{self._run}-{number}'"
        if self._write(f"<message {attributes}><body>{number}</body></message>"):
            self._tell(f"{number} sent to node {name}")

    def _write(self, text: str) -> bool:
        assert self._stream is not None
        try:
            self._stream.send(text)
        except OSError as error:
            self._lost(str(error))
            return False
        return True

    # --- the streams from nodes ---

    def _heard(self, element: ET.Element) -> None:
        if is_barrier(element):
            asked_by, asked, word = (quoteattr(element.get(key, "")) for key in ("from", "to", "id"))
            self._answers.put(f"<iq type='result' from={asked} to={asked_by} id={word}/>")
            return
        run, _, number = element.get("id", "").partition("-")
        if element.tag != f"{SERVER}message" or not number.isdecimal():
            return
        how = "was returned with an error" if element.get("type") == "error" else "came back"
        if run == self._run:
            how += " again" if int(number) in self.echoed else ""
            how += f" after {time.monotonic() - self._sent[int(number)]:.2f} s"
            self.echoed.append(int(number))
        else:
            how += " (of an earlier run)"
        self._tell(f"        {number} {how}")


def place(text: str) -> Place:
    name, _, address = text.partition("=")
    return Place(name, int(address.rpartition(":")[2]))


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Send numbered messages through a cluster, and print their echoes.")
    parser.add_argument("nodes", nargs="+", type=place, metavar="NODE=HOST:PORT", help="the nodes, in the order in which they are tried")
    parser.add_argument("--closed", action="store_true", help="do not listen: the echoes wait in the queues of the nodes")
    parser.add_argument("--certificate", type=Path, default=PROJECT / "certs" / "peer" / f"{PEER}.crt")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    traffic = Traffic(chosen.nodes, Certificate(chosen.certificate, chosen.certificate.with_suffix(".key")), _tell)
    with Lab() as lab:
        receiver = None if chosen.closed else traffic.listen(lab, PORT)
        try:
            traffic.run()
        except KeyboardInterrupt:
            print(f"\n{traffic.summary()}")
        finally:
            if receiver is not None:
                receiver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
