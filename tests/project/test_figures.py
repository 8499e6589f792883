"""The figures of the architecture can be taken, and those that were reached are kept."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.project.figures import TARGETS, figures, is_callable


class FigureTests(SynchronousTestCase):
    """`python -m tests.project.figures`."""

    def test_every_target_has_its_figure(self) -> None:
        """The journey of a stanza goes through the whole gateway, and each figure that has a target is taken."""
        found = figures()
        self.assertEqual(set(), set(TARGETS) - set(found))
        self.assertGreater(found["journey: files"], 10)

    def test_callables(self) -> None:
        """A function, an optional one and a name for one are functions; an object with a name is none."""
        for annotation in ("Callable[[], int]", "Callable[[], int] | None", "Dialler", "Build"):
            self.assertTrue(is_callable(annotation), annotation)
        for annotation in ("DeliveryQueues", "dict[str, Callable[[], int]]", "IReactorTime | None"):
            self.assertFalse(is_callable(annotation), annotation)
