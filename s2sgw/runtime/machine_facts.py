"""Facts about this machine: the clock, the state directory, the room on the disk."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from pathlib import Path
from typing import Literal

#: The check, its object, the result (None: it could not be told), what was seen, and the remedy.
Fact = tuple[Literal["clock", "state", "disk"], str, bool | None, str, str]

#: Bytes that must stay free beside the spool.
LEAST_FREE = 64 * 1024 * 1024
#: ntp_adjtime(2): the clock is not synchronised.
_TIME_ERROR = 5


def clock_fact() -> Fact:
    """Return whether the clock is synchronised."""
    synchronised = clock_is_synchronised()
    if synchronised is None:
        return "clock", "system", None, "cannot be asked", ""
    if synchronised:
        return "clock", "system", True, "is synchronised", ""
    return "clock", "system", None, "is not synchronised", "Run an NTP client (systemd-timesyncd, chrony)."


def clock_is_synchronised() -> bool | None:
    """Return whether the kernel's clock is synchronised; None if the kernel cannot be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).ntp_adjtime(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def state_fact(state: Path) -> Fact:
    """Return whether the state directory exists, is private, and is writable."""
    try:
        found = state.stat()
    except OSError as error:
        words = f"{error.strerror}; the gateway makes it at its first start" if not state.exists() else str(error.strerror)
        return "state", str(state), None, words, ""
    if not stat.S_ISDIR(found.st_mode):
        return "state", str(state), False, "is no directory", "Name another path in gateway.state."
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return "state", str(state), False, f"has mode {stat.S_IMODE(found.st_mode):04o}", f"chmod 700 {state}"
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        return "state", str(state), None, "belongs to another user; run this as the gateway's", ""
    return "state", str(state), True, "is private", ""


def disk_fact(state: Path, disk: int) -> Fact:
    """Return whether the disk has room for the rest of the spool up to its limit."""
    folder = next((each for each in (state, *state.parents) if each.exists()), Path("/"))
    try:
        free, used = shutil.disk_usage(folder).free, sum(file.stat().st_size for file in folder.glob("spool.db*"))
    except OSError as error:
        return "disk", str(folder), None, str(error.strerror or error), ""
    more = max(0, disk - used)
    detail = f"{free >> 20} MiB free; the spool may take {more >> 20} MiB more"
    if free >= more + LEAST_FREE:
        return "disk", str(folder), True, detail, ""
    return "disk", str(folder), False if free < LEAST_FREE else None, detail, "Make room on the disk, or lower queue.disk."
