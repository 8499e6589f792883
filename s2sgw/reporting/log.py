"""The log: one line for each change of state, as text or as JSON, through twisted.logger.

A line of ours is an event with the key `event` (what happened: "refused", "stream proven", …) and its facts as further keys:
`log.info(event="stream proven", peer="friend.example", local="example.org", method="EXTERNAL")`. The facts that identify the
pair come first. An entry without `event` is a note (Twisted's own messages, tracebacks of our errors).

    2026-11-20T13:04:44.123Z warn  refused direction=inbound peer=evil.example local=example.org layer=pkix cause=self-signed …
    {"time": "2026-11-20T13:04:44.123Z", "level": "warn", "event": "refused", "direction": "inbound", "peer": …}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from s2sgw.reporting.background_file import BackgroundFile, Writable
from s2sgw.reporting.printable import printable, quoted

#: Bytes of a log file before it is rotated, and number of old files that are kept (twistd's --logfile).
ROTATE_BYTES = 32 * 1024 * 1024
ROTATE_KEPT = 8
#: The mode of the file: it has the names of all peers.
FILE_MODE = 0o640
#: Characters of one fact in text, and of one in JSON.
FACT = 1000
#: Seconds between two lines that say how many were suppressed.
SUPPRESSED_SECONDS = 1.0
#: The file of a daemonised twistd without --logfile.
DEFAULT_FILE = "twistd.log"

#: Priorities of syslog(3) by our levels.
_PRIORITIES = {"critical": 2, "error": 3, "warn": 4, "info": 6, "debug": 7}
_FIRST = ("direction", "leg", "pair", "peer", "local")
_OURS = ("s2sgw", "twisted.scripts", "twisted.application.app")
#: Keys that twisted.logger (and the old twisted.python.log) put into every event.
_MACHINERY = frozenset({"event", "format", "message", "time", "system", "isError", "failure", "why", "printed"})


class LineBudget:
    """The number of lines that may be written in each second; 0: no limit.

    The last tenth is for errors, so that they are written whatever else happens.
    """

    def __init__(self, per_second: int) -> None:
        self._most = per_second
        self._second = 0
        self._used = 0

    def take(self, now: float, is_error: bool) -> bool:
        """Return whether one more line may be written."""
        if not self._most:
            return True
        if int(now) != self._second:
            self._second, self._used = int(now), 0
        if self._used >= self._most - (0 if is_error else self._most // 10):
            return False
        self._used += 1
        return True


@implementer(ILogObserver)
class LineObserver:
    """Writes the events at or above `level` to `file`, one line each, within `budget`. After the start it never blocks.

    A line has the number of suppressed lines, once a second at most. Lines that a full disk did not take are among them.
    """

    def __init__(self, file: Writable, line: Callable[[LogEvent], str], level: LogLevel, budget: LineBudget) -> None:
        self._target = file
        self._file = BackgroundFile(file)
        self._line = line
        self._level = level
        self._budget = budget
        self._suppressed = 0
        self._told_at = 0.0  # or the time of the first suppressed line that was not reported yet

    def __call__(self, event: LogEvent) -> None:
        if not wanted(event, self._level):
            return
        now = event.get("log_time", 0.0)
        self._suppressed += self._file.lost_lines()
        if self._suppressed and not 0 <= now - self._told_at < SUPPRESSED_SECONDS:
            self._tell(now)
        is_error = event.get("log_level", LogLevel.info) >= LogLevel.error
        if not self._budget.take(now, is_error) or not self._file.write(self._line(event) + "\n"):
            self._told_at = self._told_at if self._suppressed else now
            self._suppressed += 1

    def _tell(self, now: float) -> None:
        """Write how many lines are missing. This line does not count for the budget."""
        event = {"log_time": now, "log_level": LogLevel.warn, "event": "suppressed", "lines": self._suppressed}
        self._told_at = now
        if self._file.write(self._line(event) + "\n"):
            self._suppressed = 0

    def configure(self, format: Literal["text", "json"], level: str, lines_per_second: int) -> None:
        """Use these values of `[log]`, and `limits.log_lines_per_second`, from now on."""
        self._line = line_format(format, self._target)
        self._level = LogLevel.levelWithName(level)
        self._budget = LineBudget(lines_per_second)

    @property
    def level(self) -> str:
        """The lowest level that is written."""
        return str(self._level.name)

    @level.setter
    def level(self, name: str) -> None:
        self._level = LogLevel.levelWithName(name)

    def reopen(self) -> None:
        """Open the file again, after another program has moved it away (logrotate)."""
        self._file.reopen()

    def start(self) -> None:
        """Write in a separate thread from now on."""
        self._file.start()

    def close(self) -> None:
        """Write the waiting lines."""
        if self._suppressed:
            self._tell(time.time())
        self._file.close()


def observer(
    file: Writable, format: Literal["text", "json"] = "text", level: str = "info", lines_per_second: int = 0,
) -> LineObserver:
    """Return the observer for `[log]`. `level` is "debug", "info", "warn", "error" or "critical"."""
    return LineObserver(file, line_format(format, file), LogLevel.levelWithName(level), LineBudget(lines_per_second))


def line_format(format: Literal["text", "json"], file: Writable) -> Callable[[LogEvent], str]:
    """Return the function that makes the line of an event, for `[log] format` and the target of the log."""
    if format == "json":
        return json_line
    return journal_line if is_journal(file) else text_line


def is_journal(file: Writable, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether `file` leads to systemd's journal (`JOURNAL_STREAM`, systemd.exec(5))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(file.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def wanted(event: LogEvent, level: LogLevel) -> bool:
    """Return whether an event is at or above `level`. Messages of libraries are written only from warn on, or at level debug."""
    own = event.get("log_level", LogLevel.info)
    if "event" not in event and level > LogLevel.debug and not str(event.get("log_namespace", "")).startswith(_OURS):
        level = max(level, LogLevel.warn)
    return bool(own >= level)


def text_line(event: LogEvent) -> str:
    """Return TIME LEVEL EVENT key=value …, and a traceback indented below."""
    return "\n".join(_with_traceback(f"{_time(event)} {_level(event):<5} {_words(event)}", event))


def journal_line(event: LogEvent) -> str:
    """Return the line for the journal, which adds the time itself: its priority (sd-daemon(3)), EVENT key=value …"""
    priority = f"<{_PRIORITIES[_level(event)]}>"
    return "\n".join(priority + row for row in _with_traceback(_words(event), event))


def _words(event: LogEvent) -> str:
    return " ".join([_what(event), *[f"{key}={_text(value)}" for key, value in _facts(event)]])


def _with_traceback(line: str, event: LogEvent) -> list[str]:
    return [line, *(f"    | {printable(row)}" for row in _traceback(event))]


def json_line(event: LogEvent) -> str:
    """Return one JSON object: time, level, event, then the facts; `traceback` is a list of lines."""
    row = event_row(event)
    if trace := list(_traceback(event)):
        row["traceback"] = trace
    return json.dumps(row)


def event_row(event: LogEvent) -> dict[str, Any]:
    """Return an event for JSON: time, level, event, then the facts."""
    row: dict[str, Any] = {"time": _time(event), "level": _level(event), "event": _what(event)}
    for key, value in _facts(event):
        row.setdefault(key, _plain(value))
    return row


def _time(event: LogEvent) -> str:
    at = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    return str(event.get("log_level", LogLevel.info).name)


def _what(event: LogEvent) -> str:
    return printable(str(event.get("event", "note")))


def _facts(event: LogEvent) -> list[tuple[str, Any]]:
    if "event" not in event:
        return [("text", formatEvent(event)), ("by", event.get("log_namespace", ""))]
    facts = []
    for key in dict.fromkeys([*_FIRST, *event]):
        value = event.get(key)
        if value not in (None, "", [], ()) and key not in _MACHINERY and not key.startswith("log_"):
            facts.append((key, value))
    return facts


def _traceback(event: LogEvent) -> Iterator[str]:
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        yield from failure.getTraceback().splitlines()


def _text(value: object) -> str:
    if isinstance(value, str):
        return quoted(value, FACT)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return quoted("; ".join(map(str, value)), FACT)
    return quoted(str(value), FACT)


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    text = str(value)
    return text if len(text) <= FACT else text[:FACT] + "…"


# --- joining twistd ---------------------------------------------------------------------------------------------------


def destination(options: Mapping[str, Any]) -> Writable | None:
    """Return the file that twistd's own options (of the plugin's parent) name for the log; None: syslog takes it.

    This follows twistd: standard output in the foreground, otherwise `--logfile` (twistd.log), which is rotated.
    """
    if options.get("syslog"):
        return None
    name = options.get("logfile") or ("-" if options.get("nodaemon") else DEFAULT_FILE)
    if name == "-":
        return sys.stdout
    file: Writable = LogFile.fromFullPath(name, rotateLength=ROTATE_BYTES, maxRotatedFiles=ROTATE_KEPT, defaultMode=FILE_MODE)
    return file


class LoggedService(MultiService):
    """The root service of the plugin. It adds its observer to twistd's application (`--logger` still takes precedence)."""

    def __init__(self, observer: LineObserver | None) -> None:
        super().__init__()
        self._observer = observer

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with the application, before it starts the log."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Write the log in a thread from now on: twistd does not fork any more."""
        if self._observer is not None:
            self._observer.start()
        super().startService()

    def stopService(self) -> Deferred[Any]:
        """Write all of the log once everything else has stopped."""
        stopped: Deferred[Any] = super().stopService()
        return stopped if self._observer is None else stopped.addBoth(self._close_log)

    def _close_log(self, result: Any) -> Any:
        assert self._observer is not None
        self._observer.close()
        return result
