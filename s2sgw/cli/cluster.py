"""`s2sgw cluster …`: this node of a cluster."""

from __future__ import annotations

import click

from s2sgw.cli import tables
from s2sgw.cli.output import ConfigPath, JSONForm, asked, config_option, json_option, show


@click.group()
def cluster() -> None:
    """Show a node of a cluster. Ask each node for its own homes."""


@cluster.command("status", short_help="Show this node, the others and the engine.")
@config_option
@json_option
def cluster_status(config: ConfigPath, as_json: JSONForm) -> None:
    """Show this node: the peers whose home it is, its lease, the other nodes, and the engine."""
    show(asked(config, as_json, "cluster status"), as_json, tables.cluster)
