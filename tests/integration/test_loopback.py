"""The whole gateway on real sockets of this machine.

The peer is `examples/hello.py`, which shares no code with the gateway. It runs in a thread, as do the requests on the admin socket.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import json
import shutil
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from click.testing import CliRunner, Result
from twisted.application.app import ServerOptions
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python import usage
from twisted.trial.unittest import TestCase

from s2sgw import service
from s2sgw.admin.client import RequestFailed, ask, socket_path
from s2sgw.admin.responses import RESPONSES
from s2sgw.cli import main as command
from s2sgw.composition.gateway import build_gateway
from s2sgw.config import ConfigError
from s2sgw.net.socket_transport import SocketTransport
from s2sgw.runtime.preflight import check_configuration
from s2sgw.service import (
    COLLECTOR_THRESHOLDS,
    Options,
    RunningGateway,
    UnusableConfiguration,
    freeze_startup_objects,
    makeService,
)
from tests.lab.lab import free_ports
from tests.support.certificates import Authority
from tests.support.response_types import mismatches

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = """\
[gateway]
state = "state"
domains = ["example.org"]
[[listen]]
endpoint = "tcp:{federation}:interface=127.0.0.1"
[tls]
certificates = "certs"
trust_anchors = "ca.crt"
[dns]
private_addresses = "allow"
[dns.static]
"peer.example" = "127.0.0.1:{peer}"
[backend]
kind = "echo"
[console]
listen = "tcp:{console}:interface=127.0.0.1"
"""


def load_hello() -> Any:
    """Load the peer from its file."""
    specification = importlib.util.spec_from_file_location("hello", ROOT / "examples" / "hello.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class LoopbackCase(TestCase):
    """A configuration with the echo backend, a peer, an operator."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        ports = free_ports()
        self.federation, self.console = next(ports), next(ports)
        self.hello = load_hello()
        self.streams: list[Any] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.addCleanup(self.listener.close)
        self._certificates()
        self.config = self.folder / "s2sgw.toml"
        port = self.listener.getsockname()[1]
        self.config.write_text(CONFIG.format(federation=self.federation, peer=port, console=self.console))

    def _certificates(self) -> None:
        authority = Authority.root()
        (self.folder / "ca.crt").write_bytes(authority.pem)
        (self.folder / "certs").mkdir()
        self._leaf(authority, "certs/example.org", "example.org")
        self._leaf(authority, "peer", "peer.example")
        self._leaf(Authority.root("Nobody's"), "stranger", "peer.example")

    def _leaf(self, authority: Authority, name: str, domain: str) -> None:
        issued = authority.issue(dns=[domain])
        (self.folder / f"{name}.crt").write_bytes(issued.pem_chain)
        key = self.folder / f"{name}.key"
        key.touch(0o600)
        key.write_bytes(issued.key_pem)

    async def running(self) -> RunningGateway:
        gateway = RunningGateway(build_gateway(check_configuration(self.config).config, reactor))
        self.addCleanup(gateway.close)
        gateway.open()
        return gateway

    async def gone(self) -> None:
        """Close the peer's connections in any state, and wait until the gateway has noticed."""
        for stream in self.streams:
            stream.connection.close()
        while any(isinstance(reader, SocketTransport) for reader in reactor.getReaders()):
            await deferLater(reactor, 0.01)

    def in_thread(self, function: Callable[[], Any]) -> Deferred[Any]:
        def quietly() -> Any:
            with contextlib.redirect_stdout(io.StringIO()):
                return function()

        return deferToThread(quietly)

    def peer(self, certificate: str = "peer") -> Any:
        streams = self.streams

        class Remembered(self.hello.Stream):  # type: ignore[misc, name-defined]
            def __init__(self, connection: socket.socket) -> None:
                super().__init__(connection)
                streams.append(self)

        self.patch(self.hello, "Stream", Remembered)
        return self.hello.Peer("peer.example", self.folder / "ca.crt", self.folder / f"{certificate}.crt")

    def converse(self) -> str:
        """Say hello as peer.example; return the result."""
        peer = self.peer()
        outgoing = peer.send_message(("127.0.0.1", self.federation), "example.org", "hello")
        incoming, answer = peer.receive_message(self.listener, "example.org")
        peer.answer_ping(incoming, outgoing)
        for stream in (outgoing, incoming):
            stream.close()
        return str(answer)

    def refused(self, verb: str) -> str:
        """Return the reason why `verb` fails."""
        try:
            ask(socket_path(self.config), verb, {})
        except RequestFailed as error:
            return str(error)
        return ""

    def asked(self, *words: str) -> Result:
        return CliRunner().invoke(command.main, [*words, "--config", str(self.config), "--json"])


class LoopbackTests(LoopbackCase):
    """A conversation, from the first connection to the operator's view."""

    async def test_hello(self) -> None:
        """R3, R8, R12, R24, R25: a peer and the gateway prove themselves to each other by certificates, and a message is echoed."""
        await self.running()
        self.assertEqual("hello", await self.in_thread(self.converse))
        status = json.loads((await self.in_thread(lambda: self.asked("status"))).stdout)
        self.assertEqual(["example.org"], status["domains"])
        counts = {(row["direction"], row["kind"], row["outcome"]): row["number"] for row in status["stanzas"]}
        self.assertEqual(1, counts["inbound", "message", "passed"])
        self.assertEqual(1, counts["outbound", "message", "passed"])
        page = await deferToThread(lambda: urlopen(f"http://127.0.0.1:{self.console}/metrics").read().decode())
        self.assertIn('s2sgw_handshake_seconds_count{step="total"} 1.0', page)
        self.assertIn('direction="inbound",kind="message",outcome="passed"} 1.0', page)

    async def test_earlier_run(self) -> None:
        """The peer tells its own answer from that to the message of an earlier run, which has ended."""
        await self.running()

        def twice() -> str:
            place = ("127.0.0.1", self.federation)
            self.peer().send_message(place, "example.org", "first").connection.close()
            peer = self.peer()
            outgoing = peer.send_message(place, "example.org", "second")
            incoming, answer = peer.receive_message(self.listener, "example.org", outgoing)
            peer.answer_ping(incoming, outgoing)
            for stream in (outgoing, incoming):
                stream.close()
            return str(answer)

        self.assertEqual("second", await self.in_thread(twice))

    async def test_open_stream(self) -> None:
        """An open stream is shown with its pair, its method, and TLS. Its peer and its lane are shown too."""
        await self.running()
        place = ("127.0.0.1", self.federation)
        outgoing = await self.in_thread(lambda: self.peer().send_message(place, "example.org", "hello"))
        incoming, _ = await self.in_thread(lambda: self.peer().receive_message(self.listener, "example.org"))
        rows = json.loads((await self.in_thread(lambda: self.asked("streams", "peer.example"))).stdout)
        self.assertEqual({("inbound", "EXTERNAL"), ("outbound", "EXTERNAL")}, {(row["direction"], row["method"]) for row in rows})
        self.assertEqual([["peer.example", "example.org"]], next(row["pairs"] for row in rows if row["direction"] == "inbound"))
        (peer,) = json.loads((await self.in_thread(lambda: self.asked("peers"))).stdout)
        self.assertEqual(("peer.example", 1, 1), (peer["peer"], peer["inbound"], peer["outbound"]))
        queues = json.loads((await self.in_thread(lambda: self.asked("lanes", "peer.example"))).stdout)
        self.assertIn(("example.org", "peer.example", "ready"), [(row["sender"], row["recipient"], row["state"]) for row in queues])
        (certificate,) = json.loads((await self.in_thread(lambda: self.asked("certs"))).stdout)
        self.assertEqual("example.org", certificate["domain"])
        for stream in (outgoing, incoming):
            await self.in_thread(stream.close)

    async def test_stranger(self) -> None:
        """R12, R24: a peer with an unknown authority is not offered EXTERNAL, and the refusal is recorded."""
        await self.running()
        stranger = self.peer("stranger")
        failure = None
        try:
            await self.in_thread(lambda: stranger.send_message(("127.0.0.1", self.federation), "example.org", "hello"))
        except self.hello.UnexpectedAnswer as error:
            failure = str(error)
        self.assertIsNotNone(failure)
        await self.gone()
        (refusal,) = json.loads((await self.in_thread(lambda: self.asked("refusals", "peer.example"))).stdout)
        self.assertEqual(("inbound", "pkix", "unknown-issuer"), tuple(refusal[key] for key in ("direction", "layer", "cause")))

    async def test_close_and_deny(self) -> None:
        """`s2sgw close` ends the streams of both directions. A denied peer is refused until that is undone. `peers` shows it throughout."""
        await self.running()
        place = ("127.0.0.1", self.federation)
        outgoing = await self.in_thread(lambda: self.peer().send_message(place, "example.org", "hello"))
        incoming, _ = await self.in_thread(lambda: self.peer().receive_message(self.listener, "example.org"))
        closed = json.loads((await self.in_thread(lambda: self.asked("close", "peer.example"))).stdout)
        self.assertEqual(2, closed["closed"])
        await self.gone()
        for stream in (outgoing, incoming):
            with contextlib.suppress(OSError, self.hello.UnexpectedAnswer):
                await self.in_thread(stream.close)
        denied = await self.in_thread(lambda: self.asked("deny", "peer.example"))
        self.assertEqual((0, True), (denied.exit_code, json.loads(denied.stdout)["changed"]))
        with self.assertRaises(self.hello.UnexpectedAnswer):
            await self.in_thread(lambda: self.peer().send_message(place, "example.org", "hello"))
        (peer,) = json.loads((await self.in_thread(lambda: self.asked("peers"))).stdout)
        self.assertEqual(("peer.example", "pkix", 1), (peer["peer"], peer["last_method"], peer["refusals"]))
        self.assertIsNotNone(peer["certificate_until"])
        await self.in_thread(lambda: self.asked("deny", "peer.example", "--undo"))
        self.assertEqual("hello", await self.in_thread(self.converse))

    async def test_response_types(self) -> None:
        """The answer of each verb has the type that `s2sgw schema --responses` publishes, and no verb is missing."""
        await self.running()
        place = ("127.0.0.1", self.federation)
        outgoing = await self.in_thread(lambda: self.peer().send_message(place, "example.org", "hello"))
        incoming, _ = await self.in_thread(lambda: self.peer().receive_message(self.listener, "example.org"))
        with contextlib.suppress(self.hello.UnexpectedAnswer):
            await self.in_thread(lambda: self.peer("stranger").send_message(place, "example.org", "hello"))
        peer, key = {"peer": "peer.example"}, "sha256:" + "0" * 64
        lane: dict[str, Any] = {"target": ["example.org", "peer.example"]}
        requests: tuple[tuple[str, dict[str, Any]], ...] = (
            ("status", {}), ("streams", {}), ("lanes", {}), ("peers", {}), ("names", {"prefix": "p"}), ("refusals", {"letter": True}), ("certs", {}),
            ("pending", {}), ("pins add", {**peer, "key": key}), ("pins list", {}), ("pins revoke", {**peer, "key": key}), ("explain", peer),
            ("replay", {"with": str(self.config)}), ("queue list", {}), ("queue ages", {}), ("queue show", lane), ("queue poison", {}),
            ("queue hold", lane), ("queue release", lane), ("queue flush", lane), ("queue drop", lane), ("report", {}), ("reload plan", {}), ("reload", {}), ("close", peer),
            ("deny", peer), ("deny list", {}), ("forget", peer),
        )
        for verb, arguments in requests:
            answer = await self.in_thread(partial(ask, socket_path(self.config), verb, arguments))
            self.assertEqual([], list(mismatches(answer, RESPONSES[verb], verb)))
            if verb in ("streams", "lanes", "peers", "names", "refusals", "certs", "pins list", "deny list"):
                self.assertNotEqual([], answer, verb)
        # `approve` needs a waiting certificate, `log level` a log of its own, `drain` is last, `watch` has no end; `cluster …` needs a cluster,
        # others connect to other servers
        rest = {"pins approve", "log level", "drain", "watch", "console token", "probe", "check live", "cluster status", "cluster spread"}
        self.assertEqual(rest, set(RESPONSES) - {verb for verb, _ in requests})
        unknown = await self.in_thread(partial(self.refused, "frobnicate"))
        self.assertEqual(set(RESPONSES), set(unknown.partition("there are ")[2].split(", ")))
        for stream in (outgoing, incoming):
            with contextlib.suppress(OSError, self.hello.UnexpectedAnswer):
                await self.in_thread(stream.close)

    async def test_port_in_use(self) -> None:
        """A port in use prevents the start, and ports that were opened are closed."""
        with socket.create_server(("127.0.0.1", self.federation)):
            gateway = RunningGateway(build_gateway(check_configuration(self.config).config, reactor))
            self.addCleanup(gateway.close)
            self.assertRaises(SystemExit, gateway.open)


class PluginTests(LoopbackCase):
    """The plugin for twistd."""

    def test_service(self) -> None:
        """A good configuration makes a service, without opening anything."""
        options = Options()
        options.parent = ServerOptions()
        options.parent["nodaemon"] = True
        options.parseOptions(["--config", str(self.config)])
        self.assertIsNotNone(makeService(options))
        self.assertFalse((self.folder / "state" / "admin.sock").exists())

    def test_collector(self) -> None:
        """The garbage collector skips the objects of the start, and runs less often for new objects."""
        self.addCleanup(gc.unfreeze)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        freeze_startup_objects()
        self.assertEqual((gc.get_freeze_count() > 0, gc.get_threshold()), (True, COLLECTOR_THRESHOLDS))

    def test_collector_during_the_reading(self) -> None:
        """The garbage collector rests while the configuration is read, with or without errors, and is then as before."""
        during: list[bool] = []

        def check(path: Path) -> None:
            during.append(gc.isenabled())
            raise ConfigError(path, ["no"])

        self.patch(service, "check_configuration", check)
        self.addCleanup(gc.enable)
        for before in (gc.enable, gc.disable):
            before()
            after = gc.isenabled()
            options = Options()
            options.parseOptions(["--config", str(self.config)])
            self.assertRaises(UnusableConfiguration, makeService, options)
            self.assertEqual(after, gc.isenabled())
        self.assertEqual([False, False], during)

    def test_bad_log_file(self) -> None:
        """A log that cannot be opened is an error in one line."""
        options = Options()
        options.parent = usage.Options()
        options.parent["logfile"] = str(self.config.parent)
        options.parseOptions(["--config", str(self.config)])
        error = self.assertRaises(UnusableConfiguration, makeService, options)
        self.assertEqual(f"{self.config.parent}: the log cannot be written: Is a directory", str(error))

    def test_bad_configuration(self) -> None:
        """Every error is reported, with status 1."""
        self.config.write_text("[gateway]\ndomains = []\nfrobnicate = 1\n")
        options = Options()
        options.parseOptions(["--config", str(self.config)])
        error = self.assertRaises(UnusableConfiguration, makeService, options)
        for words in ("gateway.domains", "gateway.frobnicate"):
            self.assertIn(words, str(error))
