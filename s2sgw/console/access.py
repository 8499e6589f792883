"""The user of each request to the console's port: by a session's cookie, or by a user and a password; and its origin.

A browser also sends the cookie with requests of other sites' pages. So a request that changes something must come from a page of
ours (its `Origin`), and a form must carry the text of its session.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from s2sgw.admin.http_api import APIUser, NotAuthorised, channel_of
from s2sgw.config.sections import Console
from s2sgw.console.login import LoginLimits, OneTimeTokens, Passwords, TokenUser, TooManyAttempts
from s2sgw.console.sessions import Session, Sessions
from s2sgw.net.http_server import BoundedRequest
from s2sgw.net.threads import Threads
from s2sgw.reporting.audit import AuditLog
from s2sgw.reporting.printable import printable
from s2sgw.xmpp.host_port import is_address

#: Bytes of a user's name, a password or a token in a request.
FIELD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class LoggedInUser:
    """A logged-in user, with the session if there is one."""

    name: str
    operator: bool
    session: Session | None = field(default=None, compare=False)

    @property
    def by(self) -> str:
        """Return the user for the audit log."""
        return f"console: {self.name}"


class Access:
    """Decides what each request may do. `console` returns the present section of the configuration. `secure`: the port has TLS.

    `own_names` returns the names of the console's certificate.
    """

    log = Logger("s2sgw")

    def __init__(
        self, console: Callable[[], Console], now: Callable[[], float], threads: Threads, audit: AuditLog, *,
        secure: bool, own_names: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._console = console
        self._audit = audit
        self._secure = secure
        self._own_names = own_names
        self.sessions = Sessions(now)
        self.tokens = OneTimeTokens(now)
        self._limits = LoginLimits(now)
        self._passwords = Passwords(lambda: console().users, threads, now)

    @property
    def cookie_name(self) -> str:
        """Return the cookie's name. With `__Host-` browsers accept it from this host over TLS only."""
        return "__Host-s2sgw" if self._secure else "s2sgw"

    # --- the origin of a request ---

    def is_own_host(self, request: BoundedRequest) -> bool:
        """Return whether the Host header names this console.

        The name of a page of another site may resolve to our address (DNS rebinding). Then that name is in the Host header.
        """
        name = request.host_name
        if name == "localhost" or is_address(name):
            return True
        known = [*self._own_names(), *(host.rstrip(".") for host in self._console().hosts)]
        parent = name.partition(".")[2]
        return bool(name) and (name in known or (bool(parent) and f"*.{parent}" in known))

    def is_own_page(self, request: BoundedRequest) -> bool:
        """Return whether a page of ours made a request. Browsers send `Origin` with each POST.

        A port without TLS may be behind a proxy with TLS.
        """
        host = request.requestHeaders.getRawHeaders("host", [""])[0]
        origins = [f"https://{host}"] if self._secure else [f"http://{host}", f"https://{host}"]
        found = request.requestHeaders.getRawHeaders("origin", [])
        return len(found) == 1 and found[0] in origins

    # --- the user ---

    def user_of(self, request: BoundedRequest, touch: bool = True) -> LoggedInUser | None:
        """Return the user whose session the request's cookie names; None: no user is logged in."""
        identifier = self._identifier(request)
        session = self.sessions.find(identifier, touch) if identifier else None
        if session is None:
            return None
        user = self._current(session)
        if user is None:
            self.sessions.end(identifier)
            return None
        channel_of(request).trusted = True
        return user

    def _current(self, session: Session) -> LoggedInUser | None:
        """Return the user of a session by the present configuration."""
        if session.proof in ("token operator", "token read-only"):
            return LoggedInUser(session.user, session.proof == "token operator", session)
        known = self._console().users.get(session.user)
        if known is None or known.text() != session.proof:
            return None
        return LoggedInUser(session.user, self._is_operator(session.user), session)

    def _is_operator(self, name: str) -> bool:
        return self._console().roles.get(name) == "operator"

    def _identifier(self, request: BoundedRequest) -> str:
        return (request.getCookie(self.cookie_name.encode("ascii")) or b"").decode("ascii", "replace")

    def authenticate(self, request: BoundedRequest, *, changes: bool) -> Deferred[APIUser]:
        """Return the user of a request to the HTTP interface (`admin.http_api.Authenticate`)."""
        written = request.getHeader("authorization")
        if written is not None:
            if changes and request.getHeader("origin") is not None and not self.is_own_page(request):
                return fail(NotAuthorised(403, "the request comes from a page of another site"))
            return self._by_password(request, written)
        user = self.user_of(request, touch=changes)
        if user is None:
            return fail(NotAuthorised(401, "log in, or send a user and a password"))
        if changes and not self.is_own_page(request):
            return fail(NotAuthorised(403, "the request does not come from a page of the console"))
        return succeed(APIUser(user.by, user.operator, local=False))

    def _by_password(self, request: BoundedRequest, written: str) -> Deferred[APIUser]:
        try:
            name, password = _basic(written)
            if not self._passwords.is_remembered(name, password):
                self._limits.attempt(address_of(request))
            checked = self._passwords.check_again(name, password)
        except ValueError:
            return fail(NotAuthorised(401, "send a user and a password as HTTP Basic"))
        except TooManyAttempts as error:
            return fail(NotAuthorised(429, str(error)))
        return checked.addCallback(self._api_user, name, request)

    def _api_user(self, right: bool, name: str, request: BoundedRequest) -> APIUser:
        if not right:
            self._log_failure(name, request)
            raise NotAuthorised(401, "the user or the password is wrong")
        self._limits.succeeded(address_of(request))
        if not request._disconnected:
            channel_of(request).trusted = True
        return APIUser(f"console: {name}", self._is_operator(name), local=False)

    # --- logging in and out ---

    async def log_in(self, request: BoundedRequest, name: str, password: str) -> str | None:
        """Return the id of a new session, or None if the password is wrong. Raises `TooManyAttempts` and `OSError`."""
        self._limits.attempt(address_of(request))
        known = self._console().users.get(name)
        right = await self._passwords.check(name[:FIELD_BYTES], password[:FIELD_BYTES])
        if known is None or not right:
            self._log_failure(name, request)
            return None
        self._limits.succeeded(address_of(request))
        return self._begin(request, name, known.text())

    def log_in_by_token(self, request: BoundedRequest, token: str) -> str | None:
        """Return the id of a new session, or None if the token is void. Raises `TooManyAttempts` and `OSError`.

        A good token is never refused, so that an operator can log in however many others try. A void one counts as an attempt, so
        that an attacker cannot fill the log.
        """
        user = self.tokens.take(token[:FIELD_BYTES])
        if user is None:
            self._limits.attempt(address_of(request))
            self._log_failure("(token)", request)
            return None
        return self._begin(request, user.name, f"token {user.role}")

    def _begin(self, request: BoundedRequest, name: str, proof: str) -> str:
        """Begin a session under a new id. The present session of the browser ends."""
        self._audit.note("console login", by=f"console: {name}", address=address_of(request))
        self.sessions.end(self._identifier(request))
        return self.sessions.begin(name, proof)

    def log_out(self, request: BoundedRequest) -> None:
        """End the session of a request."""
        self.sessions.end(self._identifier(request))

    def set_cookie(self, request: BoundedRequest, identifier: str) -> None:
        """Set a session's id as the browser's cookie; "": delete the cookie."""
        by_tls = self._secure or (request.getHeader("origin") or "").startswith("https://")
        secure = "; Secure" if by_tls else ""
        age = "" if identifier else "; Max-Age=0"
        cookie = f"{self.cookie_name}={identifier}; Path=/; HttpOnly; SameSite=Strict{secure}{age}"
        cast(Any, request).cookies.append(cookie.encode("ascii"))

    def make_token(self, user: TokenUser) -> str:
        """Return a token that logs a user in once."""
        return self.tokens.make(user)

    def _log_failure(self, name: str, request: BoundedRequest) -> None:
        self.log.warn(event="console login refused", user=printable(name, 64), address=address_of(request))


def address_of(request: BoundedRequest) -> str:
    """Return the address that a request comes from; "" on a UNIX socket."""
    return str(getattr(request.getClientAddress(), "host", ""))


def _basic(written: str) -> tuple[str, str]:
    """Return the user and the password of an Authorization header (RFC 7617). Raises `ValueError`."""
    scheme, _, encoded = written.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > 3 * FIELD_BYTES:
        raise ValueError
    try:
        name, separator, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError from None
    if not separator:
        raise ValueError
    return name, password
