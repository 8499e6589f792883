"""Tests of the limit of file descriptors, and of the number of connections that follows from it."""

from __future__ import annotations

import os
import resource

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime import descriptors


class DescriptorTests(SynchronousTestCase):
    def limits(self, soft: int, hard: int, *, refused: bool = False) -> list[tuple[int, int]]:
        """Patch the limits of the process; record what is set."""
        current = [(soft, hard)]

        def setrlimit(_: int, wanted: tuple[int, int]) -> None:
            if refused:
                raise ValueError("not allowed to raise maximum limit")
            current.append(wanted)

        self.patch(resource, "getrlimit", lambda _: current[-1])
        self.patch(resource, "setrlimit", setrlimit)
        return current

    def test_raised(self) -> None:
        """The soft limit is raised to the hard one."""
        seen = self.limits(1024, 524_288)
        self.assertEqual((524_288, 524_288), (descriptors.raise_limit(), descriptors.limit()))
        self.assertEqual((524_288, 524_288), seen[-1])

    def test_not_raised(self) -> None:
        """If the system refuses, the current limit counts."""
        self.limits(1024, 4096, refused=True)
        self.assertEqual((1024, 1024), (descriptors.raise_limit(), descriptors.limit()))

    def test_unlimited(self) -> None:
        """The absence of a limit is a large number."""
        self.limits(1024, resource.RLIM_INFINITY)
        self.assertEqual(1 << 20, descriptors.raise_limit())

    def test_shares(self) -> None:
        """If descriptors are few, every share is reduced. Half of nothing is one, and look-ups and files have their own."""
        for wanted, streams, available, possible in (
            (20_000, 4000, 524_288, (20_000, 20_000, 4000)), (20_000, 4000, 20_000, (10_616, 4872, 4000)),
            (20_000, 4000, 1024, (384, 192, 192)), (100, 100, 1024, (100, 100, 100)), (20_000, 4000, 1, (1, 1, 1)),
        ):
            found = descriptors.shares(wanted, streams, available)
            self.assertEqual(possible, (found.connections, found.backend, found.streams))
            self.assertLessEqual(sum(possible), max(3, available - min(descriptors.OTHERS, available // 4)))

    def test_number(self) -> None:
        """The number of open descriptors grows by one with each. On other systems it is unknown."""
        before = descriptors.number_open()
        opened = os.open("/dev/null", os.O_RDONLY)
        self.addCleanup(os.close, opened)
        self.assertEqual(before + 1, descriptors.number_open())
        self.patch(os, "stat", lambda _: (_ for _ in ()).throw(FileNotFoundError()))
        self.assertEqual(0, descriptors.number_open())
