"""Asking a running gateway: the other end of the admin socket, for a command that asks once and ends."""

from __future__ import annotations

import json
import socket
import tomllib
from pathlib import Path
from typing import Any

from s2sgw.admin.server import ANSWER_BYTES, ANSWER_SECONDS, SOCKET

#: Seconds to connect to a socket on this machine.
CONNECT_SECONDS = 5
_CHUNK = 65536


class RequestFailed(Exception):
    """The question could not be put; `status` is the exit status that says why."""

    status = 2


class NotRunning(RequestFailed):
    """No gateway answers for this configuration."""

    status = 3


class RequestRefused(RequestFailed):
    """The gateway's own no."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.status = 2 if kind == "usage" else 1


def socket_path(config: Path) -> Path:
    """Where the gateway of `config` listens; raises `RequestFailed`.

    Only `[gateway].state` is read, so that a running gateway can be asked while its file is being edited.
    """
    try:
        with config.open("rb") as file:
            tree = tomllib.load(file)
    except OSError as error:
        raise RequestFailed(f"{config} cannot be read: {error.strerror}; name another by --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestFailed(f"{config} is not valid TOML: {error}") from None
    section = tree.get("gateway", {})
    state = section.get("state", "state") if isinstance(section, dict) else None
    if not isinstance(state, str):
        raise RequestFailed(f"{config}: gateway.state must be a path")
    return config.absolute().parent / state / SOCKET


def ask(path: Path, verb: str, arguments: dict[str, Any]) -> Any:
    """The result of `verb`; raises `RequestFailed`, `NotRunning` or `RequestRefused`."""
    request = json.dumps({"verb": verb, "args": arguments}).encode("ascii") + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(str(path))
            connection.settimeout(ANSWER_SECONDS + CONNECT_SECONDS)
            connection.sendall(request)
            line = _read_line(connection)
    except PermissionError:
        raise RequestFailed(f"{path}: permission denied; ask as the gateway's user or as root") from None
    except TimeoutError:
        raise RequestFailed(f"{path}: the gateway does not answer") from None
    except OSError as error:
        raise NotRunning(f"no gateway is running here ({path}: {error.strerror or error})") from None
    return _result(line)


def _read_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        data = connection.recv(_CHUNK)
        if not data or len(line) > ANSWER_BYTES:
            raise NotRunning("the gateway went away before it answered")
        line += data
    return bytes(line)


def _result(line: bytes) -> Any:
    answer = json.loads(line)
    if not answer["ok"]:
        raise RequestRefused(answer["error"], answer["kind"])
    return answer["result"]
