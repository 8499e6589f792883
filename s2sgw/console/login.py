"""Log-in: passwords of the configuration, one-time tokens of `s2sgw console token`, and bounds on attempts.

Passwords are checked in another thread, a few at a time. An attempt of an unknown user takes as long as one of a known user.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed

from s2sgw.config.password_hash import PasswordHash
from s2sgw.config.sections import ConsoleRole
from s2sgw.net.sites import site_path
from s2sgw.net.threads import Threads
from s2sgw.xmpp.bounded_dict import BoundedDict

#: Attempts of one site (an IPv4 address, an IPv6 /64) at once, and seconds until another is allowed. A wider site has more.
ATTEMPTS = 5
ATTEMPT_SECONDS = 20.0
#: The attempts of a wider site, as a multiple of the next narrower.
WIDER = 4
#: Sites whose attempts are counted. The least recently seen is forgotten.
SITES = 2000
#: Passwords that are checked at once, and checks that may wait.
CHECKS = 2
WAITING_CHECKS = 16
#: Successful checks for the HTTP interface that are remembered, and for how many seconds.
REMEMBERED = 64
REMEMBERED_SECONDS = 300.0
#: Tokens that may wait, and for how many seconds.
TOKENS = 8
TOKEN_SECONDS = 300.0


class TooManyAttempts(Exception):
    """The site has to wait, or too many passwords are being checked."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many attempts to log in: wait {max(1, round(seconds))} seconds")
        self.seconds = seconds


class LoginLimits:
    """Counts attempts by site, from the narrowest to the widest: the owner of an IPv6 /48 does not get 65,536 times as many."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        #: site -> the time at which all its attempts are available again
        self._free_at: BoundedDict[str, float] = BoundedDict(SITES)

    def attempt(self, address: str) -> None:
        """Count an attempt. Raises `TooManyAttempts`."""
        now, rows = self._now(), []
        for level, site in enumerate(reversed(site_path(address))):
            seconds = ATTEMPT_SECONDS / WIDER**level
            free_at = max(now, self._free_at.get(site, now)) + seconds
            if free_at - now > ATTEMPTS * ATTEMPT_SECONDS:
                raise TooManyAttempts(free_at - now - ATTEMPTS * ATTEMPT_SECONDS)
            rows.append((site, free_at))
        for site, free_at in rows:
            self._free_at[site] = free_at

    def succeeded(self, address: str) -> None:
        """Forget the attempts of the narrowest site."""
        self._free_at.pop(site_path(address)[-1], None)


@cache
def hash_of_nobody() -> PasswordHash:
    """Return the hash that is compared for users that do not exist. Making it takes 60 ms, so one serves all consoles."""
    return PasswordHash.of(secrets.token_urlsafe())


class Passwords:
    """Checks passwords against the present ones of `users`."""

    def __init__(self, users: Callable[[], Mapping[str, PasswordHash]], threads: Threads, now: Callable[[], float]) -> None:
        self._users = users
        self._threads = threads
        self._now = now
        self._running = 0
        self._waiting: deque[Deferred[None]] = deque()
        self._nobody = hash_of_nobody()
        #: a keyed digest of (user, hash, password) -> until when it counts as right
        self._remembered: BoundedDict[bytes, float] = BoundedDict(REMEMBERED)
        self._key = os.urandom(32)

    def check(self, user: str, password: str) -> Deferred[bool]:
        """Return a Deferred of whether this is the user's password. Raises `TooManyAttempts` if too many checks wait."""
        if self._running >= CHECKS and len(self._waiting) >= WAITING_CHECKS:
            raise TooManyAttempts(1)
        known = self._users().get(user)
        turn: Deferred[None] = Deferred()
        checked = turn.addCallback(self._matches, known or self._nobody, password)
        checked.addBoth(self._done)
        #: may be cancelled; then the check stays in the thread and keeps its turn
        answered: Deferred[bool] = Deferred()
        checked.addCallback(lambda right: right and known is not None).addBoth(answered.callback)
        if self._running < CHECKS:
            self._running += 1
            turn.callback(None)
        else:
            self._waiting.append(turn)
        return answered

    def _matches(self, _: None, known: PasswordHash, password: str) -> Deferred[bool]:
        return self._threads.run(known.matches, password)

    def check_again(self, user: str, password: str) -> Deferred[bool]:
        """Do as `check`, for clients that send a password with each request. A successful check is remembered for a moment."""
        key, now = self._digest(user, password), self._now()
        if self._remembered.get(key, 0) > now:
            return succeed(True)
        return self.check(user, password).addCallback(self._remember, key)

    def is_remembered(self, user: str, password: str) -> bool:
        """Return whether `check_again` needs no check."""
        return self._remembered.get(self._digest(user, password), 0) > self._now()

    def _remember(self, right: bool, key: bytes) -> bool:
        if right:
            self._remembered[key] = self._now() + REMEMBERED_SECONDS
        return right

    def _digest(self, user: str, password: str) -> bytes:
        known = self._users().get(user)
        parts = (user, known.text() if known else "", password)
        text = "\0".join(f"{len(part)}:{part}" for part in parts)
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)

    def _done(self, result: object) -> object:
        if self._waiting:
            self._waiting.popleft().callback(None)
        else:
            self._running -= 1
        return result


class TokenUser(NamedTuple):
    """The user that a token logs in."""

    name: str
    role: ConsoleRole


class OneTimeTokens:
    """Tokens that log in once, within `TOKEN_SECONDS`. They are kept by their digests."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._tokens: dict[bytes, tuple[TokenUser, float]] = {}

    def make(self, user: TokenUser) -> str:
        """Return a new token. The oldest of too many is void."""
        if len(self._tokens) >= TOKENS:
            del self._tokens[next(iter(self._tokens))]
        token = secrets.token_urlsafe(32)
        self._tokens[_digest(token)] = user, self._now() + TOKEN_SECONDS
        return token

    def take(self, token: str) -> TokenUser | None:
        """Return the user of a token, and make the token void."""
        user, until = self._tokens.pop(_digest(token), (None, 0.0))
        return user if until > self._now() else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
