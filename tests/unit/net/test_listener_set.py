"""Tests of listeners that a reload changes: completely or not at all, without closing a connection."""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.net.listener_set import ListenerSet


class Row(NamedTuple):
    """The configuration of a listener."""

    endpoint: str
    tls: str = "starttls"

    def doStart(self) -> None:
        """It serves as its own factory."""

    def doStop(self) -> None:
        """The same."""


class FakePort:
    """A port that is open until it is stopped."""

    def __init__(self, endpoint: str, factory: Any) -> None:
        self.endpoint = endpoint
        self.factory = factory
        self.open = True

    def stopListening(self) -> None:
        self.open = False


class ListenerSetTests(SynchronousTestCase):
    """Tests of a set whose ports the test inspects."""

    def setUp(self) -> None:
        self.ports: list[FakePort] = []
        self.opened: list[Any] = []
        self.taken: set[str] = set()
        self.set: ListenerSet[Row] = ListenerSet(self.listen, lambda row: row, self.opened.append)  # type: ignore[arg-type, return-value]

    def listen(self, endpoint: str, factory: Any) -> list[Deferred[Any]]:
        """Open two ports for each endpoint, as for both families."""
        if endpoint in self.taken:
            return [fail(CannotListenError("", 1, OSError("taken")))]
        self.ports += [FakePort(endpoint, factory), FakePort(endpoint, factory)]
        return [succeed(port) for port in self.ports[-2:]]

    def change(self, *rows: Row) -> list[tuple[str, str]]:
        wrong = self.set.prepare(rows)
        self.set.commit()
        return wrong

    def listening(self) -> list[str]:
        return [port.endpoint for port in self.ports if port.open]

    def test_change(self) -> None:
        """New listeners are opened before the others are closed. Unchanged ones are not touched."""
        self.assertEqual([], self.change(Row("a"), Row("b")))
        kept = [port for port in self.ports if port.endpoint == "b"]
        self.set.prepare([Row("b"), Row("c")])
        self.assertEqual(["a", "a", "b", "b", "c", "c"], self.listening())
        self.set.commit()
        self.assertEqual(["b", "b", "c", "c"], self.listening())
        ports: list[Any] = list(self.set.ports)
        self.assertTrue(all(port in ports for port in kept))
        self.assertEqual(6, len(self.opened))

    def test_all_or_nothing(self) -> None:
        """If one listener cannot be opened, those opened with it are closed, and the others stay as they were."""
        self.change(Row("a"))
        self.taken = {"c"}
        (wrong,) = self.set.prepare([Row("b"), Row("c")])
        self.assertEqual("c", wrong[0])
        self.set.commit()
        self.assertEqual(["a", "a"], self.listening())
        self.assertEqual(2, len(self.opened))

    def test_abandoned(self) -> None:
        """Listeners prepared for a configuration that is not adopted are closed. A later change begins anew."""
        self.change(Row("a"))
        self.set.prepare([Row("b")])
        self.set.abandon()
        self.set.commit()
        self.assertEqual(["a", "a"], self.listening())
        self.set.prepare([Row("b")])
        self.change(Row("c"))
        self.assertEqual(["c", "c"], self.listening())

    def test_options(self) -> None:
        """An unchanged endpoint with other options uses a new factory for its next connections, on the same port."""
        self.change(Row("a"))
        self.change(Row("a", "direct"))
        self.assertEqual((2, {Row("a", "direct")}), (len(self.ports), {port.factory for port in self.ports}))

    def test_same(self) -> None:
        """The same configuration again changes nothing."""
        self.change(Row("a"))
        factories = [port.factory for port in self.ports]
        self.change(Row("a"))
        self.assertEqual(factories, [port.factory for port in self.ports])

    # --- pause ---

    def test_pause(self) -> None:
        """A pause closes every port; the end of the pause opens each again, for the same factories."""
        self.change(Row("a"), Row("b"))
        self.set.pause()
        self.assertEqual([], self.listening())
        self.assertEqual([], self.set.ports)
        self.opened.clear()
        self.assertEqual([], self.set.resume())
        self.assertEqual((["a", "a", "b", "b"], 4), (sorted(self.listening()), len(self.opened)))
        self.assertEqual([], self.set.resume())
        self.assertEqual(4, len(self.listening()))
        self.change(Row("a"), Row("b"))
        self.assertEqual(4, len(self.listening()))

    def test_reload_in_a_pause(self) -> None:
        """A change in a pause is kept, and opens nothing before the end of the pause."""
        self.change(Row("a"), Row("b"))
        self.set.pause()
        self.change(Row("b", "direct"), Row("c"))
        self.assertEqual([], self.listening())
        self.set.resume()
        self.assertEqual(["b", "b", "c", "c"], sorted(self.listening()))
        self.assertEqual({"direct"}, {each.factory.tls for each in self.ports if each.open and each.endpoint == "b"})

    def test_port_taken_in_a_pause(self) -> None:
        """A port that another process took is reported, and tried again; the others are open."""
        self.change(Row("a"), Row("b"))
        self.set.pause()
        self.taken.add("a")
        self.assertEqual(["a"], [endpoint for endpoint, _ in self.set.resume()])
        self.assertEqual(["b", "b"], self.listening())
        self.taken.clear()
        self.assertEqual([], self.set.resume())
        self.assertEqual(["a", "a", "b", "b"], sorted(self.listening()))
