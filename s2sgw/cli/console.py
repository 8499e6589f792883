"""`s2sgw console`: log in to the console of a running gateway, and make password hashes for its users."""

from __future__ import annotations

from pathlib import Path

import click

from s2sgw.cli.output import CONFIGURATION, asked, config_option, fail, json_option, print_json
from s2sgw.config.password_hash import PasswordHash, PasswordUnusable
from s2sgw.reporting.printable import printable


@click.group(short_help="Log in to the console; make password hashes.")
def console() -> None:
    """Log in to the console, and make password hashes for its users."""


@console.command("token", short_help="Print a link that logs in once.")
@click.option("--user", default="operator", show_default=True, metavar="NAME", help="Name for the audit log.")
@click.option("--read-only", is_flag=True, help="Do not allow changes.")
@config_option
@json_option
def token(user: str, read_only: bool, config: Path, as_json: bool) -> None:
    """Print a link that logs in to the console once, within 5 minutes."""
    answer = asked(config, as_json, "console token", user=user, role="read-only" if read_only else "operator")
    if as_json:
        print_json(answer)
    else:
        click.echo(printable(answer["address"] or f"/login?token={answer['token']}"))


@console.command("password", short_help="Hash the password of USER.")
@click.argument("user")
@json_option
def password(user: str, as_json: bool) -> None:
    """Ask for the password of USER, and print the line for [console.users] in the configuration."""
    written = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    try:
        text = PasswordHash.of(written).text()
    except PasswordUnusable as error:
        fail(str(error), CONFIGURATION, as_json)
    if as_json:
        print_json({"user": user, "hash": text})
    else:
        click.echo(f'"{printable(user)}" = "{text}"')


COMMANDS: tuple[click.Command, ...] = (console,)
