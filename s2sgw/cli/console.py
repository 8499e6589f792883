"""`s2sgw console`: log in to the console of a running gateway, and make password hashes for its users."""

from __future__ import annotations

import click

from s2sgw.cli.output import ConfigPath, JSONForm, asked, config_option, fail, json_option, print_json
from s2sgw.reporting.printable import printable


@click.group()
def console() -> None:
    """Log in to the console, and make password hashes for its users."""


@console.command("token", short_help="Print a link that logs in once.")
@click.option("--user", default="operator", show_default=True, metavar="NAME", help="Name for the audit log.")
@click.option("--read-only", is_flag=True, help="Do not allow changes.")
@config_option
@json_option
def token(user: str, read_only: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Print a link that logs in to the console once, within 5 minutes."""
    answer = asked(config, as_json, "console token", user=user, role="read-only" if read_only else "operator")
    if as_json:
        print_json(answer, as_json)
    else:
        click.echo(printable(answer["address"] or f"/login?token={answer['token']}"))


@console.command("password", short_help="Hash the password of USER.")
@click.argument("user")
@json_option
def password(user: str, as_json: JSONForm) -> None:
    """Ask for the password of USER, and print the line for [console.users] in the configuration."""
    from s2sgw.config.password_hash import PasswordHash, PasswordUnusable

    written = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    try:
        text = PasswordHash.of(written).text()
    except PasswordUnusable as error:
        fail(str(error), "usage", as_json)
    if as_json:
        print_json({"user": user, "hash": text}, as_json)
    else:
        click.echo(f'"{printable(user)}" = "{text}"')

