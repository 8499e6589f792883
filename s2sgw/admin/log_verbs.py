"""The verb `log level`: how much is logged, until the next start or reload."""

from __future__ import annotations

from typing import Any, Protocol, get_args

from s2sgw.admin.server import Arguments, VerbError, asked_by
from s2sgw.config.sections import Log
from s2sgw.reporting.audit import AuditLog

LEVELS: tuple[str, ...] = get_args(Log.model_fields["level"].annotation)


class Leveled(Protocol):
    """A log whose level can be changed (`reporting.log.LineObserver`)."""

    level: str


class LogVerbs:
    """Answers the verb. `log` is None if another program writes the log."""

    def __init__(self, log: Leveled | None, audit: AuditLog) -> None:
        self._log = log
        self._audit = audit

    def level(self, arguments: Arguments) -> dict[str, Any]:
        """Return the level that is logged; set it first, if `level` is given."""
        wanted = arguments.get("level")
        if wanted is not None and wanted not in LEVELS:
            raise VerbError(f"level must be one of {', '.join(LEVELS)}", "usage")
        if self._log is None:
            raise VerbError("the log is written by twistd's --syslog or --logger, whose level s2sgw cannot change")
        before = self._log.level
        if wanted is not None:
            try:
                self._audit.note("log level", by=asked_by(arguments), level=wanted)
            except OSError as error:
                raise VerbError(f"nothing was changed: the audit log cannot be written: {error}") from None
            self._log.level = wanted
        return {"level": self._log.level, "before": before}
