"""The constants of the admin socket's protocol, for both ends: sizes, times, and the kinds of errors (docs/admin.md)."""

from __future__ import annotations

from typing import Literal, TypedDict

#: Name of the socket in the state directory, if `[admin].socket` does not name it (`config.sections.ADMIN_SOCKET`).
SOCKET = "admin.sock"
#: Bytes of one request, and of one response.
REQUEST_BYTES = 65536
ANSWER_BYTES = 64 * 1024 * 1024
#: Seconds that a response may take.
ANSWER_SECONDS = 120

#: Why there is no result. "usage": the request is invalid. "failed": it is valid, and the answer is negative. "denied": the
#: caller may not do this. "internal": the gateway could not answer. "slow": not in time (HTTP).
ErrorKind = Literal["usage", "failed", "denied", "internal", "slow"]


class MissingRow(TypedDict):
    """A part of an answer that a node of a cluster has not given."""

    node: str
    missing: str  # why
