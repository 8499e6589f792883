"""The caller on an admin connection without a kernel."""

from __future__ import annotations

import os

from s2sgw.admin.permissions import Caller


def operator(_transport: object) -> Caller:
    """Return the gateway's own user."""
    return Caller(os.getpid(), os.geteuid(), os.getegid())


def member(_transport: object) -> Caller:
    """Return a user who is only a member of the group."""
    return Caller(1, 65534, 65534)
