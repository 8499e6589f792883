"""The manual pages: s2sgw(1) from the help texts of the commands, s2sgw.toml(5) from the schema of the configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import click

from s2sgw import __version__
from s2sgw.cli.schema import CONFIGURATION

_EXIT_STATUS = (
    ("0", "Success."), ("1", "Negative answer, e.g. no entry for PEER, or a certificate is missing or expired."),
    ("2", "Usage or configuration error."), ("3", "The gateway is not running."), ("4", "Not permitted, or no answer."),
)
_FILES = (
    ("./s2sgw.toml, /etc/s2sgw/s2sgw.toml", "The configuration, see s2sgw.toml(5)."),
    ("/run/s2sgw/admin.sock", "The admin socket of the service. Without [admin] socket: admin.sock in the state directory."),
)


def command_page(root: click.Group) -> str:
    """Return s2sgw(1) in roff."""
    context = click.Context(root, info_name="s2sgw")
    parts = [
        _head("S2SGW", 1), ".SH NAME", r"s2sgw \- XMPP federation gateway", ".SH SYNOPSIS", r".B s2sgw",
        r"[\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGS\fR]", ".SH DESCRIPTION", *_paragraphs(root.help or ""),
        ".SH OPTIONS", *_options(root, context), ".SH COMMANDS",
        *(line for name in root.list_commands(context) for line in _command(root, context, (name,))),
        ".SH EXIT STATUS", *(line for term, text in _EXIT_STATUS for line in _item(term, text)),
        ".SH ENVIRONMENT", *_item("S2SGW_CONFIG", "Path of the configuration."),
        *_item("NO_COLOR", "If set, tables have no bold heads."),
        ".SH FILES", *(line for term, text in _FILES for line in _item(term, text)),
        ".SH SEE ALSO", ".BR s2sgw.toml (5)",
    ]
    return "\n".join(parts) + "\n"


def configuration_page() -> str:
    """Return s2sgw.toml(5) in roff."""
    schema = json.loads(files("s2sgw.cli").joinpath("data", CONFIGURATION).read_text("utf-8"))
    definitions = {"listen": "Listener", "backend": "Backend", "peers": "PeerObject"}
    headings = {"listen": "[[listen]]", "backend": "[backend] or [[backend]]", "peers": '[peers.default], [peers."NAME"]'}
    parts = [
        _head("S2SGW.TOML", 5), ".SH NAME", r"s2sgw.toml \- configuration of the XMPP federation gateway s2sgw",
        ".SH DESCRIPTION",
        *_paragraphs("A TOML file. Relative paths start at its folder. s2sgw check reports all errors in it."),
    ]
    for section, found in schema["properties"].items():
        table = schema["$defs"][definitions[section]] if section in definitions else found
        parts.append(f".SH {_text(headings.get(section, f'[{section}]'))}")
        for key, about in table.get("properties", {}).items():
            parts += _item(key, _key_text(about))
    return "\n".join([*parts, ".SH SEE ALSO", ".BR s2sgw (1)"]) + "\n"


def _key_text(about: Mapping[str, Any]) -> str:
    default = f" Default: {json.dumps(about['default'], ensure_ascii=False)}." if "default" in about else ""
    return f"{about.get('description', '')}{default}".strip() or "See docs/configuration.md."


def _command(group: click.Group, parent: click.Context, words: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines about a command, or about the commands of a group."""
    command = group.get_command(parent, words[-1])
    if command is None or command.hidden:
        return
    context = click.Context(command, info_name=words[-1], parent=parent)
    arguments = " ".join(each.make_metavar(context) for each in command.params if isinstance(each, click.Argument))
    yield f".SS s2sgw {_text(' '.join((*words, arguments)).strip())}"
    yield from _paragraphs(command.help or "")
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _command(command, context, (*words, name))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for each in command.get_params(context):
        record = each.get_help_record(context) if isinstance(each, click.Option) else None
        general = context.parent is not None and (each.name in ("config", "as_json") or "--help" in each.opts)
        if record is not None and not general:
            yield from _item(*record)


def _paragraphs(help_text: str) -> Iterator[str]:
    for paragraph in help_text.split("\n\n"):
        lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
        if lines and lines[0] == "\b":
            yield ".PP\n.nf"
            yield from map(_text, paragraph.strip("\n\b").splitlines())
            yield ".fi"
        elif lines:
            yield f".PP\n{_text(' '.join(lines))}"


def _item(term: str, text: str) -> list[str]:
    return [".TP", rf"\fB{_text(term)}\fR", _text(text)]


def _text(text: str) -> str:
    """Return text in which roff finds no command."""
    escaped = re.sub(r"\s+", " ", text).strip().replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _head(title: str, section: int) -> str:
    return f'.TH {title} {section} "" "s2sgw {__version__}" "s2sgw"'
