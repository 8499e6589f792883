"""`s2sgw check --live`: prints the facts as they are found, and sets the exit status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2sgw.admin.client import RequestFailed, ask, socket_path
from s2sgw.cli.output import NO, JSONForm, print_json, this_screen
from s2sgw.cli.text_table import hanging
from s2sgw.reporting.printable import printable

if TYPE_CHECKING:
    from s2sgw.config import Config
    from s2sgw.runtime.live_check import LiveFact

#: Characters of a detail on the terminal.
DETAIL_CHARACTERS = 600
_WORDS = {True: "ok", False: "FAILED", None: "?"}


def run_live_check(config: Config, warnings: tuple[str, ...], as_json: JSONForm) -> None:
    """Print the facts. Exit with status 1 if a check has failed."""
    from s2sgw.cli.reactor_call import call_on_reactor
    from s2sgw.composition.live_check import LiveChecks

    async def run(reactor: Any) -> list[LiveFact]:
        checks = LiveChecks.without_gateway(config, reactor, lambda: _status(reactor, config.path))
        return await checks.check((lambda fact: None) if as_json else _print).run()

    facts = call_on_reactor(run)
    failed = any(fact.ok is False for fact in facts)
    if as_json:
        rows = [fact.row() for fact in facts]
        found = {"ok": not failed, "config": str(config.path), "complaints": [], "warnings": list(warnings), "live": rows}
        print_json(found, as_json)
    sys.exit(NO if failed else 0)


async def _status(reactor: Any, config: Path) -> dict[str, Any] | None:
    """Return the status of the running gateway. None: no gateway answers."""
    from s2sgw.net.threads import ReactorThreads

    def asked() -> dict[str, Any] | None:
        try:
            return dict(ask(socket_path(config), "status", {}))
        except RequestFailed:
            return None

    found: dict[str, Any] | None = await ReactorThreads(reactor).run(asked)
    return found


def _print(fact: LiveFact) -> None:
    screen, margin = this_screen(), " " * 8
    text = f"{printable(fact.subject)}: {printable(fact.detail, DETAIL_CHARACTERS)}"
    click.echo(hanging(f"{_WORDS[fact.ok]:<8}{fact.check:<12} ", text, margin, screen))
    if fact.remedy:
        click.echo(hanging(f"{margin}to fix: ", printable(fact.remedy, DETAIL_CHARACTERS), margin, screen))
