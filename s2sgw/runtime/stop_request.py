"""The request to stop the process: a signal or `s2sgw drain` makes it, and only the first one counts."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import Any

from twisted.internet.error import ReactorNotRunning


class StopRequest:
    """Stops the reactor once. Further requests during the stop are ignored."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        #: whether a stop was requested
        self.made = False

    def make(self) -> None:
        """Stop the reactor now, unless it is stopping."""
        self.made = True
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def fail(self) -> None:
        """Stop the reactor now. The process ends with status 1, so that a service manager starts it again."""
        atexit.register(_end_with_failure)  # twistd returns as after any other stop
        self.make()

    def make_later(self, seconds: float) -> bool:
        """Stop the reactor in `seconds`. Return whether this is the first request."""
        if self.made:
            return False
        self.made = True
        self._reactor.callLater(seconds, self.make)
        return True


def _end_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
