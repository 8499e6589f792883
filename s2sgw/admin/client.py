"""The client of the admin socket, for a command that sends one request and ends."""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s2sgw.admin.protocol import ANSWER_BYTES, ANSWER_SECONDS, SOCKET
from s2sgw.policy.peer_pieces import cut

#: Seconds to connect to a socket on this machine.
CONNECT_SECONDS = 5
#: The socket of the service that `s2sgw setup systemd` installs.
SERVICE_SOCKET = Path("/run/s2sgw/admin.sock")
_CHUNK = 65536


class RequestFailed(Exception):
    """There is no result. `kind`: an `ErrorKind` of the gateway, or "configuration", "not-running" or "no-answer"."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


def socket_path(config: Path) -> Path:
    """Return the path of the admin socket that `config` names: `[admin].socket`, or else `admin.sock` in `[gateway].state`.

    Nothing else of the file is read, so it may be edited while the gateway runs. Raises `RequestFailed`.
    """
    try:
        text = config.read_text("utf-8-sig")
        rest, _ = cut(text)  # reading very many peers would take seconds
        try:
            tree = tomllib.loads(rest)
        except tomllib.TOMLDecodeError:
            tree = _read_in_part(text)
    except OSError as error:
        raise RequestFailed(f"{config} cannot be read: {error.strerror}; name another by --config", "configuration") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestFailed(f"{config} is not valid TOML: {error}", "configuration") from None
    named, state = _path(config, tree, "admin", "socket"), _path(config, tree, "gateway", "state")
    return config.absolute().parent / (named or Path(state or "state") / SOCKET)


def _read_in_part(text: str) -> dict[str, Any]:
    """Return the tables `[admin]` and `[gateway]` of a text that is no TOML elsewhere. Raises the error of the whole text."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        wanted = [table for table in re.split(r"(?m)^(?=[ \t]*\[)", text) if re.match(r"[ \t]*\[(admin|gateway)\]", table)]
        try:
            tree = tomllib.loads("\n".join(wanted))
        except tomllib.TOMLDecodeError:
            raise error from None
        if "gateway" not in tree:
            raise
        return tree


def _path(config: Path, tree: dict[str, Any], section: str, key: str) -> str | None:
    table = tree.get(section, {})
    value = table.get(key) if isinstance(table, dict) else ()
    if not isinstance(value, str | None):
        raise RequestFailed(f"{config}: {section}.{key} must be a path", "configuration")
    return value


def default_socket() -> Path | None:
    """Return the socket of the installed service, if there is one."""
    try:
        return SERVICE_SOCKET if SERVICE_SOCKET.exists() else None
    except PermissionError:
        return None


def ask(path: Path, verb: str, arguments: dict[str, Any], seconds: float = ANSWER_SECONDS + CONNECT_SECONDS) -> Any:
    """Return the result of `verb`. Raises `RequestFailed`, also if there is no result after `seconds`."""
    with _connected(path, verb, arguments, seconds) as connection:
        return _result(_lines(connection))


def follow(path: Path, verb: str, arguments: dict[str, Any]) -> Iterator[Any]:
    """Yield the results of `verb`, one for each line of its response, until the gateway ends it. Raises `RequestFailed`."""
    with _connected(path, verb, arguments, None) as connection:
        lines = _lines(connection)
        while True:
            yield _result(lines)


@contextmanager
def _connected(path: Path, verb: str, arguments: dict[str, Any], seconds: float | None) -> Iterator[socket.socket]:
    """Yield a connection on which the request is sent. `seconds`: for each read; None: no limit."""
    request = json.dumps({"verb": verb, "args": arguments}).encode("ascii") + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(os.fspath(path))
            connection.settimeout(seconds)
            connection.sendall(request)
            yield connection
    except PermissionError:
        text = f"{path}: permission denied. Ask as root, as the gateway's user, or as a member of the group admin.group"
        raise RequestFailed(text, "denied") from None
    except TimeoutError:
        raise RequestFailed(f"{path}: the gateway does not answer", "no-answer") from None
    except OSError as error:
        raise RequestFailed(f"no gateway is running here ({path}: {error.strerror or error})", "not-running") from None


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Yield the lines that arrive. Raises `RequestFailed` when the gateway closes the connection."""
    line = bytearray()
    while True:
        data = connection.recv(_CHUNK)
        if not data or len(line) > ANSWER_BYTES:
            raise RequestFailed("the gateway closed the connection without an answer", "not-running")
        *whole, rest = data.split(b"\n")
        for part in whole:
            line += part
            yield bytes(line)
            line.clear()
        line += rest


def _result(lines: Iterator[bytes]) -> Any:
    answer = json.loads(next(lines))
    if not answer["ok"]:
        raise RequestFailed(answer["error"], answer["kind"])
    return answer["result"]
