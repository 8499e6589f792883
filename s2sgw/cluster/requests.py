"""The interface of a connection to the engine's servers: requests with answers, and messages. Types alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol


class Unanswered(Exception):
    """No answer came. The request may have had its effect."""


class NoResponders(Unanswered):
    """The server says that no receiver is there (status 503)."""


class Message(NamedTuple):
    """A message. `status` is 0, or that of an answer without data ("NATS/1.0 404")."""

    subject: str
    reply: str
    headers: Mapping[str, str]
    data: bytes
    status: int


class Requests(Protocol):
    """A connection that is made anew when it is lost."""

    @property
    def connected(self) -> bool:
        """Return whether there is a connection now."""

    async def wait_up(self, seconds: float) -> None:
        """Wait for a connection. Raises `Unanswered`."""

    def hop(self) -> None:
        """Give up this connection for one to the next server."""

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Send a message. Raises `Unanswered` if it certainly did not arrive. It may also be lost unnoticed."""

    async def request(
        self, subject: str, data: bytes, seconds: float, headers: Mapping[str, str] | None = None, many: bool = False,
        again: float = inf,
    ) -> Sequence[Message]:
        """Send a message and return its answer. With `many`, return all answers up to the first with a status.

        `again`: after so many seconds without an answer the same message is sent again, each time. A copy must change
        nothing: it is a question, or the id of the message is known to the server.
        Raises `Unanswered`; `NoResponders` if no receiver is there (status 503).
        """
