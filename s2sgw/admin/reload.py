"""Reload: read the configuration again while the gateway runs, and apply all of it or nothing. The audit log has each reload.

If the new file has errors, or changes a key that needs a restart, nothing changes and all errors are reported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from s2sgw.admin.server import Arguments, VerbError, asked_by
from s2sgw.config import Config, ConfigError
from s2sgw.config.diff import Change, changes, unchangeable
from s2sgw.net.certificates import CertificateDirectory
from s2sgw.policy.denylist import DenyList
from s2sgw.reporting.audit import AuditLog
from s2sgw.runtime.deny_lists import ListChange
from s2sgw.runtime.policy_change import Closed
from s2sgw.runtime.preflight import CheckedConfiguration

#: Changed keys that are listed in the result, and in the log line.
CHANGES = 1000
LOGGED = 100


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """The result of a reload.

    `changes` are {"key", "old", "new"}, at most `CHANGES`. `certificates` are the names of the renewed ones.
    """

    ok: bool
    config: str
    complaints: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    #: how many more keys have changed, beyond those in `changes`
    more_changes: int = 0
    certificates: list[str] = field(default_factory=list)
    closed: list[dict[str, str]] = field(default_factory=list)


class Inspected(NamedTuple):
    """A configuration that can be applied, the first changes (as in a `ReloadResult`), and the number of the others."""

    ready: CheckedConfiguration
    changes: list[dict[str, Any]]
    more_changes: int


def compare(old: Config, ready: CheckedConfiguration) -> Inspected:
    """Return how a new configuration differs from `old`. Raises `ConfigError` if a difference needs a restart.

    Call this in another thread, because there may be very many peers.
    """
    found = changes(old, ready.config)
    if wrong := unchangeable(found):
        raise ConfigError(ready.config.path, wrong)
    rows = [{"key": each.key, "old": each.old, "new": each.new} for each in found[:CHANGES]]
    return Inspected(ready, rows, max(0, len(found) - CHANGES))


def examine(old: Config, ready: CheckedConfiguration) -> tuple[list[tuple[Change, str]], Sequence[str]]:
    """Return how a new configuration differs from `old`, with why only a restart can make a change, and its warnings."""
    return [(change, change.why_restart) for change in changes(old, ready.config)], ready.warnings


@dataclass(frozen=True, slots=True)
class ReloadTarget:
    """The functions of the gateway that a reload uses."""

    config: Callable[[], Config]
    certificates: CertificateDirectory
    #: reads the new configuration and its files, compares it with the one in force, and makes the line of the audit log with the
    #: function that it is given, all of it in another thread; raises `ConfigError`
    inspect: Callable[[Path, Callable[[Inspected], bytes]], Awaitable[tuple[Inspected, bytes]]]
    #: applies a configuration; cannot fail
    adopt: Callable[[CheckedConfiguration], None]
    #: applies the policy to streams and lanes; True: all streams are kept
    reconsider: Callable[[bool], Awaitable[list[Closed]]]
    #: read a file, and return each change with the reason why it needs a restart ("": a reload is enough), and the warnings
    examine: Callable[[Path], Awaitable[tuple[list[tuple[Change, str]], Sequence[str]]]]
    #: discard the results of `inspect`: the configuration is not adopted
    abandon: Callable[[], object] = lambda: None


class Reload:
    """Reloads the running gateway, one reload at a time."""

    log = Logger("s2sgw")

    def __init__(
        self, running: ReloadTarget, audit: AuditLog, outcome: Callable[[bool], object] = lambda ok: None,
    ) -> None:
        """Take the target. `outcome` is called with whether a reload was successful."""
        self._running = running
        self._audit = audit
        self._outcome = outcome
        #: the alert after a refused reload, until one succeeds
        self._alert = ""
        self._lock = DeferredLock()

    def verb(self, arguments: Arguments) -> Deferred[dict[str, Any]]:
        """Answer `s2sgw reload [--keep-streams]`."""
        keep = arguments.get("keep_streams", False)
        if not isinstance(keep, bool):
            raise VerbError("keep_streams must be true or false", "usage")
        return self.run(asked_by(arguments, "s2sgw reload"), keep).addCallback(_plain)

    async def plan(self, arguments: Arguments) -> dict[str, Any]:
        """Answer `s2sgw check --against-running`: the changes of a file that a reload makes, and those that need a restart."""
        asked = arguments.get("with")
        if asked is not None and not (isinstance(asked, str) and Path(asked).is_absolute()):
            raise VerbError("with must be the absolute path of a file", "usage")
        path = self._running.config().path if asked is None else Path(asked)
        try:
            found, warnings = await self._running.examine(path)
        except ConfigError as error:
            nothing: dict[str, Any] = {"warnings": [], "changes": [], "more_changes": 0}
            return {"ok": False, "config": str(path), "complaints": list(error.complaints), **nothing}
        rows = [{"key": each.key, "old": each.old, "new": each.new, "restart": why} for each, why in found[:CHANGES]]
        restart = any(why for _, why in found)
        return {
            "ok": not restart, "config": str(path), "complaints": [], "warnings": list(warnings), "changes": rows,
            "more_changes": max(0, len(found) - CHANGES),
        }

    def signalled(self) -> None:
        """Reload because of SIGHUP. The result is in the log."""
        self.run("SIGHUP").addErrback(self._broke)

    def _broke(self, failure: Failure) -> None:
        self.log.failure("the reload failed", failure)

    def run(self, by: str, keep_streams: bool = False) -> Deferred[ReloadResult]:
        """Reload on behalf of `by`, after earlier requests for a reload."""
        return self._lock.run(self._reload, by, keep_streams).addCallback(self._counted)

    def alerts(self) -> list[str]:
        """Return an alert while the last reload is one that was refused: the file is not what the gateway runs with."""
        return [self._alert] if self._alert else []

    def _counted(self, result: ReloadResult) -> ReloadResult:
        more = f", and {len(result.complaints) - 1} more" if len(result.complaints) > 1 else ""
        refused = f"the last reload was refused, and {result.config} is not in force: {''.join(result.complaints[:1])}{more}"
        self._alert = "" if result.ok else f"{refused}. Mend the file and reload again"
        self._outcome(result.ok)
        return result

    async def _reload(self, by: str, keep_streams: bool) -> ReloadResult:
        path = self._running.config().path
        try:
            inspected, line = await self._running.inspect(path, partial(self._line, by, keep_streams))
            self._note(path, line)
        except ConfigError as error:
            self._running.abandon()
            return self._refused(by, error)
        except Exception:  # nothing has changed, and nothing that was prepared stays open
            self._running.abandon()
            raise
        ready, rows, more_changes = inspected
        renewed = self._renewed(ready)
        self._running.adopt(ready)
        closed = [each._asdict() for each in await self._running.reconsider(keep_streams)]
        self._told(by, [row["key"] for row in rows], more_changes, renewed, closed)
        return ReloadResult(True, str(path), [], list(ready.warnings), rows, more_changes, renewed, closed)

    def _line(self, by: str, keep_streams: bool, inspected: Inspected) -> bytes:
        """Return the line of the audit log."""
        ready, rows, more_changes = inspected
        more = {"more_changes": more_changes} if more_changes else {}
        return self._audit.line(
            "reload", by=by, config=str(ready.config.path), changes=rows, **more, certificates=self._renewed(ready),
            keep_streams=keep_streams,
        )

    def _renewed(self, ready: CheckedConfiguration) -> list[str]:
        """Return the names of the certificates that are not in use yet."""
        before = {each.fingerprint for each in self._running.certificates.credentials}
        return [each.name for each in ready.certificates.credentials if each.fingerprint not in before]

    def _note(self, path: Path, line: bytes) -> None:
        """Write the change to the audit log. Raises `ConfigError` if that fails; the change is then not made."""
        try:
            self._audit.add(line)
        except OSError as error:
            raise ConfigError(path, [f"{self._audit.path} cannot be written: {error.strerror or error}"]) from None

    def _refused(self, by: str, error: ConfigError) -> ReloadResult:
        self.log.error(event="reload refused", by=by, config=str(error.path), detail=error.complaints[:LOGGED])
        try:
            self._audit.note_or_log("reload refused", by=by, config=str(error.path), complaints=error.complaints)
        except OSError:
            self.log.failure("the audit log cannot be written")
        return ReloadResult(False, str(error.path), list(error.complaints))

    def _told(self, by: str, keys: list[str], more: int, renewed: list[str], closed: list[dict[str, str]]) -> None:
        more += max(0, len(keys) - LOGGED)
        also: dict[str, Any] = {"more_changes": more} if more else {}
        self.log.info(event="reloaded", by=by, changes=keys[:LOGGED], **also, certificates=renewed, closed=len(closed))
        if closed:
            note_closed(self._audit, "reload", closed)


class DenyListChanges:
    """Applies changed deny lists, logs the change, and starts the check of open streams.

    `deny` applies the lists. `reconsider` closes the streams that they refuse. The first content of a list is not a change.
    """

    log = Logger("s2sgw")

    def __init__(
        self, deny: Callable[[Sequence[DenyList]], None], reconsider: Callable[[], Coroutine[Any, Any, list[Closed]]],
        audit: AuditLog,
    ) -> None:
        self._deny = deny
        self._reconsider = reconsider
        self._audit = audit
        self._known: set[str] = set()

    def changed(self, lists: Sequence[DenyList], found: Sequence[ListChange]) -> None:
        self._deny(lists)
        for change in found:
            self._tell(change, next((each for each in lists if each.source == change.source), None))
        self._known = {each.source for each in lists}
        looking = Deferred.fromCoroutine(self._reconsider())
        looking.addCallbacks(self._closed, self._broken)

    def _tell(self, change: ListChange, held: DenyList | None) -> None:
        names, unread = (len(held.names), held.unread) if held else (0, 0)
        self.log.info(
            event="deny list", list=change.source, names=names, added=change.added, removed=change.removed, unread=unread,
        )
        if change.source in self._known:
            some = {"added": list(change.first_added), "removed": list(change.first_removed)}
            _note(self._audit, "deny list", list=change.source, names=names, **some)

    def _closed(self, closed: list[Closed]) -> None:
        if closed:
            note_closed(self._audit, "deny list", [each._asdict() for each in closed])

    def _broken(self, failure: Failure) -> None:
        self.log.failure("streams could not be checked again", failure)


def note_closed(audit: AuditLog, by: str, closed: list[dict[str, str]]) -> None:
    """Write to the audit log which streams a change closed. The change itself is recorded already."""
    _note(audit, "streams closed", by=by, streams=closed)


def _note(audit: AuditLog, action: str, **facts: object) -> None:
    """Write to the audit log what has already happened. If that fails, it is logged."""
    try:
        audit.note_or_log(action, **facts)
    except OSError:
        Reload.log.failure("the audit log cannot be written")


def _plain(result: ReloadResult) -> dict[str, Any]:
    """Return the result for the admin socket. Its lists may be long and are not copied."""
    return {each.name: getattr(result, each.name) for each in fields(result)}

