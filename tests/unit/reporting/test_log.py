"""Tests of the log: lines of text and of JSON, levels, and that a stranger's text cannot forge a line."""

from __future__ import annotations

import io
import json
import os

from twisted.application.service import Application, IServiceCollection
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting.log import DEFAULT_FILE, LoggedService, destination, is_journal, journal_line, json_line, observer, text_line
from s2sgw.xmpp.jid import Domain, Pair

AT = 1_800_000_000.25


class LineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = io.StringIO()

    def lines(self, format: str = "text", level: str = "info", namespace: str = "s2sgw.reporting.record") -> Logger:
        ours = observer(self.file, format, level)  # type: ignore[arg-type]
        return Logger(namespace, observer=lambda event: ours({**event, "log_time": AT}))  # type: ignore[arg-type]

    def written(self) -> list[str]:
        return self.file.getvalue().splitlines()

    def test_without_names(self) -> None:
        """A refusal without a pair has no empty names, as text and as JSON."""
        facts = {"event": "refused", "direction": "outbound", "leg": "backend", "peer": "", "local": "", "cause": "queue-full", "times": 0}
        self.lines().warn("x", **facts)
        self.lines("json").warn("x", **facts)
        text, row = self.written()
        self.assertTrue(text.endswith(" refused direction=outbound leg=backend cause=queue-full times=0"), text)
        self.assertEqual({"direction", "leg", "cause", "times"}, set(json.loads(row)) - {"time", "level", "event"})

    def test_one_line_of_text(self) -> None:
        """A line has time, level, event, then the pair first and the other facts in order. Empty facts are left out."""
        self.lines().warn(
            "x", event="refused", address="192.0.2.1", peer="evil.example", local="example.org", direction="inbound",
            cause="self-signed", detail="", secured=True, seconds=0.123456789, reasons=["pkix: no", "pin: none"],
        )
        self.assertEqual(
            ['2027-01-15T08:00:00.250Z warn  refused direction=inbound peer=evil.example local=example.org address=192.0.2.1 '
             'cause=self-signed secured=yes seconds=0.123457 reasons="pkix: no; pin: none"'],
            self.written(),
        )

    def test_one_line_of_json(self) -> None:
        """The same line is one JSON object, with the values unchanged."""
        pair = Pair(Domain.parse("a.example"), Domain.parse("b.example"))
        self.lines("json").info(event="stream proven", pair=pair, port=5269, ok=False, parts=("x", 1), extra={"k": pair}, none=None)
        self.assertEqual(
            {"time": "2027-01-15T08:00:00.250Z", "level": "info", "event": "stream proven", "pair": "a.example -> b.example",
             "port": 5269, "ok": False, "parts": ["x", 1], "extra": {"k": "a.example -> b.example"}},
            json.loads(self.file.getvalue()),
        )

    def test_a_fact_cannot_replace_a_column(self) -> None:
        """A fact named like a column of JSON does not overwrite it."""
        self.lines("json").info(event="x", time="never")
        self.assertEqual("2027-01-15T08:00:00.250Z", json.loads(self.file.getvalue())["time"])
        self.assertEqual("info", json.loads(json_line({"event": "x", "level": "fatal"}))["level"])

    def test_a_stranger_cannot_forge_a_line(self) -> None:
        """Line ends and terminal escapes in a peer's text stay inside their fact, in both formats."""
        said = 'x\n2027-01-15T08:00:00.250Z info  stream proven peer="bank.example"\x1b[2J'
        for format in ("text", "json"):
            self.lines(format).warn(event="refused", detail=said)
        text, line = self.written()
        self.assertIn('detail="x\\x0a2027-01-15T08:00:00.250Z info  stream proven peer=\\"bank.example\\"\\x1b[2J"', text)
        self.assertEqual(said, json.loads(line)["detail"])
        self.assertNotIn("\x1b", line)

    def test_long_facts_are_cut(self) -> None:
        """A stranger's long text is shortened."""
        for format in ("text", "json"):
            self.lines(format).warn(event="refused", detail="x" * 100_000)
        self.assertTrue(all(len(line) < 1200 for line in self.written()))

    def test_levels(self) -> None:
        """Only events at or above the level are written."""
        for level, expected in (("debug", 3), ("info", 2), ("warn", 1), ("error", 0)):
            self.file.truncate(0)
            self.file.seek(0)
            log = self.lines(level=level)
            log.debug(event="a")
            log.info(event="b")
            log.warn(event="c")
            self.assertEqual(expected, len(self.written()), level)

    def test_notes_of_libraries(self) -> None:
        """Twisted's own notes are shown from level warn on, or at level debug. twistd's notes are shown."""
        self.lines(namespace="twisted.internet.tcp").info("Starting factory")
        self.lines(namespace="twisted.internet.tcp").warn("odd thing")
        self.lines(namespace="twisted.scripts._twistd_unix.UnixAppLogger").info("twistd starting up")
        self.lines(namespace="twisted.internet.tcp", level="debug").info("Starting factory")
        self.assertEqual(["odd thing", "twistd starting up", "Starting factory"], [line.split('"')[1] for line in self.written()])

    def test_traceback(self) -> None:
        """An internal error has its traceback, each line marked, so that none looks like an event."""
        for format in ("text", "json"):
            log = self.lines(format)
            try:
                raise ValueError("evil\n2027-01-15T08:00:00.250Z info  forged")
            except ValueError:
                log.failure("a question could not be answered")
        *text, line = self.written()
        self.assertIn('note text="a question could not be answered"', text[0])
        self.assertTrue(all(row.startswith("    | ") for row in text[1:]))
        self.assertIn("builtins.ValueError: evil", json.loads(line)["traceback"][-2])

    def test_an_event_without_time_or_level(self) -> None:
        """Events of old interfaces lack keys. A line is written all the same."""
        self.assertEqual('1970-01-01T00:00:00.000Z info  note text="" by=""', text_line({}))


class BudgetTests(SynchronousTestCase):
    """Tests of the limit of lines per second."""

    def setUp(self) -> None:
        self.file = io.StringIO()
        self.observer = observer(self.file, lines_per_second=20)

    def say(self, number: int, at: float, level: LogLevel = LogLevel.info) -> None:
        for _ in range(number):
            self.observer({"log_time": at, "log_level": level, "event": "x"})

    def written(self) -> list[str]:
        return [line.split(maxsplit=2)[2] for line in self.file.getvalue().splitlines()]

    def test_suppressed(self) -> None:
        """Lines above the limit are left out, and the next second gives their number."""
        self.say(30, 10.0)
        self.assertEqual(["x"] * 18, self.written())
        self.say(1, 11.0)
        self.assertEqual(["suppressed lines=12", "x"], self.written()[18:])
        self.say(1, 12.0)
        self.assertEqual(20 + 1, len(self.written()))

    def test_lost_on_a_full_disk(self) -> None:
        """Lines that a full disk did not take are counted as suppressed, in the next line that is written."""
        lost = iter([0, 5, 0])
        self.patch(self.observer._file, "lost_lines", lambda: next(lost))
        for at in (10.0, 11.0, 12.0):
            self.say(1, at)
        self.assertEqual(["x", "suppressed lines=5", "x", "x"], self.written())

    def test_configured_again(self) -> None:
        """Another format, level and limit apply from the next line on."""
        self.observer.configure("json", "warn", 0)
        self.say(30, 10.0)
        self.say(30, 10.0, LogLevel.warn)
        lines = self.file.getvalue().splitlines()
        self.assertEqual((30, "warn"), (len(lines), json.loads(lines[0])["level"]))

    def test_reported_once_a_second(self) -> None:
        """However long it lasts, the number is given once a second."""
        for tenth in range(100, 150):
            self.say(10, tenth / 10)
        lines = self.written()
        self.assertEqual((5 * 18, 4), (lines.count("x"), sum(line.startswith("suppressed") for line in lines)))

    def test_errors(self) -> None:
        """Errors have a limit of their own."""
        self.say(30, 10.0)
        self.say(3, 10.0, LogLevel.critical)
        self.assertEqual(20, len(self.written()))

    def test_at_the_end(self) -> None:
        """At the end the remaining number is written."""
        self.say(30, 10.0)
        self.observer.close()
        self.assertEqual("suppressed lines=12", self.written()[-1])

    def test_no_limit(self) -> None:
        """The value 0 means no limit."""
        self.observer = observer(self.file)
        self.say(1000, 10.0)
        self.assertEqual(1000, len(self.written()))


class JournalTests(SynchronousTestCase):
    """Tests under systemd's journal."""

    def test_priorities(self) -> None:
        """A line has its priority and no time, and so has each line of a traceback."""
        event = {"log_level": LogLevel.warn, "event": "refused", "peer": "evil.example", "log_time": AT}
        self.assertEqual("<4>refused peer=evil.example", journal_line(event))
        try:
            raise ValueError("x")
        except ValueError:
            event = {"log_level": LogLevel.critical, "event": "note", "log_failure": Failure()}
        self.assertTrue(all(row.startswith("<2>") for row in journal_line(event).splitlines()))

    def test_recognised(self) -> None:
        """The journal is recognised by the device and the inode that systemd gives."""
        path = self.mktemp()
        with open(path, "w") as file:
            found = os.fstat(file.fileno())
            self.assertTrue(is_journal(file, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}))
            for text in (f"{found.st_dev}:1", "", "x"):
                self.assertFalse(is_journal(file, {"JOURNAL_STREAM": text}))
        self.assertFalse(is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"}))


class ReopenTests(SynchronousTestCase):
    def test_moved_away(self) -> None:
        """After another program moved the file, the log continues in a new, private one; in a thread too."""
        for in_thread in (False, True):
            path = self.mktemp()
            file = destination({"logfile": path})
            assert isinstance(file, LogFile)
            self.addCleanup(file.close)
            lines = observer(file)
            if in_thread:
                lines.start()
            lines({"event": "before", "log_level": LogLevel.info})
            if in_thread:
                lines.close()
                lines.start()
            os.rename(path, path + ".1")
            lines.reopen()
            lines({"event": "after", "log_level": LogLevel.info})
            if in_thread:
                lines.close()
            with open(path) as now, open(path + ".1") as old:
                self.assertIn(" after", now.read())
                self.assertIn(" before", old.read())
            self.assertEqual(0o640, os.stat(path).st_mode & 0o777)

    def test_terminal(self) -> None:
        """A target that is not a file of ours is not reopened."""
        observer(io.StringIO()).reopen()


class TwistdTests(SynchronousTestCase):
    def test_destination(self) -> None:
        """As with twistd: standard output in the foreground, the named file, twistd.log of a daemon, and none under syslog."""
        import sys

        folder = self.mktemp()
        os.mkdir(folder)
        named = os.path.join(folder, "gateway.log")
        self.assertIs(sys.stdout, destination({"nodaemon": True, "logfile": None}))
        self.assertIs(sys.stdout, destination({"nodaemon": True, "logfile": "-"}))
        self.assertIsNone(destination({"nodaemon": True, "syslog": True}))
        file = destination({"nodaemon": True, "logfile": named})
        assert isinstance(file, LogFile)
        self.addCleanup(file.close)
        self.assertEqual(os.path.abspath(named), file.path)
        self.assertEqual("twistd.log", DEFAULT_FILE)

    def test_the_root_service_brings_its_log(self) -> None:
        """The application that twistd makes gets our observer before its log starts, and the service as its child."""
        ours = observer(io.StringIO())
        application = Application("s2sgw")
        service = LoggedService(ours)
        service.setServiceParent(application)
        self.assertIs(ours, application.getComponent(ILogObserver))
        self.assertEqual([service], list(IServiceCollection(application)))

    def test_written_in_a_thread(self) -> None:
        """From the start of the services to their stop the log is written by a thread, and all of it is there at the end."""
        file = io.StringIO()
        service = LoggedService(observer(file))
        service.startService()
        Logger("s2sgw", observer=service._observer).info(event="working")
        self.successResultOf(service.stopService())
        self.assertIn("working", file.getvalue())

    def test_without_an_observer(self) -> None:
        """Under syslog twistd's own observer stays."""
        application = Application("s2sgw")
        service = LoggedService(None)
        service.setServiceParent(application)
        service.startService()
        self.successResultOf(service.stopService())
        self.assertIsNone(application.getComponent(ILogObserver, None))

    def test_level_names(self) -> None:
        """The configured levels are levels of twisted.logger."""
        for name in ("debug", "info", "warn", "error"):
            self.assertIn(LogLevel.levelWithName(name), LogLevel.iterconstants())
