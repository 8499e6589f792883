"""Files of the configuration that the gateway's own user cannot read, and a folder of the admin socket that is closed to it.

Root can read all, so a check by root asks as that user.

The gateway's user is the owner of the state directory.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from s2sgw.config import Config
from s2sgw.config.cross_checks import certificate_files, socket_folder
from s2sgw.runtime.own_certificates import files_of

#: The group of a user without an account (nogroup).
_NO_GROUP = 65534


class OwnerFaults(NamedTuple):
    """Faults in the rights of the gateway's user. With an error the gateway does not start.

    The configuration itself is a warning: it may be a draft that is not in its place yet.
    """

    errors: list[str]
    warnings: list[str]


def faults_of_owner(config: Config) -> OwnerFaults:
    """Return the files that the gateway's user cannot read, and a folder in which it cannot make its socket.

    Not for a process with threads. There is none if another user than root asks, while there is no state directory, if root owns
    it, or if root may not act as another user (a container).
    """
    nothing = OwnerFaults([], [])
    try:
        owner = config.gateway.state.stat().st_uid
    except OSError:
        return nothing
    if os.geteuid() or not owner:
        return nothing
    name, group, groups = _account(owner)
    files, folder = dict.fromkeys(_files(config)), socket_folder(config.gateway, config.admin)
    try:
        with _acting_as(owner, group, groups):
            unreadable = [file for file in files if not _readable(file)]
            draft = [] if _readable(config.path) else [config.path]
            closed = [] if folder is None or os.access(folder, os.W_OK | os.X_OK, effective_ids=True) else [folder]
    except OSError:  # EPERM, or EINVAL for a user that a user namespace does not have
        return nothing
    user = f"the gateway's user {name} (the owner of {config.gateway.state})"
    errors = [f"{file}: {user} cannot read it" for file in unreadable]
    errors += [f"{each}: {user} cannot make the admin socket there" for each in closed]
    return OwnerFaults(errors, [f"{file}: {user} cannot read it, and must before the gateway starts with it" for file in draft])


def _readable(file: Path) -> bool:
    return os.access(file, os.R_OK, effective_ids=True)


@contextmanager
def as_owner(state: Path) -> Iterator[None]:
    """Act as the gateway's user for a moment, if root asks and may. Not for a process with threads."""
    with ExitStack() as stack:
        try:
            owner = state.stat().st_uid
            if not os.geteuid() and owner:
                _, group, groups = _account(owner)
                stack.enter_context(_acting_as(owner, group, groups))
        except OSError:  # there is no state directory yet, or a container does not allow it
            pass
        yield


def _account(number: int) -> tuple[str, int, list[int]]:
    """Return the name, the group and all groups of a user."""
    try:
        account = pwd.getpwuid(number)
    except KeyError:
        return str(number), _NO_GROUP, []
    return account.pw_name, account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)


@contextmanager
def _acting_as(user: int, group: int, groups: Sequence[int]) -> Iterator[None]:
    """Have the rights of another user for a moment. Only root can."""
    before = os.getegid(), os.getgroups()
    try:
        os.setgroups(groups)
        os.setegid(group)
        os.seteuid(user)
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[0])
        os.setgroups(before[1])


def _files(config: Config) -> Iterator[Path]:
    """Yield the files and directories that the configuration names, which the gateway reads."""
    yield from (config.tls.certificates, *files_of(config.tls.certificates))
    for name in (config.console.certificate, *(peer.certificate for peer in config.peers.values())):
        if name is not None:
            yield from certificate_files(name)
    anchors = (config.tls.trust_anchors, *(peer.trust_anchors for peer in config.peers.values()))
    secrets = (*(each.secret_file for each in config.backends), *(peer.secret_file for peer in config.peers.values()))
    lists = (*(peer.crl for peer in config.peers.values()), *config.policy.deny_lists)
    yield from (each for each in (*anchors, *secrets, *lists) if isinstance(each, Path))
