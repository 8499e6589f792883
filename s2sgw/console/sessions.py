"""Sessions of the console. They are kept in memory, so that a restart ends them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds without a request after which a session ends, and seconds after which it ends in any case.
IDLE_SECONDS = 30 * 60
LIFE_SECONDS = 12 * 3600
#: Sessions at once, in all and of one user. The oldest gives way.
SESSIONS = 64
SESSIONS_PER_USER = 8


@dataclass(slots=True)
class Session:
    """One session. `proof` is its basis: a change of the user's password ends it.

    `csrf` is the text that each form of the session carries. `notice` is shown on the next page, and `failed`: it is an error.
    """

    user: str
    proof: str
    began: float
    seen: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    notice: str = ""
    failed: bool = False

    def carries(self, csrf: str) -> bool:
        """Return whether a form has the text of this session."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode("utf-8", "replace"))

    def take_notice(self) -> tuple[str, bool]:
        """Return the notice, which is shown once, and whether it is an error."""
        notice, self.notice = self.notice, ""
        return notice, self.failed


class Sessions:
    """All sessions, by the digests of their ids, so that a look-up compares no id."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, user: str, proof: str) -> str:
        """Return the id of a new session."""
        self._drop_ended()
        own = [key for key, session in self._sessions.items() if session.user == user]
        if len(own) >= SESSIONS_PER_USER:
            del self._sessions[own[0]]
        elif len(self._sessions) >= SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        identifier = secrets.token_urlsafe(32)
        self._sessions[_key(identifier)] = Session(user, proof, self._now(), self._now())
        return identifier

    def find(self, identifier: str, touch: bool = True) -> Session | None:
        """Return the session with this id, unless it has ended. `touch`: it is in use now."""
        session = self._sessions.get(_key(identifier))
        if session is None:
            return None
        if self._has_ended(session):
            self.end(identifier)
            return None
        if touch:
            session.seen = self._now()
        return session

    def end(self, identifier: str) -> None:
        """End a session."""
        self._sessions.pop(_key(identifier), None)

    def _has_ended(self, session: Session) -> bool:
        return self._now() - session.seen > IDLE_SECONDS or self._now() - session.began > LIFE_SECONDS

    def _drop_ended(self) -> None:
        for key in [key for key, session in self._sessions.items() if self._has_ended(session)]:
            del self._sessions[key]


def _key(identifier: str) -> bytes:
    return hashlib.sha256(identifier.encode("utf-8", "replace")).digest()
