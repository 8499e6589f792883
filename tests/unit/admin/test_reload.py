"""Tests of a reload: all of it or nothing, with every error, and the audit entry before the change."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.reload import DenyListChanges, Inspected, Reload, ReloadResult, ReloadTarget, compare, examine, note_closed
from s2sgw.admin.server import VerbError
from s2sgw.cli import tables
from s2sgw.cli.text_table import Screen
from s2sgw.config import Config, ConfigError, parse
from s2sgw.policy.denylist import DenyList
from s2sgw.reporting.audit import AuditLog
from s2sgw.runtime.deny_lists import ListChange
from s2sgw.runtime.policy_change import Closed
from s2sgw.runtime.preflight import CheckedConfiguration
from tests.support.fakes import FixedClock

GATEWAY = '[gateway]\ndomains = ["example.org"]\n'
CLOSED = Closed("inbound", "bad.example", "example.org", "192.0.2.1:4", "not-allowed", "no")


def directory(*credentials: tuple[str, str]) -> Any:
    """Return certificates with these names and fingerprints."""
    return SimpleNamespace(credentials=[SimpleNamespace(name=name, fingerprint=mark) for name, mark in credentials])


class AuditCase(SynchronousTestCase):
    """An audit log of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "certs").mkdir(parents=True)
        self.audit = AuditLog(self.folder, FixedClock(0.0))

    def noted(self) -> list[dict[str, Any]]:
        path = self.audit.path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class ReloadTests(AuditCase):
    """Tests of one running gateway whose file the test writes."""

    def setUp(self) -> None:
        super().setUp()
        self.running = self.config("")
        self.next: Config | ConfigError = self.running
        self.certificates = directory(("one", "1"))
        self.adopted: list[CheckedConfiguration] = []
        self.reconsidered: list[bool] = []
        self.closed: list[Closed] = []
        running = ReloadTarget(lambda: self.running, directory(("one", "1")), self.inspect, self.adopted.append, self.reconsider, self.examine)
        self.reload = Reload(running, self.audit)

    def config(self, text: str) -> Config:
        return parse(GATEWAY + text, self.folder / "s2sgw.toml")

    async def inspect(self, path: Path, line: Callable[[Inspected], bytes]) -> tuple[Inspected, bytes]:
        self.assertEqual(self.folder / "s2sgw.toml", path)
        if isinstance(self.next, ConfigError):
            raise self.next
        found = compare(self.running, CheckedConfiguration(self.next, self.certificates, ("one.crt: expires soon",)))
        return found, line(found)

    async def examine(self, path: Path) -> Any:
        if isinstance(self.next, ConfigError):
            raise self.next
        return examine(self.running, CheckedConfiguration(self.next, self.certificates, ("a warning",)))

    async def reconsider(self, keep_streams: bool) -> list[Closed]:
        self.assertEqual(1, len(self.adopted))
        self.reconsidered.append(keep_streams)
        return self.closed

    def run_reload(self, **more: Any) -> ReloadResult:
        return self.successResultOf(self.reload.run("the test", **more))

    def refused(self, *complaints: str) -> None:
        outcome = self.run_reload()
        self.assertEqual((False, list(complaints)), (outcome.ok, outcome.complaints))
        self.assertEqual(([], []), (self.adopted, self.reconsidered))

    def test_changes(self) -> None:
        """Changes are noted, adopted and returned, and streams are reconsidered."""
        self.next = self.config('[peers."bad.example"]\nallow = false\n')
        self.closed = [CLOSED]
        outcome = self.run_reload()
        change = {"key": 'peers."bad.example".allow', "old": None, "new": False}
        self.assertEqual((True, [change], ["one.crt: expires soon"]), (outcome.ok, outcome.changes, outcome.warnings))
        self.assertEqual(([CLOSED._asdict()], [False]), (outcome.closed, self.reconsidered))
        self.assertIs(self.next, self.adopted[0].config)
        first, second = self.noted()
        self.assertEqual(("reload", "the test", [change]), (first["action"], first["by"], first["changes"]))
        self.assertEqual(("streams closed", "bad.example"), (second["action"], second["streams"][0]["peer"]))

    def test_line_of_the_other_thread(self) -> None:
        """The audit log has the line that was made while the file was read. A long line is not made on the reactor's thread."""
        made: list[bytes] = []

        async def inspect(path: Path, line: Callable[[Inspected], bytes]) -> tuple[Inspected, bytes]:
            found, text = await self.inspect(path, line)
            made.append(text)
            self.patch(self.audit, "line", None)
            return found, text

        self.reload._running = replace(self.reload._running, inspect=inspect)
        self.assertTrue(self.run_reload().ok)
        self.assertEqual(made, [self.audit.path.read_bytes()])

    def test_keep_streams(self) -> None:
        """The flag is passed to the streams and noted in the audit log."""
        self.run_reload(keep_streams=True)
        self.assertEqual(([True], True), (self.reconsidered, self.noted()[0]["keep_streams"]))

    def test_very_many_changes(self) -> None:
        """A bounded number of changed keys is returned and noted one by one. The others are given as a number."""
        self.next = self.config("".join(f'[peers."{number}.example"]\nallow = false\n' for number in range(1500)))
        with capturedLogs() as logs:
            outcome = self.run_reload()
        self.assertEqual((1000, 500), (len(outcome.changes), outcome.more_changes))
        noted = self.noted()[0]
        self.assertEqual((1000, 500), (len(noted["changes"]), noted["more_changes"]))
        line = next(event for event in logs if event.get("event") == "reloaded")
        self.assertEqual((100, 1400), (len(line["changes"]), line["more_changes"]))

    def test_very_many_refused(self) -> None:
        """A key that needs a restart is found behind any number of others."""
        peers = "".join(f'[peers."{number}.example"]\nallow = false\n' for number in range(1500))
        self.next = self.config(peers + "[limits]\nhandshakes = 7\n")
        self.refused("limits.handshakes: can change only at a restart")

    def test_certificates(self) -> None:
        """A renewed certificate is a change even if the file has not changed."""
        self.certificates = directory(("one", "2"), ("two", "1"), ("three", "3"))
        self.assertEqual(["one", "three"], self.run_reload().certificates)

    def test_bad_file(self) -> None:
        """Every error is returned and noted, and nothing changes."""
        self.next = ConfigError(self.running.path, ["line 3: no", "line 4: no"])
        self.refused("line 3: no", "line 4: no")
        (line,) = self.noted()
        self.assertEqual(("reload refused", ["line 3: no", "line 4: no"]), (line["action"], line["complaints"]))

    def test_alert(self) -> None:
        """A refused reload is an alert until one succeeds: the file is not what the gateway runs with."""
        self.assertEqual([], self.reload.alerts())
        self.next = ConfigError(self.folder / "s2sgw.toml", ["line 3: no", "line 4: no"])
        self.run_reload()
        (alert,) = self.reload.alerts()
        self.assertIn(f"{self.folder / 's2sgw.toml'} is not in force: line 3: no, and 1 more", alert)
        self.next = self.running
        self.run_reload()
        self.assertEqual([], self.reload.alerts())

    def test_needs_restart(self) -> None:
        """A key that cannot change prevents the change of the others: all or nothing."""
        self.next = self.config('[queue]\nmemory = "1MiB"\n[peers.default]\nallow = false\n')
        self.refused("queue.memory: can change only at a restart")

    def test_cannot_be_noted(self) -> None:
        """A change that cannot be written to the audit log is not made."""
        self.audit.path.mkdir()
        self.refused(f"{self.audit.path} cannot be written: Is a directory")
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))

    def test_refused_on_a_full_disk(self) -> None:
        """A refusal that the audit log has no room for is in the log, without a traceback."""

        def full(*arguments: object, **facts: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(AuditLog, "note", full)
        self.next = ConfigError(self.folder / "s2sgw.toml", ["nonsense"])
        with capturedLogs() as logs:
            self.assertFalse(self.run_reload().ok)
            note_closed(self.audit, "reload", [CLOSED._asdict()])
        self.assertEqual([
            ("reload refused", None), ("not in the audit log", "reload refused"), ("not in the audit log", "streams closed"),
        ], [(each["event"], each.get("action")) for each in logs])

    def test_one_at_a_time(self) -> None:
        """A reload requested during another one follows it."""
        waiting: Deferred[list[Closed]] = Deferred()

        async def reconsider(keep_streams: bool) -> list[Closed]:
            self.reconsidered.append(keep_streams)
            return await waiting

        self.reload._running = ReloadTarget(lambda: self.running, directory(), self.inspect, self.adopted.append, reconsider, self.examine)
        first, second = self.reload.run("a"), self.reload.run("b", True)
        self.assertEqual([False], self.reconsidered)
        waiting.callback([])
        self.assertTrue(self.successResultOf(first).ok)
        self.assertTrue(self.successResultOf(second).ok)
        self.assertEqual(([False, True], ["a", "b"]), (self.reconsidered, [line["by"] for line in self.noted()]))

    def test_plan(self) -> None:
        """The plan lists what a reload would change and what needs a restart. Nothing is adopted, noted or prepared."""
        self.next = self.config('[queue]\nhold = "5m"\nmemory = "1MiB"\n')
        found = self.successResultOf(Deferred.fromCoroutine(self.reload.plan({})))
        self.assertEqual((False, ["a warning"]), (found["ok"], found["warnings"]))
        self.assertEqual(
            [("queue.hold", ""), ("queue.memory", "can change only at a restart")],
            sorted((row["key"], row["restart"]) for row in found["changes"]),
        )
        self.next = self.config('[queue]\nhold = "5m"\n')
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.reload.plan({"with": "/etc/planned.toml"})))["ok"])
        self.next = ConfigError(self.folder / "s2sgw.toml", ["line 3: nonsense"])
        found = self.successResultOf(Deferred.fromCoroutine(self.reload.plan({})))
        self.assertEqual((False, ["line 3: nonsense"], []), (found["ok"], found["complaints"], found["changes"]))
        self.failureResultOf(Deferred.fromCoroutine(self.reload.plan({"with": "relative.toml"})), VerbError)
        self.assertEqual(([], []), (self.adopted, self.noted()))

    def test_abandoned(self) -> None:
        """Prepared objects of a configuration that is refused, or cannot be noted, are released."""
        given_up: list[None] = []
        target = self.reload._running
        self.reload._running = replace(target, abandon=lambda: given_up.append(None))
        self.next = ConfigError(self.folder / "s2sgw.toml", ["nonsense"])
        self.assertFalse(self.successResultOf(self.reload.run("a")).ok)
        self.next = self.config('[queue]\nhold = "5m"\n')
        self.audit.path.unlink()
        self.audit.path.mkdir()
        self.assertFalse(self.successResultOf(self.reload.run("b")).ok)
        self.flushLoggedErrors(OSError)
        self.assertEqual((2, []), (len(given_up), self.adopted))

    def test_abandoned_after_a_mistake(self) -> None:
        """An internal error while a configuration is prepared leaves nothing open, and the next reload succeeds."""
        given_up: list[None] = []

        async def broken(path: Path, line: object) -> tuple[Inspected, bytes]:
            raise ZeroDivisionError

        working = self.reload._running
        self.reload._running = replace(working, abandon=lambda: given_up.append(None), inspect=broken)
        self.failureResultOf(self.reload.run("a"), ZeroDivisionError)
        self.assertEqual((1, []), (len(given_up), self.adopted))
        self.reload._running = working
        self.assertTrue(self.run_reload().ok)

    def test_verb(self) -> None:
        """The admin socket's verb answers in plain JSON. An invalid flag is an error of the caller."""
        self.closed = [CLOSED]
        answer = self.successResultOf(self.reload.verb({"keep_streams": False}))
        self.assertEqual(answer, json.loads(json.dumps(answer)))
        self.assertEqual("s2sgw reload", self.noted()[0]["by"])
        self.assertRaises(VerbError, self.reload.verb, {"keep_streams": "yes"})
        self.assertIn("closed: inbound stream of bad.example with example.org", tables.reloaded(answer, Screen(None, False)))

    def test_signal(self) -> None:
        """SIGHUP reloads, and an internal error is logged."""
        self.reload.signalled()
        self.assertEqual("SIGHUP", self.noted()[0]["by"])
        self.adopted.clear()
        self.next = None  # type: ignore[assignment]
        self.reload.signalled()
        self.assertEqual(1, len(self.flushLoggedErrors(AttributeError)))


class ListNewsTests(AuditCase):
    """Tests of a deny list that changes by itself."""

    def setUp(self) -> None:
        super().setUp()
        self.denied: list[Sequence[DenyList]] = []
        self.closed: list[Closed] = []
        self.news = DenyListChanges(self.denied.append, self.reconsider, self.audit)

    async def reconsider(self) -> list[Closed]:
        return self.closed

    def hear(self, source: str, *names: str, added: Sequence[str] = (), removed: Sequence[str] = ()) -> None:
        lists = [DenyList(source, dict.fromkeys(names))]
        self.news.changed(lists, [ListChange(source, len(added), len(removed), tuple(added), tuple(removed))])

    def test_news(self) -> None:
        """Its names are denied at once. A change is noted with its names; the first content is no change."""
        self.hear("x", "a.example", added=["a.example"])
        self.assertEqual([], self.noted())
        self.closed = [CLOSED]
        self.hear("x", "b.example", added=["b.example"], removed=["a.example"])
        first, second = self.noted()
        self.assertEqual(("deny list", "x", 1, ["b.example"], ["a.example"]), tuple(first[key] for key in ("action", "list", "names", "added", "removed")))
        self.assertEqual(("streams closed", "deny list"), (second["action"], second["by"]))
        self.assertEqual(2, len(self.denied))

    def test_full_disk(self) -> None:
        """Names are denied even if the change cannot be noted."""
        self.hear("x")
        self.audit.path.mkdir()
        self.hear("x", "a.example", added=["a.example"])
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        self.assertEqual(2, len(self.denied))

    def test_mistake(self) -> None:
        """An internal error is logged."""
        async def broken() -> list[Closed]:
            raise RuntimeError("x")

        DenyListChanges(self.denied.append, broken, self.audit).changed([], [])
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
