"""A group of commands that imports a command only when it runs, so that each command starts fast."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

import click

from s2sgw.cli.output import ERROR_STATUS, NO_ANSWER, print_error

#: The errors of a write to a file on a disk that is full, or that fails.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class CommandEntry(NamedTuple):
    """A command: its name, its line in the list of commands, and where it is defined ("module:attribute" in `s2sgw.cli`)."""

    name: str
    short_help: str
    place: str

    def load(self) -> click.Command:
        """Import the command."""
        module, attribute = self.place.split(":")
        command: click.Command = getattr(import_module(f"s2sgw.cli.{module}"), attribute)
        return command


class CommandSection(NamedTuple):
    """Commands that are listed together in the help."""

    heading: str
    entries: tuple[CommandEntry, ...]


class LazyGroup(click.Group):
    """The command `s2sgw`. The list of commands is known without an import."""

    def __init__(self, *args: Any, sections: Sequence[CommandSection] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._sections = sections
        self._entries = {entry.name: entry for section in sections for entry in section.entries}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        return None if entry is None else entry.load()

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names, or fail and suggest one.

        click alone suggests nothing here, since it knows only commands that are imported.
        """
        word = args[0]
        if word not in self._entries and not word.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = " or ".join(map(repr, get_close_matches(word, self._entries)))
            ctx.fail(f"No such command {word!r}." + (f" Did you mean {close}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, entries in self._sections:
            with formatter.section(heading):
                formatter.write_dl([(entry.name, entry.short_help) for entry in entries], col_max=20)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        entries = [each for each in self._entries.values() if each.name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(each.name, help=each.short_help) for each in entries] + options

    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Run the command. If the standard output takes no more, say so and exit."""
        try:
            return self._main(args, **options)
        except OSError as error:
            if error.errno not in NO_ROOM or error.filename is not None:
                raise
            with suppress(OSError):
                click.echo(f"the answer cannot be written: {error.strerror}", err=True)
        sys.exit(NO_ANSWER)

    def _main(self, args: Sequence[str] | None, **options: Any) -> Any:
        """Run the command. If JSON was asked for, usage errors are printed as JSON too."""
        words = list(sys.argv[1:] if args is None else args)
        if not options.get("standalone_mode", True) or not {"--json", "--json-v1"} & set(words):
            return super().main(words, **options)
        try:
            status = super().main(words, **{**options, "standalone_mode": False})
        except click.ClickException as error:
            print_error(error.format_message(), "usage")
            sys.exit(ERROR_STATUS["usage"])
        except click.Abort:
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)
