"""`s2sgw probe DOMAIN`: tries federation with a peer step by step, and shows each step as it is done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2sgw.admin.client import RequestFailed, ask, socket_path
from s2sgw.cli.output import NO, ConfigPath, JSONForm, config_option, fail, json_option, print_json, this_screen
from s2sgw.cli.text_table import hanging
from s2sgw.reporting.printable import printable
from s2sgw.runtime.configuration_file import NoConfiguration, find_configuration
from s2sgw.xmpp.jid import Domain, InvalidJID

if TYPE_CHECKING:
    from s2sgw.config import Config
    from s2sgw.peerdb.keys import KnownKeys
    from s2sgw.runtime.probe_report import ProbeReport, ProbeStep

#: Characters of a step's detail on the terminal.
DETAIL_CHARACTERS = 600
_WORDS = {True: "ok", False: "FAILED", None: "-"}


@click.command()
@click.argument("domain")
@click.option("--local", metavar="DOMAIN", help="The local domain that asks (default: the first one).")
@click.option("--inbound", is_flag=True, help="Also judge DOMAIN as if it opened the stream, with the same certificate.")
@config_option
@json_option
def probe(domain: str, local: str | None, inbound: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Try to federate with DOMAIN step by step. For each failure, say how to fix it and which side must fix it.

    No gateway has to run. Without a configuration the probe does not authenticate, and judges by the default policy.
    Exit status 0 if the two federate, 1 if not.
    """
    peer, asking = _domain(domain, as_json), None if local is None else _domain(local, as_json)
    found, known = _configuration(config, as_json)
    if asking is not None and known and asking not in found.gateway.domains:
        fail(f"{asking} is not a local domain", "configuration", as_json)
    from s2sgw.cli.reactor_call import call_on_reactor
    from s2sgw.composition.probe import offline_probes

    printer = ProbePrinter(as_json)
    speaks_for = asking or found.gateway.domains[0]
    printer.begin(peer, speaks_for, known)

    async def run(reactor: Any) -> ProbeReport:
        builder = offline_probes(found, reactor, known, _remembered_keys(found.path, peer) if known else None)
        return await builder.probe(speaks_for, peer, printer.step).run(inbound)

    report = call_on_reactor(run)
    printer.end(report)
    sys.exit(0 if report.federates else NO)


def _domain(text: str, as_json: JSONForm) -> Domain:
    try:
        return Domain.parse(text)
    except InvalidJID as error:
        fail(f"{text}: {error}", "configuration", as_json)


def _configuration(config: ConfigPath, as_json: JSONForm) -> tuple[Config, bool]:
    """Return the configuration, and whether there is one. A file with errors ends the command."""
    from s2sgw.composition.probe import NOBODY, without_configuration
    from s2sgw.config import ConfigError, load
    from s2sgw.net.dns_upstream import system_servers

    try:
        path = config or find_configuration()
    except NoConfiguration:
        return without_configuration(NOBODY), False
    if not path.exists():
        return without_configuration(NOBODY), False
    try:
        return load(path, system_nameservers=system_servers()), True
    except ConfigError as error:
        fail(str(error), "configuration", as_json)


def _remembered_keys(config: Path, peer: Domain) -> KnownKeys | None:
    """Return the keys of the peer that the running gateway remembers. None: no gateway runs."""
    from s2sgw.peerdb.keys import KnownKeys
    from s2sgw.trust.pins import Fingerprint

    try:
        rows = ask(socket_path(config), "pins list", {"peer": peer.ascii})
    except RequestFailed:
        return None
    sets: dict[str, set[Fingerprint]] = {"operator": set(), "first-use": set(), "revoked": set()}
    for row in rows:
        place = "revoked" if row["revoked"] else row["origin"]
        if place in sets and (row["counts"] or row["revoked"]):
            sets[place].add(Fingerprint.parse(row["key"]))
    return KnownKeys(frozenset(sets["operator"]), frozenset(sets["first-use"]), frozenset(sets["revoked"]))


class ProbePrinter:
    """Prints the steps as a tree while they are done, or all of them at the end as JSON."""

    def __init__(self, as_json: JSONForm) -> None:
        self._as_json = as_json
        self._target = ""

    def begin(self, peer: Domain, local: Domain, known: bool) -> None:
        """Print the head."""
        if not self._as_json:
            whom = f"for {local}" if known else "without a configuration"
            click.echo(f"{printable(peer.text)}, probed {printable(whom)}")

    def step(self, step: ProbeStep) -> None:
        """Print a step."""
        if self._as_json:
            return
        screen = this_screen()
        if step.target != self._target:
            self._target = step.target
            if step.target:
                click.echo(f"├─ {printable(step.target)}")
        indent, margin = ("│  ├─ ", "│  │    ") if step.target else ("├─ ", "│    ")
        took = f"{step.seconds * 1000:.0f} ms" if step.seconds >= 0.0005 else ""
        head = f"{indent}{step.step:<12}{_WORDS[step.ok]:<7}{took:>8}  "
        click.echo(hanging(head, printable(step.detail, DETAIL_CHARACTERS), margin, screen))
        if step.remedy:
            click.echo(hanging(f"{margin}to fix ({step.whose}): ", printable(step.remedy), margin, screen))

    def end(self, report: ProbeReport) -> None:
        """Print the verdict."""
        if self._as_json:
            print_json(report.row(), self._as_json)
        else:
            click.echo(f"└─ {report.verdict}")
