"""Tests of a file that is written by a thread: its writers do not wait."""

from __future__ import annotations

import errno
import io
import threading
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting import background_file
from s2sgw.reporting.background_file import BackgroundFile


class Pipe(io.StringIO):
    """A file that blocks until it is opened, as a pipe without a reader does."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.writers: set[str] = set()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.writers.add(threading.current_thread().name)
        self.entered.set()
        self.open.wait(20)
        return super().write(text)


class BackgroundFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pipe = Pipe()
        self.addCleanup(self.pipe.open.set)
        self.file = BackgroundFile(self.pipe)

    def test_before_the_start(self) -> None:
        """Before the thread begins, data is written at once, because the process may end at any moment."""
        self.pipe.open.set()
        self.assertTrue(self.file.write("a\n"))
        self.assertEqual(("a\n", {"MainThread"}), (self.pipe.getvalue(), self.pipe.writers))

    def test_no_reader(self) -> None:
        """While the pipe is full its writers do not wait. The data is written in order once it is read."""
        self.file.start()
        for text in ("a\n", "b\n", "c\n"):
            self.assertTrue(self.file.write(text))
        self.assertEqual("", self.pipe.getvalue())
        self.pipe.open.set()
        self.file.close()
        self.assertEqual(("a\nb\nc\n", {"log"}), (self.pipe.getvalue(), self.pipe.writers))

    def test_full_disk(self) -> None:
        """Lines that a full disk did not take are counted. They are reported once, when lines are written again."""
        writes, full = SimpleQueue[str](), [True]

        def write(text: str) -> None:
            writes.put(text)
            if full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")

        self.file = BackgroundFile(SimpleNamespace(write=write, flush=lambda: None))
        self.file.start()
        for text in ("a\nb\n", "c\n"):
            self.file.write(text)
            self.assertEqual((writes.get(timeout=20), self.file.lost_lines()), (text, 0))
        full[0] = False
        self.file.write("d\n")
        self.file.close()
        self.assertEqual((self.file.lost_lines(), self.file.lost_lines()), (3, 0))

    def test_too_much(self) -> None:
        """Waiting data is bounded. Further data is refused completely."""
        self.patch(background_file, "WAITING", 4)
        self.file.start()
        self.file.write("a\n")
        self.pipe.entered.wait(20)  # until the thread has it and blocks
        self.assertEqual([True, True, False], [self.file.write(text) for text in ("b\n", "c\n", "d\n")])
        self.pipe.open.set()
        self.file.close()
        self.assertEqual("a\nb\nc\n", self.pipe.getvalue())

    def test_after_the_end(self) -> None:
        """After the close data is written at once again."""
        self.pipe.open.set()
        self.file.start()
        self.file.write("a\n")
        self.file.close()
        self.file.close()
        self.assertTrue(self.file.write("b\n"))
        self.assertEqual("a\nb\n", self.pipe.getvalue())

    def test_stuck_at_the_end(self) -> None:
        """A pipe that is still full does not delay the stop."""
        self.patch(background_file, "CLOSE_SECONDS", 0.01)
        self.file.start()
        self.file.write("a\n")
        self.file.close()
        self.assertFalse(self.file.write("b\n"))

    def test_disk_full(self) -> None:
        """A file that cannot be written causes no error."""

        class Full(io.StringIO):
            def write(self, text: str) -> Any:
                raise OSError(28, "No space left on device")

        file = BackgroundFile(Full())
        self.assertFalse(file.write("a\n"))
        file.start()
        self.assertTrue(file.write("b\n"))
        file.close()
