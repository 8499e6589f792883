"""Tests of the facts about the machine: the clock, the state directory, the space on the disk."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime import machine_facts
from s2sgw.runtime.machine_facts import LEAST_FREE, clock_fact, clock_is_synchronised, disk_fact, state_fact

Usage = namedtuple("Usage", "total used free")


class MachineFactsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp()).absolute() / "state"
        self.state.mkdir(0o700, parents=True)

    def test_clock(self) -> None:
        """A clock that is not synchronised has a remedy. A kernel that does not answer is no failure."""
        for synchronised, result, remedy in ((True, True, False), (False, None, True), (None, None, False)):
            self.patch(machine_facts, "clock_is_synchronised", lambda synchronised=synchronised: synchronised)
            fact = clock_fact()
            self.assertEqual((result, remedy), (fact[2], bool(fact[4])), fact)

    def test_kernel(self) -> None:
        """The kernel's clock is read without a change. Any answer is accepted without an error."""
        self.assertIn(clock_is_synchronised(), (True, False, None))

    def test_state(self) -> None:
        """The state directory must be a private directory. A missing one is made at the start."""
        self.assertEqual((True, "is private"), state_fact(self.state)[2:4])
        self.state.chmod(0o750)
        self.assertEqual((False, "has mode 0750", f"chmod 700 {self.state}"), state_fact(self.state)[2:])
        self.state.rmdir()
        result, detail = state_fact(self.state)[2:4]
        self.assertIs(result, None)
        self.assertIn("the gateway makes it at its first start", detail)
        self.state.write_text("a file")
        self.assertEqual((False, "is no directory"), state_fact(self.state)[2:4])

    def test_other_user(self) -> None:
        """The directory of another user cannot be judged, except by root."""
        if os.geteuid() != 0:
            raise SkipTest("only root can give a directory away")
        os.chown(self.state, 12345, -1)
        self.assertIs(state_fact(self.state)[2], True)
        self.patch(os, "geteuid", lambda: 23456)
        self.assertIs(state_fact(self.state)[2], None)

    def test_disk(self) -> None:
        """The free space must suffice for the rest of the spool. Too little for the spool is a warning, almost none a failure."""
        (self.state / "spool.db").write_bytes(bytes(1 << 20))
        for free, result in ((LEAST_FREE + (3 << 20), True), (LEAST_FREE + (3 << 20) - 1, None), (LEAST_FREE, None), (LEAST_FREE - 1, False)):
            self.patch(shutil, "disk_usage", lambda folder, free=free: Usage(1 << 40, 0, free))
            fact = disk_fact(self.state, 4 << 20)
            self.assertEqual((result, result is not True), (fact[2], bool(fact[4])), fact)
            self.assertIn("the spool may take 3 MiB more", fact[3])

    def test_disk_of_a_missing_directory(self) -> None:
        """Before the first start the disk of the next existing folder counts. A disk that cannot be read is no failure."""
        self.assertEqual(str(self.state), disk_fact(self.state / "a" / "b", 0)[1])

        def fails(folder: object) -> Usage:
            raise OSError(5, "Input/output error")

        self.patch(shutil, "disk_usage", fails)
        self.assertEqual((None, "Input/output error"), disk_fact(self.state, 0)[2:4])
