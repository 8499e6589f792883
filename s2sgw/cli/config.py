"""`s2sgw config`: the values of all keys, or those that differ from the default."""

from __future__ import annotations

import click

from s2sgw.cli import tables
from s2sgw.cli.check import complain
from s2sgw.cli.output import ConfigPath, JSONForm, config_option, configuration_path, json_option, show
from s2sgw.config import ConfigError, load
from s2sgw.config.effective import effective_settings


@click.command()
@click.option("--changed", is_flag=True, help="Only the keys whose value differs from the default.")
@config_option
@json_option
def config(changed: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Show the value of every key of the configuration file, and the line that sets it.

    For peers only what the file contains is shown; `s2sgw explain PEER` shows the rest.
    """
    try:
        found = load(configuration_path(config, as_json))
    except ConfigError as error:
        complain(error, as_json)
    text = found.path.read_text("utf-8-sig")
    rows = [each._asdict() for each in effective_settings(found, text) if not changed or not each.default]
    show({"config": str(found.path), "keys": rows}, as_json, tables.settings)
