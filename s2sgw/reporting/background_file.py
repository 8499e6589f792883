"""A file that is written in its own thread, so that a full pipe or a slow disk blocks no code that logs."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

#: Characters that may wait to be written. Beyond that, text is refused.
WAITING = 4 * 1024 * 1024
#: Seconds for writing the waiting text when the file is closed.
CLOSE_SECONDS = 3.0


class Writable(Protocol):
    """A text file, or Twisted's LogFile."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class BackgroundFile:
    """Writes to `file`: at once before `start` and after `close`, in a thread in between.

    twistd forks after the log is opened, and no thread survives a fork. So the thread begins when the services start.
    """

    def __init__(self, file: Writable) -> None:
        self._file = file
        self._waiting: deque[str] = deque()
        self._size = 0
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._stuck = False
        self._reopen: Callable[[], None] | None = getattr(file, "reopen", None)
        self._reopening = False
        #: lines that the thread could not write, and whether it has written something since
        self._lost = 0
        self._writes_again = False

    def write(self, text: str) -> bool:
        """Write `text` whole, or queue it. Return False if it is dropped, since too much waits. Never blocks."""
        if self._stuck:
            return False
        if self._thread is None:
            return self._write(text)
        with self._changed:
            if self._size + len(text) > WAITING:
                return False
            self._waiting.append(text)
            self._size += len(text)
            self._changed.notify()
        return True

    def lost_lines(self) -> int:
        """Return how many lines could not be written (the disk was full), each once, and as soon as lines are written again."""
        if not self._writes_again:
            return 0
        with self._changed:
            lost, self._lost, self._writes_again = self._lost, 0, False
        return lost

    def reopen(self) -> None:
        """Open the file again before the next text: another program has moved it away. A pipe stays as it is."""
        with self._changed:
            self._reopening = self._reopen is not None
            self._changed.notify()

    def start(self) -> None:
        """Write in a thread from now on."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Write the waiting text within `CLOSE_SECONDS`, and later text at once. If that is stuck too, drop everything."""
        thread = self._thread
        if thread is None:
            return
        atexit.unregister(self.close)
        with self._changed:
            self._closing = True
            self._changed.notify()
        thread.join(CLOSE_SECONDS)
        self._stuck = thread.is_alive()
        self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing and not self._reopening:
                    self._changed.wait()
                text = "".join(self._waiting)
                self._waiting.clear()
                self._size = 0
                ended = self._closing
            if text or self._reopening:
                self._note(self._write(text), text)
            if ended and not self._waiting:
                return

    def _note(self, written: bool, text: str) -> None:
        with self._changed:
            if not written:
                self._lost += text.count("\n")
            self._writes_again = written and self._lost > 0

    def _write(self, text: str) -> bool:
        try:
            if self._reopening and self._reopen is not None:
                self._reopening = False
                self._reopen()
            self._file.write(text)
            self._file.flush()
        except (OSError, ValueError):  # the error cannot be logged anywhere
            return False
        return True
