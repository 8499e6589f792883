"""`s2sgw schema`: JSON Schema for editors and programs, from the package."""

from __future__ import annotations

from importlib.resources import files

import click

#: Files in `cli/data/`. tests/unit/cli/test_schema.py says how to make them anew.
CONFIGURATION, RESPONSES = "s2sgw.schema.json", "responses.schema.json"


@click.command()
@click.option("--responses", is_flag=True, help="Print the schema of what the commands print with --json.")
def schema(responses: bool) -> None:
    """Print the JSON Schema of the configuration file, for an editor or a checker.

    \b
    Example for editors that use taplo (first line of s2sgw.toml):
      #:schema ./s2sgw.schema.json
    """
    name = RESPONSES if responses else CONFIGURATION
    click.echo(files("s2sgw.cli").joinpath("data", name).read_text("utf-8"), nl=False)
