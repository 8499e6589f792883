"""The `s2sgw` command: send a request to the admin socket of the running gateway, or check its configuration.

A command is imported when it runs. Its exit status is described in docs/admin.md.
"""

from __future__ import annotations

import click

from s2sgw import __version__
from s2sgw.cli.lazy_group import CommandEntry, CommandSection, LazyGroup
from s2sgw.cli.output import ConfigPath, JSONForm, config_option, json_option

SECTIONS = (
    CommandSection("The gateway", (
        CommandEntry("status", "Show an overview of the gateway.", "look:status"),
        CommandEntry("streams", "List open streams.", "look:streams"),
        CommandEntry("lanes", "List delivery queues, and what blocks them.", "look:lanes"),
        CommandEntry("peers", "List the peers that we know or that were refused.", "look:peers"),
        CommandEntry("refusals", "List failed connections, and how to fix them.", "look:refusals"),
        CommandEntry("report", "Show the daily report.", "report:report"),
        CommandEntry("certs", "List the certificates of the local domains.", "look:certs"),
        CommandEntry("queue", "Show, hold, retry or drop waiting stanzas.", "queue:queue"),
        CommandEntry("cluster", "Show this node of a cluster.", "cluster:cluster"),
        CommandEntry("watch", "Show events while they happen.", "watch:watch"),
    )),
    CommandSection("Peers and trust", (
        CommandEntry("probe", "Try to federate with a domain, step by step.", "probe:probe"),
        CommandEntry("explain", "Explain the policy and the verdict for a peer.", "trust:explain"),
        CommandEntry("pending", "List certificates that wait for approval.", "trust:pending"),
        CommandEntry("pins", "Approve, revoke and list keys of peers.", "trust:pins"),
        CommandEntry("close", "Close all streams with a peer.", "control:close"),
        CommandEntry("deny", "Deny a peer, or undo that.", "control:deny"),
        CommandEntry("forget", "Forget what is remembered of a peer.", "control:forget"),
        CommandEntry("replay", "Test a new configuration on recent connections.", "trust:replay"),
    )),
    CommandSection("Configuration and service", (
        CommandEntry("check", "Check the configuration and certificates.", "check:check"),
        CommandEntry("config", "Show the value of every configuration key.", "config:config"),
        CommandEntry("schema", "Print the JSON Schema of the configuration.", "schema:schema"),
        CommandEntry("reload", "Reload the configuration.", "control:reload"),
        CommandEntry("console", "Log in to the console; make password hashes.", "console:console"),
        CommandEntry("log", "Show or change the level of the log.", "control:log"),
        CommandEntry("drain", "Stop the gateway gracefully.", "control:drain"),
        CommandEntry("run", "Run the gateway in the foreground.", "run:run"),
        CommandEntry("setup", "Print a configuration, units, or server settings.", "setup_commands:setup"),
        CommandEntry("version", "Show the version, also of the libraries.", "version:version_command"),
    )),
)  # fmt: skip


@click.group(cls=LazyGroup, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="s2sgw", message="%(prog)s %(version)s")
@config_option
@json_option
def main(config: ConfigPath, as_json: JSONForm) -> None:
    """Query or control a running s2sgw, or check its configuration.

    The options may stand before or after the command.

    \b
    Exit status:
      0  success
      1  negative answer (e.g. no entry for PEER, certificate missing or expired)
      2  usage or configuration error
      3  the gateway is not running
      4  not permitted, or no answer
    """
