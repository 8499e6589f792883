"""Templates of the console, and the display form of values.

Everything that a template prints is escaped for HTML by Jinja, and freed of control and bidi characters by `printable`, because
strangers chose the names, reasons and certificates.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from s2sgw.reporting.printable import printable
from s2sgw.xmpp.jid import Domain, InvalidJID

FOLDER = Path(__file__).parent
#: Characters of one text that are shown.
SHOWN = 1000
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


class SeveralLines(str):
    """A text of several lines, each of them printable already."""

    __slots__ = ()


@cache
def environment() -> Environment:
    """Return the environment of all consoles, with every template compiled in advance: compiling takes too long for a page."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=shown, auto_reload=False,
    )
    made.filters.update(
        duration=duration, moment=moment, day=day, size=size, peer_path=peer_path, several_lines=several_lines, plural=plural,
        setting=setting, certificate_name=certificate_name,
    )
    for name in made.list_templates():
        made.get_template(name)
    return made


def shown(value: Any) -> Any:
    """Return the text that a template prints for a value."""
    return printable(value, SHOWN) if type(value) is str else value


def several_lines(text: str) -> SeveralLines:
    """Return a text that keeps its lines."""
    return SeveralLines("\n".join(printable(line, SHOWN) for line in text.split("\n")[:200]))


def duration(seconds: float | None) -> str:
    """Return seconds in the largest unit that they fill, such as "3 h"."""
    if seconds is None:
        return "–"
    for unit, name in _UNITS:
        if abs(seconds) >= unit:
            return f"{seconds / unit:.0f} {name}"
    return "0 s"


def moment(at: float | None) -> str:
    """Return a time to the minute, in UTC."""
    return "–" if at is None else f"{_date(at):%Y-%m-%d %H:%M}"


def day(at: float | None) -> str:
    """Return a date in UTC."""
    return "–" if at is None else f"{_date(at):%Y-%m-%d}"


def _date(at: float) -> datetime:
    """Return a date. Times beyond the calendar become its last day."""
    return datetime.fromtimestamp(max(0.0, min(at, 253402300799.0)), UTC)


def size(number: float) -> str:
    """Return bytes, such as "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def plural(number: int, word: str) -> str:
    """Return "1 message" or "2 messages"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def peer_path(name: str) -> str:
    """Return the path of a peer's page; "" if the name is no domain (strangers may claim any name)."""
    try:
        return f"/peers/{quote(Domain.parse(name).ascii, safe='')}"
    except (InvalidJID, ValueError):
        return ""


def setting(value: Any) -> str:
    """Return the value of a key in the configuration's form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(setting, value)) or "none"
    return "none" if value is None else _written(value) if isinstance(value, float) else str(value)


def _written(seconds: float) -> str:
    """Return a duration in the configuration's form, such as "2h"."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds * 1000:g}ms"


def certificate_name(name: str) -> tuple[str, str]:
    """Return a name of a certificate ("dNSName example.org") and what kind it is, in words; "" for the usual kind."""
    kind, _, text = name.partition(" ")
    return text, {"dNSName": "", "xmppAddr": "XMPP address", "SRV-ID": "SRV name"}.get(kind, kind)
