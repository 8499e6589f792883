"""One inbound stanza and its acknowledgement, through a whole gateway in memory: the files that are entered, and how often.

A peer (proven by dialback, over TLS that takes no bytes) sends `<message/>` and `<r/>`. The gateway writes it to the existing server, the server
acknowledges (XEP-0198), and the gateway acknowledges to the peer. The count is of a stream that is already in use.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MethodType
from typing import Any, Literal, NamedTuple, cast

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from s2sgw.composition.gateway import build_gateway
from s2sgw.config import load
from s2sgw.s2s.stream_outcomes import StreamOutcomes
from s2sgw.stream.dialback import DialbackKeys
from s2sgw.stream.events import DialbackOutcome, Permission
from s2sgw.stream.receiving import ReceivingOptions, ReceivingStream
from s2sgw.xmpp.jid import Domain, Pair
from tests.project.source_tree import PACKAGE
from tests.support.certificates import shared_root
from tests.support.fakes import ThreadlessReactor
from tests.support.two_gateways import Link

PEER, LOCAL = Domain.parse("peer.example"), Domain.parse("example.org")
CONFIG = """\
[gateway]
domains = ["example.org"]
[tls]
certificates = "certs"
trust_anchors = "ca.crt"
[backend]
tls = "never"
"""
HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' "
    "xmlns:stream='http://etherx.jabber.org/streams' version='1.0' from='{0}' to='{1}' id='i'>"
)
FEATURES = (
    "<stream:features><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"
    "<sm xmlns='urn:xmpp:sm:3'/></stream:features>"
)


class Entry(NamedTuple):
    """Control passes into a file of s2sgw from another one, by a call or by a return; `function` is where it arrives."""

    file: str
    function: str
    by: Literal["call", "return"]


@dataclass(frozen=True, slots=True)
class Journey:
    """The calls that one stanza and its acknowledgement cause, in order."""

    entries: tuple[Entry, ...]

    def entered(self, file: str) -> int:
        """Return how often a file was entered."""
        return sum(entry.file == file for entry in self.entries)


class _Profile:
    """A collector of the entries while it is open (`sys.setprofile`)."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._file: str | None = None

    def __enter__(self) -> _Profile:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        if frame.f_code.co_name == "__hash__":
            return  # a look-up in a dict is not an entry, whichever file defines the hash
        if event == "call":
            self._arrive(frame, "call")
        elif event == "return" and frame.f_back is not None:
            self._arrive(frame.f_back, "return")

    def _arrive(self, frame: FrameType, by: Literal["call", "return"]) -> None:
        file = _inside(frame)
        if file is not None and file != self._file:
            self._file = file
            self.entries.append(Entry(file, frame.f_code.co_qualname, by))


def _inside(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(PACKAGE).as_posix() if PACKAGE in path.parents else None


class PeerLeg:
    """A `ReceivingLeg` that believes the peer's dialback key."""

    leg: Literal["federation"] = "federation"
    outcomes = StreamOutcomes()

    def engine(self, direct_tls: bool) -> ReceivingStream:
        options = ReceivingOptions(DialbackKeys(b"k" * 32), LOCAL.__eq__, LOCAL.__eq__, direct_tls=direct_tls)
        return ReceivingStream(options, lambda: "ours")

    async def resolve(self, *_: object) -> None: ...

    async def judge(self, *_: object) -> tuple[Permission, tuple[str, ...]]:
        return Permission(dialback=True, management=True), ()

    async def verify(self, *_: object) -> DialbackOutcome:
        return DialbackOutcome("valid")

    async def admit(self, pair: Pair) -> None: ...

    def policy(self, *_: object) -> None: ...

    async def reconsider(self, *_: object) -> None: ...

    def excess(self, *_: object) -> None: ...

    def proven(self, *_: object) -> None: ...

    def tls(self, order: object) -> None: ...


class Wire(StringTransport):
    """A transport whose other end is this script."""

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "127.0.0.1", 15269))

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    setTcpKeepAlive = setTcpNoDelay

    def written(self) -> str:
        """Return what the gateway has written since the last call."""
        text: str = self.value().decode()
        self.clear()
        return text


class World:
    """The gateway, and the wires of the peer and the existing server."""

    def __init__(self, folder: Path) -> None:
        self.reactor = ThreadlessReactor()
        (folder / "certs").mkdir()
        (folder / "ca.crt").write_bytes(shared_root().pem)
        (folder / "s2sgw.toml").write_text(CONFIG)
        self.gateway = build_gateway(load(folder / "s2sgw.toml"), self.reactor)
        self.peer = Wire()
        self.accepted = self.gateway.accepted.accept(cast(Any, PeerLeg()), direct_tls=True)
        self.accepted._open_tls = MethodType(Link._open_tls, self.accepted)  # type: ignore[method-assign]
        self.accepted.makeConnection(self.peer)
        self.server: Wire

    def turn(self) -> None:
        """Let the reactor run while it has work without delay."""
        for _ in range(8):
            self.reactor.advance(0)

    def say(self, protocol: Any, text: str) -> None:
        """Deliver `text` to one end of the gateway."""
        protocol.dataReceived(text.encode())
        self.turn()

    def open(self) -> None:
        """Prove the peer, send a first stanza, and serve the resulting stream."""
        self.say(self.accepted, HEADER.format(PEER, LOCAL))
        self.say(self.accepted, f"<db:result from='{PEER}' to='{LOCAL}'>key</db:result>")
        self.say(self.accepted, "<enable xmlns='urn:xmpp:sm:3'/>")
        assert "<enabled" in self.peer.written(), "the peer is not proven"
        self.send(0)
        self.turn()
        factory: Any = self.reactor.tcpClients[-1][2]
        self.connection = factory.buildProtocol(None)
        self.server = Wire()
        self.connection.makeConnection(self.server)
        self.turn()
        self.say(self.connection, HEADER.format(LOCAL, PEER) + FEATURES)
        self.say(self.connection, f"<db:result from='{LOCAL}' to='{PEER}' type='valid'/>")
        self.say(self.connection, "<enabled xmlns='urn:xmpp:sm:3'/>")
        self.acknowledge(0)

    def send(self, number: int) -> None:
        """Send a stanza as the peer, and request an acknowledgement."""
        message = f"<message from='u@peer.example/r' to='v@example.org' id='m{number}'><body>x</body></message>"
        self.say(self.accepted, message + "<r xmlns='urn:xmpp:sm:3'/>")

    def acknowledge(self, number: int) -> None:
        """Acknowledge all stanzas up to this one, as the existing server."""
        self.say(self.connection, f"<a xmlns='urn:xmpp:sm:3' h='{number + 1}'/>")

    def carried(self, number: int) -> None:
        """Send one stanza and have it acknowledged; check the result."""
        self.send(number)
        self.acknowledge(number)
        assert f"id='m{number}'" in self.server.written(), "the stanza did not arrive"
        assert f"h='{number + 1}'" in self.peer.written(), "the stanza was not acknowledged"

    def pass_window(self) -> None:
        """Let the window pass after which an unacknowledged stanza would be spooled."""
        self.reactor.pump([self.gateway.running.config.queue.window] * 6)


def measure() -> Journey:
    """Measure the journey of the third stanza of a stream."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            world.open()
            world.carried(1)
            with _Profile() as profile:
                world.carried(2)
                world.pass_window()
            return Journey(tuple(profile.entries))
        finally:
            world.gateway.spool.close(lambda: None)


if __name__ == "__main__":
    for entry in measure().entries:
        print(f"{entry.by:8} {entry.file:36} {entry.function}")
