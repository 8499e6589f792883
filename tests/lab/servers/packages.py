"""Install the servers that a run needs, and keep them from starting as services."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.lab.lab import LabError

#: Program that shows that a package is installed -> packages to install for it (Debian names).
PROGRAMS = {
    "/usr/bin/prosody": ("prosody", "lua-unbound"),
    "/usr/sbin/ejabberdctl": ("ejabberd",),
    "/usr/sbin/jabberd2-router": ("jabberd2",),
    "/usr/sbin/unbound": ("unbound",),
    "/usr/sbin/knotd": ("knot",),
    "/usr/sbin/debootstrap": ("debootstrap",),
}
_POLICY = Path("/usr/sbin/policy-rc.d")
_APT_SECONDS = 600


def missing(programs: Iterable[str] = PROGRAMS) -> list[str]:
    """Return the packages whose program is missing on this machine."""
    return [name for program in programs if not Path(program).exists() for name in PROGRAMS[program]]


def install() -> list[str]:
    """Install missing packages and return them. Raise `LabError` if that is not possible here."""
    wanted = missing()
    if not wanted:
        return []
    command = ["apt-get", "install", "-y", "--no-install-recommends", *wanted]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabError(f"missing: {', '.join(wanted)}. As root on Debian: {' '.join(command)}")
    with _NoServices():
        _apt(["apt-get", "update"])
        _apt(command)
    return wanted


def _apt(command: list[str]) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_APT_SECONDS, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


class _NoServices:
    """Keep Debian's maintainer scripts from starting services: policy-rc.d answers 101."""

    def __enter__(self) -> None:
        self._before = _POLICY.read_bytes() if _POLICY.exists() else None
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(self._before)
