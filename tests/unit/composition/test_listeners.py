"""Tests of all listeners of a gateway: a reload opens the new ones before it closes others, or changes nothing."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.composition import listeners
from s2sgw.composition.listeners import Listeners, NotListening, port_of
from s2sgw.config.sections import Backend, Listener
from tests.unit.net.test_listener_set import FakePort


class ViewForTest:
    """A DNS view that opens nothing."""

    def __init__(self, log: list[str], taken: set[str], reactor: object, served: Any, *values: Any, **options: Any) -> None:
        self.values: Any = values
        self.options = options
        self.served = served
        self.address = ""
        self._log = log
        self._taken = taken

    def listen(self, address: str) -> None:
        if address in self._taken:
            raise CannotListenError("", 53, OSError("taken"))
        self.address = address
        self._log.append(f"view {address}")

    def configure(self, served: Any, *values: Any, **options: Any) -> None:
        self.served, self.values, self.options = served, values, options

    def stop(self) -> Deferred[list[Any]]:
        self._log.append(f"view {self.address} stopped")
        return succeed([])


class BackendsForTest:
    """Backends of which only the calls are checked."""

    def __init__(self) -> None:
        self.legs: dict[str, None] = {}
        self.views: dict[str, Any] = {}
        self.problem = ""
        self.prepared = 0

    def prepare(self, config: Any) -> str:
        self.prepared += not self.problem
        return self.problem

    def abandon(self) -> None:
        self.prepared = 0

    def forwarders(self, backend: Backend, config: Any) -> list[str]:
        return [str(each) for each in config.nameservers]

    def serves(self, listen: str, name: str) -> bool:
        return name == listen

    def use_view(self, listen: str, view: Any) -> None:
        self.views[listen] = view


class OtherPort:
    """A part that records each step."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.wrong: list[NotListening] = []

    def prepare(self, config: Any) -> list[NotListening]:
        self.steps.append("prepare")
        return self.wrong

    def abandon(self) -> None:
        self.steps.append("abandon")

    def commit(self) -> None:
        self.steps.append("commit")


def backend(port: int, view: str | None = None, **more: Any) -> Backend:
    return Backend.model_validate({"listen": f"tcp:{port}:interface=127.0.0.1", **({"dns_view": view} if view else {}), **more})


class ListenersTests(SynchronousTestCase):
    """Tests of the listeners of a configuration, whose ports the test inspects."""

    def setUp(self) -> None:
        self.ports: list[FakePort] = []
        self.log: list[str] = []
        self.taken: set[str] = set()
        self.backends, self.other = BackendsForTest(), OtherPort()
        self.patch(listeners, "listen", self.listen)
        self.patch(listeners, "DNSView", partial(ViewForTest, self.log, self.taken))
        self.listeners = Listeners(
            None, self.backends, lambda row: ("federation", row.tls), lambda endpoint: ("inner", endpoint),  # type: ignore[arg-type, return-value]
            lambda port: self.log.append(f"opened {port.endpoint}"), [self.other],  # type: ignore[attr-defined]
        )

    def listen(self, reactor: object, endpoint: str, factory: Any) -> list[Any]:
        if endpoint in self.taken:
            return [fail(CannotListenError("", 1, OSError("taken")))]
        self.ports.append(FakePort(endpoint, factory))
        return [succeed(self.ports[-1])]

    def config(self, federation: str, *backends: Backend, nameservers: tuple[str, ...] = ("192.0.2.1",)) -> Any:
        return SimpleNamespace(listen=[Listener.model_validate({"endpoint": federation})], backends=backends, nameservers=nameservers)

    def change(self, config: Any) -> None:
        self.assertEqual([], self.listeners.prepare(config))
        self.backends.legs = {each.listen: None for each in config.backends if each.kind == "s2s"}
        self.listeners.commit(config)

    def listening(self) -> list[str]:
        return [port.endpoint for port in self.ports if port.open]

    def test_backend_comes_and_goes(self) -> None:
        """A new inner listener and view are opened before those of another backend are closed. Unchanged ones are not touched."""
        one, two = backend(15270, "127.53.0.1:53"), backend(15271, "127.53.0.2:53")
        self.change(self.config("tcp:5269", one))
        view = self.backends.views[one.listen]
        self.assertEqual(["tcp:5269", one.listen], self.listening())
        self.change(self.config("tcp:5269", one, two))
        self.assertIs(view, self.backends.views[one.listen])
        self.assertEqual(("127.53.0.2:53", 15271), (self.backends.views[two.listen].address, self.backends.views[two.listen].values[0]))
        self.change(self.config("tcp:5269", two, Backend.model_validate({"kind": "echo"})))
        self.assertEqual(["tcp:5269", two.listen], self.listening())
        self.assertEqual("view 127.53.0.1:53 stopped", self.log[-1])
        self.assertEqual(1, len([each for each in self.listeners.stop_views() if each.called]))

    def test_view_in_a_cluster(self) -> None:
        """Each view has the nodes for its server, and the clients that are listed; the other nodes are told the listeners in force."""
        adopted: list[Any] = []
        nodes = SimpleNamespace(of=lambda config, backend: ("nodes of", backend.listen), adopt=adopted.append)
        self.listeners = Listeners(
            None, self.backends, lambda row: ("federation", row.tls), lambda endpoint: ("inner", endpoint),  # type: ignore[arg-type, return-value]
            lambda port: None, nodes=nodes,
        )
        one = backend(15270, "192.0.2.1:53", dns_view_clients=["192.0.2.5"])
        prepared = self.config("tcp:5269", one)
        self.assertEqual([], self.listeners.prepare(prepared))
        self.assertEqual([], adopted)
        self.change(prepared)
        view = self.backends.views[one.listen]
        self.assertEqual(({"clients": one.dns_view_clients, "nodes": ("nodes of", one.listen)}, [prepared]), (view.options, adopted))
        two = backend(15271, "192.0.2.1:53", dns_view_clients=["192.0.2.6"])
        self.change(self.config("tcp:5269", two))
        self.assertEqual({"clients": two.dns_view_clients, "nodes": ("nodes of", two.listen)}, view.options)
        self.assertEqual(2, len(adopted))

    def test_view_of_another_backend(self) -> None:
        """A view that stays open answers for the backend that has its address now, and uses the current name servers."""
        self.change(self.config("tcp:5269", backend(15270, "127.53.0.1:53")))
        view = self.backends.views["tcp:15270:interface=127.0.0.1"]
        self.change(self.config("tcp:5269", backend(15271, "127.53.0.1:53", target="gw.example."), nameservers=("192.0.2.9",)))
        self.assertIs(view, self.backends.views["tcp:15271:interface=127.0.0.1"])
        self.assertEqual((15271, "gw.example.", ["192.0.2.9"]), view.values)
        self.assertEqual({"clients": (), "nodes": None}, view.options)
        self.assertTrue(view.served("tcp:15271:interface=127.0.0.1"))
        self.change(self.config("tcp:5269", backend(15271)))
        self.assertIsNone(self.backends.views["tcp:15271:interface=127.0.0.1"])
        self.assertEqual("view 127.53.0.1:53 stopped", self.log[-1])

    def test_all_or_nothing(self) -> None:
        """Every listener that cannot be opened is reported by its key. Whichever it is, all others stay as they were."""
        self.change(self.config("tcp:5269", backend(15270, "127.53.0.1:53")))
        self.taken |= {"tcp:5270", "tcp:15271:interface=127.0.0.1", "127.53.0.2:53"}
        wrong = self.listeners.prepare(self.config("tcp:5270", backend(15271, "127.53.0.2:53"), backend(15272, "127.53.0.3:53")))
        self.assertEqual(["listen", "backend[0].listen", "backend[0].dns_view"], [each.key for each in wrong])
        self.assertTrue(wrong[0].text.startswith("listen: cannot listen on tcp:5270: "))
        self.listeners.commit(None)  # type: ignore[arg-type]
        self.assertEqual(["tcp:5269", "tcp:15270:interface=127.0.0.1"], self.listening())
        self.assertEqual(["view 127.53.0.3:53", "view 127.53.0.3:53 stopped"], self.log[-2:])
        self.assertEqual((0, "abandon"), (self.backends.prepared, self.other.steps[-2]))

    def test_pause(self) -> None:
        """A pause closes the listeners for peers and for servers. Its end opens them, and tells which are taken."""
        inner = backend(15270)
        self.change(self.config("tcp:5269", inner))
        self.listeners.pause()
        self.assertEqual(([], True), (self.listening(), self.listeners.paused))
        self.taken |= {"tcp:5269", inner.listen}
        self.assertEqual([("listen", "tcp:5269"), ("backend", inner.listen)], [each[:2] for each in self.listeners.resume()])
        self.taken.clear()
        self.assertEqual([], self.listeners.resume())
        self.assertEqual((["tcp:5269", inner.listen], False), (self.listening(), self.listeners.paused))

    def test_another_part_is_refused(self) -> None:
        """If the console cannot be opened, the listeners that were opened with it are closed again."""
        self.other.wrong = [NotListening("console.certificate", "", "is bad")]
        self.assertEqual(["console.certificate: is bad"], [each.text for each in self.listeners.prepare(self.config("tcp:1", backend(2)))])
        self.assertEqual([], self.listening())

    def test_backends_cannot_be_prepared(self) -> None:
        """If backends cannot be prepared, no listener is opened."""
        self.backends.problem = "the CA is unusable"
        self.assertEqual(["backend: the CA is unusable"], [each.text for each in self.listeners.prepare(self.config("tcp:1"))])
        self.assertEqual([], self.ports)

    def test_port_of_an_endpoint(self) -> None:
        """An endpoint's port is found by position or by name."""
        self.assertEqual((15270, 15271), (port_of("tcp:15270:interface=127.0.0.1"), port_of("tcp:port=15271")))
