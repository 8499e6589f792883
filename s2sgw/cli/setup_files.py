"""The files of `s2sgw setup config` and `s2sgw setup systemd`, made from the templates in `cli/data/`. They work together."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath

#: The files that `setup systemd --install` writes: template -> (path, mode).
SYSTEMD_FILES = {
    "s2sgw.service": ("/etc/systemd/system/s2sgw.service", 0o644),
    "s2sgw.socket": ("/etc/systemd/system/s2sgw.socket", 0o644),
    "s2sgw-direct.socket": ("/etc/systemd/system/s2sgw-direct.socket", 0o644),
    "sysusers.conf": ("/etc/sysusers.d/s2sgw.conf", 0o644),
}
#: The same with `--node`. Nodes of a cluster open their ports themselves.
NODE_FILES = {"s2sgw@.service": ("/etc/systemd/system/s2sgw@.service", 0o644), "sysusers.conf": SYSTEMD_FILES["sysusers.conf"]}
#: Servers that find the gateway by the DNS view. The others are configured differently.
_BY_VIEW = ("prosody", "ejabberd", "jabberd2")
_TITLES = {"prosody": "Prosody", "ejabberd": "ejabberd", "jabberd2": "jabberd2", "openfire": "Openfire"}


class FileExists(Exception):
    """A file to be written exists with a different content."""


def configuration(domains: Sequence[str], server: str, systemd: bool = True) -> str:
    """Return an `s2sgw.toml` for `domains` in front of `server`.

    With `systemd` it works with the files of `systemd_files`. Without, the gateway opens its ports itself.
    """
    view = 'dns_view = "127.53.0.1:53"              # the resolver for your server; it answers with s2sgw for every other domain'
    text = _template("s2sgw.toml").replace("@SERVER@", _TITLES[server])
    text = text.replace("@DOMAINS@", ", ".join(json.dumps(domain, ensure_ascii=False) for domain in domains))
    if not systemd:
        text = re.sub(r'endpoint = "systemd:.*Without systemd: ("tcp:\d+")', r"endpoint = \1", text)
    return text.replace("@VIEW@\n", f"{view}\n" if server in _BY_VIEW else "")


def systemd_files(program: str, node: bool = False) -> dict[str, str]:
    """Return path -> text of the units, the sockets and the user. `program` is the absolute path of the `s2sgw` command.

    `node`: the unit of the nodes of a cluster, instead of that of a gateway and its sockets.
    """
    chosen = NODE_FILES if node else SYSTEMD_FILES
    return {path: _template(name).replace("@PROGRAM@", program) for name, (path, _mode) in chosen.items()}


def install(texts: dict[str, str], root: Path) -> list[Path]:
    """Write `texts` below `root` and return the written paths. Raises `FileExists` before anything is written."""
    places = {path: root / PurePosixPath(path).relative_to("/") for path in texts}
    differing = [str(place) for path, place in places.items() if place.exists() and place.read_text("utf-8") != texts[path]]
    if differing:
        raise FileExists(f"{', '.join(differing)}: exists already and differs; move it away first")
    for path, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(texts[path], "utf-8")
        place.chmod(next(mode for known, mode in (SYSTEMD_FILES | NODE_FILES).values() if known == path))
    return list(places.values())


def program() -> str:
    """Return the absolute path of this command for a unit. Symbolic links are kept."""
    name = sys.argv[0]
    found = shutil.which(name) if os.sep not in name else name
    return os.path.abspath(found or name)


def _template(name: str) -> str:
    return files("s2sgw.cli").joinpath("data", name).read_text("utf-8")
