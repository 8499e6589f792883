"""Tests of the console's port: reloads open, move and close it, and change its certificate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import fail, succeed
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.server import VerbError
from s2sgw.composition import console_listener
from s2sgw.composition.console_listener import ConsoleListener
from s2sgw.net.certificates import UnusableCertificate
from tests.unit.net.test_listener_set import FakePort


class FactoryForTest(str):
    """The factory of a console, and the number of ports that it was started for and not stopped."""

    ports = 1

    def doStart(self) -> None:
        self.ports += 1

    def doStop(self) -> None:
        self.ports -= 1


class BuiltForTest:
    """A console of which only the end is checked."""

    def __init__(self, certificate: Path | None) -> None:
        self.certificate = certificate
        self.factory = FactoryForTest(f"factory of {certificate}")
        self.closed = 0
        self.site = self
        self.verbs = {"console token": lambda arguments: {"token": self.certificate, **arguments}}
        self.samples = 0

    def close(self) -> None:
        self.closed += 1

    def alerts(self) -> list[str]:
        return [f"alert of {self.certificate}"]

    async def sample(self) -> None:
        self.samples += 1


class ConsoleListenerTests(SynchronousTestCase):
    """Tests of a listener whose consoles and ports the test inspects."""

    def setUp(self) -> None:
        self.ports: list[FakePort] = []
        self.opened: list[Any] = []
        self.built: list[BuiltForTest] = []
        self.patch(console_listener, "listen", self.listen)
        self.listener = ConsoleListener(None, self.build, self.opened.append)

    def listen(self, reactor: object, endpoint: str, factory: Any) -> list[Any]:
        if endpoint == "taken":
            return [fail(CannotListenError("", 1, OSError("taken")))]
        self.ports.append(FakePort(endpoint, factory))
        return [succeed(self.ports[-1])]

    def build(self, certificate: Path | None) -> Any:
        if certificate == Path("weak"):
            raise SSL.Error
        if certificate == Path("bad"):
            raise UnusableCertificate("bad.key does not belong to it")
        self.built.append(BuiltForTest(certificate))
        return self.built[-1]

    def prepare(self, endpoint: str | None, certificate: str | None = None) -> list[str]:
        console = SimpleNamespace(listen=endpoint, certificate=None if certificate is None else Path(certificate))
        return [each.text for each in self.listener.prepare(SimpleNamespace(console=console))]  # type: ignore[arg-type]

    def change(self, endpoint: str | None, certificate: str | None = None) -> None:
        self.assertEqual([], self.prepare(endpoint, certificate))
        self.listener.commit()

    def listening(self) -> list[tuple[str, str]]:
        return [(port.endpoint, port.factory) for port in self.ports if port.open]

    def test_none(self) -> None:
        """Without a console nothing is built, sampled or closed. A token is refused with a text."""
        self.change(None)
        self.assertEqual([], self.built)
        self.successResultOf(self.listener.sample())
        self.listener.close()
        error = self.assertRaises(VerbError, self.listener.token, {})
        self.assertEqual("there is no console: set [console] listen, and reload", str(error))

    def test_comes_and_goes(self) -> None:
        """The console is opened, gives tokens and takes samples. Then its port is closed, and its connections are cut."""
        self.change("a")
        self.change("a")
        self.assertEqual(([("a", "factory of None")], 1, 1), (self.listening(), len(self.built), len(self.opened)))
        self.assertEqual({"token": None, "user": "x"}, self.listener.token({"user": "x"}))
        self.successResultOf(self.listener.sample())
        self.assertEqual((1, ["alert of None"]), (self.built[0].samples, self.listener.alerts()))
        self.change(None)
        self.assertEqual(([], 1), (self.listening(), self.built[0].closed))
        self.assertRaises(VerbError, self.listener.token, {})

    def test_moves(self) -> None:
        """A new port is opened before the old one is closed. The console stays the same, and its users stay logged in."""
        self.change("a")
        self.assertEqual([], self.prepare("b"))
        self.assertEqual(["a", "b"], [endpoint for endpoint, _ in self.listening()])
        self.listener.commit()
        self.assertEqual(([("b", "factory of None")], 1, 0), (self.listening(), len(self.built), self.built[0].closed))
        self.listener.close()
        self.assertEqual(1, self.built[0].closed)

    def test_another_certificate(self) -> None:
        """The port stays open and serves the new console. The connections of the old one are cut."""
        self.change("a")
        self.change("a", "new")
        self.assertEqual(([("a", "factory of new")], 1), (self.listening(), len(self.opened)))
        self.assertEqual([0, 2], [built.factory.ports for built in self.built])
        self.assertEqual([1, 0], [each.closed for each in self.built])

    def test_refused(self) -> None:
        """If a port is taken or a certificate not usable, nothing changes, also if something else is refused."""
        self.change("a")
        self.assertEqual(1, len(self.prepare("taken")))
        self.listener.commit()
        self.assertEqual(["console.certificate: bad.key does not belong to it"], self.prepare("b", "bad"))
        self.listener.commit()
        self.assertEqual(["console.certificate: Error"], self.prepare("a", "weak"))
        self.listener.commit()
        self.assertEqual([], self.prepare("a", "new"))
        self.listener.abandon()
        self.assertEqual([], self.prepare("b"))
        self.listener.abandon()
        self.listener.commit()
        self.assertEqual([("a", "factory of None")], self.listening())
        self.assertEqual((0, 1), (self.built[0].closed, len(self.opened)))
        self.change("b")
        self.assertEqual([("b", "factory of None")], self.listening())
