"""Memory after a connection is closed: no object stays, also without the search for reference cycles (`gc.disable()`)."""

from __future__ import annotations

import contextlib
import gc
import io
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.s2s import resumption_table
from s2sgw.xmpp.ending import Cause, Ending
from tests.integration.test_loopback import LoopbackCase
from tests.lab.peer import DIALBACK, Stream, header
from tests.support.two_gateways import HERE, THERE, World

#: Modules whose objects are counted.
_COUNTED = ("s2sgw.", "twisted.protocols.tls", "twisted.internet.tcp", "OpenSSL.")
#: Connections of one kind that are made, after two that fill caches.
TIMES = 3
HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' from='{from_}' to='{to}' "
    "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
)
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


#: Objects that stay on the keep-alive's wheel until their slot, some seconds later, and have no references.
_PASSING = {"s2sgw.s2s.keepalive.KeepAliveEntry"}
#: A record of a peer that a thread still writes.
_WRITING = "s2sgw.peerdb.database._Job"


def living() -> Counter[str]:
    """Return the objects of these modules that are in memory, by type."""
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds if str(kind.__module__).startswith(_COUNTED))


class ConnectionMemoryTests(LoopbackCase):
    """Each kind of connection to a whole gateway on real sockets, with real TLS."""

    def setUp(self) -> None:
        super().setUp()
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

    async def leaves_nothing(self, visit: Callable[[], Any]) -> None:
        """Check that no object stays after `visit`, which is one whole connection, in a thread."""
        self.gateway = await self.running()
        for _ in range(2):  # the second one is counted as a repetition of the first
            await deferToThread(visit)
            await self.gone()
        before = living()
        for _ in range(TIMES):
            await deferToThread(visit)
            await self.gone()
        after = living()
        left = {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind] and kind not in _PASSING}
        self.assertEqual("", ", ".join(f"{number} {kind}" for kind, number in left.items()))

    async def gone(self) -> None:
        """Check that every connection has ended, on this side too, that idle queues are forgotten, and that records are written."""
        self.streams.clear()
        await super().gone()
        for _ in range(200):
            await deferLater(reactor, 0.02)
            self.gateway.components.custody.expiry.sweep()
            if not list(self.gateway.components.custody.queues) and not living()[_WRITING]:
                return

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.federation), 5)

    def silent(self) -> None:
        self.dial().close()

    def headed(self, from_: str = "peer.example", to: str = "example.org", more: str = "") -> bytes:
        """Send a header, and read to the end, or for a moment."""
        with self.dial() as peer:
            peer.sendall((HEADER.format(from_=from_, to=to) + more).encode())
            peer.settimeout(0.5)
            heard = b""
            try:
                while data := peer.recv(65536):
                    heard += data
            except TimeoutError:
                pass
            return heard

    async def test_silent(self) -> None:
        """A connection that sends nothing."""
        await self.leaves_nothing(self.silent)

    async def test_refused_at_the_header(self) -> None:
        """A header for a domain that is not served."""
        await self.leaves_nothing(lambda: self.assertIn(b"host-unknown", self.headed(to="other.example")))

    async def test_bad_xml(self) -> None:
        """Bytes that are not XML."""
        await self.leaves_nothing(lambda: self.assertIn(b"not-well-formed", self.headed(more="<a></b>")))

    async def test_left_before_tls(self) -> None:
        """A connection that sends only a header."""
        await self.leaves_nothing(lambda: self.assertIn(b"features", self.headed()))

    async def test_aborted_in_tls(self) -> None:
        """The connection is cut in the middle of the handshake."""

        def visit() -> None:
            with self.dial() as peer:
                peer.sendall((HEADER.format(from_="peer.example", to="example.org")).encode())
                peer.settimeout(5)
                heard = b""
                while b"</stream:features>" not in heard:
                    heard += peer.recv(65536)
                peer.sendall(STARTTLS.encode())
                while b"<proceed" not in heard:
                    heard += peer.recv(65536)
                peer.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

        await self.leaves_nothing(visit)

    async def test_stranger(self) -> None:
        """A peer whose certificate proves nothing."""

        def visit() -> None:
            try:
                self.peer("stranger").send_message(("127.0.0.1", self.federation), "example.org", "hello")
            except self.hello.UnexpectedAnswer:
                pass
            finally:
                for stream in self.streams:
                    stream.connection.close()

        await self.leaves_nothing(lambda: self.quietly(visit))

    async def test_session(self) -> None:
        """A whole session in both roles: a message, and its echo on a stream of the gateway."""

        def visit() -> None:
            self.assertEqual("hello", self.converse())
            for stream in self.streams:
                stream.connection.close()

        await self.leaves_nothing(lambda: self.quietly(visit))

    def dialback(self) -> None:
        """Prove peer.example by a key, which the gateway verifies at the peer's own port."""
        stream = Stream.dial(self.federation)
        stream.open("example.org", "peer.example")
        stream.send("<db:result from='peer.example' to='example.org'>key</db:result>")
        asked = Stream(self.listener.accept()[0])
        asked.wait_header()
        asked.send(header("example.org", "peer.example").replace(b"version='1.0'>", b"id='x' version='1.0'>") + b"<stream:features/>")
        verify = asked.expect(f"{DIALBACK}verify")
        asked.send(f"<db:verify from='peer.example' to='example.org' id='{verify.get('id')}' type='valid'/>")
        self.assertEqual("valid", stream.expect(f"{DIALBACK}result").get("type"))
        for each in (asked, stream):
            each.close()

    async def test_dialback(self) -> None:
        """A peer proven by dialback. The gateway opens a stream to verify the key."""
        self.config.write_text(self.config.read_text() + '[peers."peer.example"]\ntls = "optional"\ndialback = "always"\n')
        await self.leaves_nothing(self.dialback)

    def quietly(self, visit: Callable[[], Any]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return visit()


class StreamMemoryTests(SynchronousTestCase):
    """Streams between two gateways in memory: resumed ones, and ones that carry stanzas in both directions (XEP-0288)."""

    def setUp(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

    def leaves_nothing(self, world: World, visit: Callable[[World], None]) -> None:
        """Check that no object stays after `visit`, which uses streams. Then all streams end, and resumable ones are not resumed."""
        counts = []
        for _ in range(2 + TIMES):
            visit(world)
            self.end(world)
            counts.append(living())
        left = {kind: counts[-1][kind] - counts[1][kind] for kind in counts[-1] if kind not in _PASSING}
        self.assertEqual("", ", ".join(f"{number} {kind}" for kind, number in left.items() if number > 0))

    def end(self, world: World) -> None:
        for connection, _ in world.far.accepted:
            connection.close(Ending(Cause.IDLE))
        world.calm()
        world.turn(200)  # the broken streams are not resumed
        for wire in (each for wires in world.wires for each in wires):
            vars(wire).clear()  # let go of the protocol, as Twisted's transports do
        world.wires.clear()

    def talk(self, world: World) -> None:
        world.near.say("there", THERE)
        world.calm()
        if world.bidi:
            world.far.say("back", HERE)
            world.calm()

    def cut_and_resumed(self, world: World) -> None:
        self.talk(world)
        world.cut()
        self.talk(world)

    def cut_for_good(self, world: World) -> None:
        self.talk(world)
        world.near.say("in doubt", THERE)
        world.turn(0.01)
        world.dials = lambda gateway: False  # type: ignore[method-assign]
        world.cut()
        world.turn(200)
        del world.dials
        world.turn(10)
        world.calm()

    def test_in_order(self) -> None:
        """A stream that is closed normally."""
        self.leaves_nothing(World(), self.talk)

    def test_both_ways(self) -> None:
        """A stream that carries stanzas in both directions."""
        self.leaves_nothing(World(bidi=True), self.talk)

    def test_resumed(self) -> None:
        """One that is cut and resumed."""
        self.leaves_nothing(World(), self.cut_and_resumed)

    def test_both_ways_resumed(self) -> None:
        """A stream that carries stanzas in both directions and is resumed."""
        self.leaves_nothing(World(bidi=True), self.cut_and_resumed)

    def test_never_resumed(self) -> None:
        """A stream that is cut and never resumed. The counts of the last few are kept."""
        self.patch(resumption_table, "MAX_SUSPENDED", 1)
        self.leaves_nothing(World(), self.cut_for_good)
