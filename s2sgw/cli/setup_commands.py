"""`s2sgw setup …`: a configuration, systemd units, and the settings for the server behind the gateway."""

from __future__ import annotations

from pathlib import Path

import click

from s2sgw.cli import setup_files
from s2sgw.cli.output import ConfigPath, JSONForm, config_option, configuration_path, fail, json_option, print_json
from s2sgw.xmpp.jid import Domain, InvalidJID

#: Servers for which there are settings (`cli.setup.SERVERS`).
SERVERS = ("prosody", "ejabberd", "jabberd2", "openfire")


@click.group()
def setup() -> None:
    """Print a configuration for s2sgw, systemd units, the settings for your XMPP server, manual pages, or shell completion."""


@setup.command("config", short_help="Print a configuration file for s2sgw.")
@click.option(
    "--domain", "domains", multiple=True, required=True, metavar="DOMAIN",
    help="Domain of your server, e.g. example.org. Repeat the option for each domain.",
)
@click.option("--server", type=click.Choice(SERVERS), default="prosody", show_default=True, help="Software of your server.")
@click.option("--without-systemd", is_flag=True, help="The gateway opens its ports itself, e.g. in a container.")
def setup_config(domains: tuple[str, ...], server: str, without_systemd: bool) -> None:
    """Print a configuration file for your domains. Save it as /etc/s2sgw/s2sgw.toml."""
    try:
        names = [Domain.parse(domain).text for domain in domains]
    except InvalidJID as error:
        fail(str(error), "configuration", None)
    click.echo(setup_files.configuration(names, server, not without_systemd), nl=False)


@setup.command("man", short_help="Print a manual page.")
@click.option("--section", type=click.Choice(["1", "5"]), default="1", show_default=True, help="1: s2sgw(1). 5: s2sgw.toml(5).")
@click.pass_context
def setup_man(context: click.Context, section: str) -> None:
    """Print a manual page in roff.

    \b
    Examples:
      s2sgw setup man > /usr/local/share/man/man1/s2sgw.1
      s2sgw setup man --section 5 > /usr/local/share/man/man5/s2sgw.toml.5
    """
    from s2sgw.cli.manual import command_page, configuration_page

    root = context.find_root().command
    assert isinstance(root, click.Group)
    click.echo(command_page(root) if section == "1" else configuration_page(), nl=False)


@setup.command("completion", short_help="Print a completion script for your shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def setup_completion(context: click.Context, shell: str) -> None:
    """Print the script with which your shell completes commands, options, and the names of peers.

    \b
    Examples:
      s2sgw setup completion bash > /etc/bash_completion.d/s2sgw
      s2sgw setup completion zsh  > /usr/local/share/zsh/site-functions/_s2sgw
      s2sgw setup completion fish > /etc/fish/completions/s2sgw.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "s2sgw", "_S2SGW_COMPLETE").source())


@setup.command("systemd", short_help="Print or install the systemd units.")
@click.option("--program", metavar="FILE", help="Path of the s2sgw command for the unit (default: this command).")
@click.option("--install", is_flag=True, help="Write the files to their directories instead of printing them.")
@click.option("--node", is_flag=True, help="The unit for nodes of a cluster: s2sgw@a runs /etc/s2sgw/a.toml.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
def setup_systemd(program: str | None, install: bool, node: bool, root: Path) -> None:
    """Print or install the systemd units, the sockets and the system user for s2sgw."""
    texts = setup_files.systemd_files(program or setup_files.program(), node)
    if not install:
        click.echo("\n".join(texts.values()), nl=False)
        return
    try:
        for place in setup_files.install(texts, root):
            click.echo(f"written: {place}")
    except (OSError, setup_files.FileExists) as error:
        fail(str(error), "configuration", None)
    click.echo("Next: systemd-sysusers && systemctl daemon-reload")
    check, unit = ("s2sgw check --config /etc/s2sgw/a.toml", "s2sgw@a") if node else ("s2sgw check", "s2sgw")
    click.echo(f"Start it when it is configured: {check} && systemctl enable --now {unit}")


def _setup_server(server: str) -> click.Command:
    """Return the command that prints the lines for `server`."""

    @click.command(
        server, short_help=f"Print the settings for {server}.",
        help=f"Print the settings that put {server} behind this gateway. The private CA that {server} must trust is created.",
    )
    @click.option("--local", metavar="DOMAIN", help="A domain of the backend. Required if there are several backends.")
    @click.option(
        "--authority", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="Write the certificate of the CA to FILE too (mode 644), and name FILE in the lines.",
    )
    @config_option
    @json_option
    def command(
        local: str | None, authority: Path | None, config: ConfigPath, as_json: JSONForm, inetrc: bool = False,
    ) -> None:
        _print_lines(server, local, authority, inetrc, config, as_json)

    if server == "ejabberd":
        click.option("--inetrc", is_flag=True, help="Print the file inetrc instead: it names the DNS view.")(command)
    return command


def _print_lines(
    server: str, local: str | None, authority: Path | None, inetrc: bool, config: ConfigPath, as_json: JSONForm,
) -> None:
    from s2sgw.backend.private_ca import PrivateCA, PrivateCAError
    from s2sgw.cli.check import complain
    from s2sgw.cli.setup import SetupError, authority_file, inetrc_text, setup_text
    from s2sgw.config import ConfigError
    from s2sgw.runtime.preflight import check_configuration
    from s2sgw.storage.atomic_file import write_atomically

    authority = None if authority is None else authority.absolute()
    try:
        ready = check_configuration(configuration_path(config, as_json))
        domain = None if local is None else Domain.parse(local)
        text = inetrc_text(ready.config, domain) if inetrc else setup_text(server, ready.config, domain, authority)
        certificate = PrivateCA(ready.config.identity_folder, create=ready.config.cluster.shared is None).ca_pem
        if authority is not None:
            write_atomically(authority, certificate, 0o644)
            authority.chmod(0o644)
    except ConfigError as error:
        complain(error, as_json)
    except (SetupError, PrivateCAError, InvalidJID, OSError) as error:
        fail(str(error), "configuration", as_json)
    place = str(authority or authority_file(ready.config))
    if as_json:
        print_json({"server": server, "lines": text, "authority": place}, as_json)
    else:
        click.echo(text, nl=False)
        click.echo(f"The certificate of the CA that these lines trust is in {place}", err=True)


for _server in SERVERS:
    setup.add_command(_setup_server(_server))
