"""Unexpected exceptions in work that goes on: each is logged and counted, and the work is tried again."""

from __future__ import annotations

from twisted.logger import Logger
from twisted.python.failure import Failure


class Failures:
    """The unexpected failures of a part of the node."""

    log = Logger("s2sgw")

    def __init__(self) -> None:
        #: failures since the start
        self.number = 0

    def note(self, what: str, failure: Failure | None = None) -> None:
        """Log and count a failure, or the exception that is handled now. `what` says what failed."""
        self.number += 1
        self.log.failure("{what}: it is tried again", failure, what=what)
