"""The figures of the architecture are within their limits."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.project.figures import TARGETS, figures, is_callable
from tests.project.journey import measure


class FigureTests(SynchronousTestCase):
    """`python -m tests.project.figures`."""

    def test_targets(self) -> None:
        """No figure is over its limit (docs/architecture.md#figures)."""
        found = figures()
        over = {name: (found[name], target) for name, target in TARGETS.items() if found[name] > target}
        self.assertEqual({}, over)

    def test_journey_is_whole(self) -> None:
        """The journey passes through the whole gateway: from the socket of the peer to the queue, out, and back."""
        files = {entry.file for entry in measure().entries}
        for file in (
            "net/connection.py", "xmpp/framing.py", "stream/receiving_context.py", "s2s/accepted_stream.py",
            "ingress/stream_ingress.py", "delivery/queue.py", "delivery/agent.py", "s2s/shared_stream.py", "stream/management.py",
            "delivery/spooling.py",
        ):
            self.assertIn(file, files)

    def test_callables(self) -> None:
        """A function, an optional one and an alias of one are functions; a named object is not."""
        for annotation in ("Callable[[], int]", "Callable[[], int] | None", "Dialler", "Build"):
            self.assertTrue(is_callable(annotation), annotation)
        for annotation in ("DeliveryQueues", "dict[str, Callable[[], int]]", "IReactorTime | None"):
            self.assertFalse(is_callable(annotation), annotation)
