"""Builds the console of one gateway. `service` imports this module only if `[console] listen` is set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred

from s2sgw.admin.http_api import APIServices
from s2sgw.admin.server import Arguments, Verb, VerbError, asked_by, called
from s2sgw.config import Config
from s2sgw.config.sections import parse_console_user
from s2sgw.console.access import Access
from s2sgw.console.history import History
from s2sgw.console.login import TOKEN_SECONDS, TokenUser
from s2sgw.console.pages import Pages
from s2sgw.console.probes import ProbeRuns
from s2sgw.console.site import console_site
from s2sgw.console.tls import ConsoleTLS, ConsoleTLSFactory
from s2sgw.net.endpoint_strings import EVERY_ADDRESS, EndpointString
from s2sgw.net.http_server import BoundedSite
from s2sgw.net.threads import Threads
from s2sgw.reporting.audit import AuditLog


@dataclass(frozen=True, slots=True)
class BuiltConsole:
    """The factory of the console's port, its site, its verbs for the admin socket, the job of its history, and its alerts."""

    factory: Any
    site: BoundedSite
    verbs: Mapping[str, Verb]
    sample: Callable[[], Awaitable[None]]
    alerts: Callable[[], list[str]] = list


def build_console(
    config: Callable[[], Config], services: APIServices, threads: Threads, audit: AuditLog, wall: Callable[[], float],
    certificate: Path | None = None,
) -> BuiltConsole:
    """Return the console of the configuration, with this certificate. Raises `UnusableCertificate`.

    `config` returns the configuration in force; its users, roles and hosts may change. `wall` returns seconds since the epoch.
    """
    clock = services.clock
    tls = None if certificate is None else ConsoleTLS(certificate, clock.seconds)
    access = Access(
        lambda: config().console, clock.seconds, threads, audit, secure=tls is not None,
        own_names=(lambda: ()) if tls is None else lambda: tls.names,
    )
    history = History(partial(_status, services), clock.seconds)
    pages = Pages(services.verbs, services.slices, history, wall, ProbeRuns(clock.seconds))
    site = console_site(services, access, pages)
    factory = site if tls is None else ConsoleTLSFactory(tls, site, clock)
    tokens = TokenVerb(access, audit, wall, partial(_address, config, tls))
    alerts = list if tls is None else tls.alerts
    return BuiltConsole(factory, site, {"console token": tokens.make}, history.sample, alerts)


async def _status(services: APIServices) -> Mapping[str, Any]:
    answer = called(services.verbs["status"], {"here": True})
    return cast(Mapping[str, Any], await answer if isinstance(answer, Deferred) else answer)


class TokenVerb:
    """Answers `console token`: a link that logs a user in once."""

    def __init__(self, access: Access, audit: AuditLog, wall: Callable[[], float], address: Callable[[], str]) -> None:
        self._access = access
        self._audit = audit
        self._wall = wall
        self._address = address

    def make(self, arguments: Arguments) -> dict[str, Any]:
        """Return a new token, and write it to the audit log."""
        role = arguments.get("role", "operator")
        try:
            name = parse_console_user(arguments.get("user", "operator"))
        except ValueError as error:
            raise VerbError(f"user {error}", "usage") from None
        if role not in ("operator", "read-only"):
            raise VerbError("role must be operator or read-only", "usage")
        try:
            self._audit.note("console token", by=asked_by(arguments), user=name, role=role)
        except OSError as error:
            raise VerbError(f"no token is given, because the audit log cannot be written: {error}") from None
        token = self._access.make_token(TokenUser(name, role))
        address = self._address()
        return {
            "user": name, "role": role, "token": token, "expires": self._wall() + TOKEN_SECONDS,
            "address": f"{address}/login?token={token}" if address else "",
        }


def _address(config: Callable[[], Config], tls: ConsoleTLS | None) -> str:
    """Return the address of the console for a browser, as far as the configuration shows it; otherwise ""."""
    console = config().console
    place = EndpointString.parse(console.listen or "")
    if place.port is None:
        return ""
    names = [host.rstrip(".") for host in console.hosts] + [name for name in (tls.names if tls else ()) if "*" not in name]
    host = names[0] if names else "localhost" if place.interface in EVERY_ADDRESS else place.interface
    host = f"[{host}]" if ":" in host else host
    return f"{'http' if tls is None else 'https'}://{host}:{place.port}"
