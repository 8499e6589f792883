"""Debian 13's servers on Debian 12. They are unpacked into a folder, and each is started in a mount namespace with that root.

No maintainer script runs, so no service starts. The folder is kept between runs (`S2SGW_DEBIAN_13`, /var/cache/s2sgw-lab/debian-13).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.lab.lab import LabError

ROOT = Path(os.environ.get("S2SGW_DEBIAN_13", "/var/cache/s2sgw-lab/debian-13"))
#: Prosody 13 does not start without lua-sec.
PACKAGES = ("prosody", "lua-unbound", "lua-sec", "lua-event", "ejabberd")
#: Present once everything is unpacked.
_COMPLETE = ROOT / ".complete"
_SECONDS = 900
_ENTER = """\
mount --make-rprivate / && mount --rbind /dev "$ROOT/dev" && mount --rbind /proc "$ROOT/proc" &&
mount --bind "$HOSTS" "$ROOT/etc/hosts" && mount --bind /tmp "$ROOT/tmp" && exec chroot "$ROOT" "$@"
"""


def unavailable() -> str:
    """Return why these servers are not available here, or ""."""
    if os.geteuid() != 0:
        return "Debian 13's servers need root (a mount namespace with a root of its own)"
    if shutil.which("debootstrap") is None:
        return "Debian 13's servers need the package debootstrap"
    return ""


def unpack() -> Path:
    """Download Debian 13's packages and unpack them, once; return their root. Raise `LabError` if that fails."""
    reason = unavailable()
    if reason:
        raise LabError(reason)
    ROOT.parent.mkdir(parents=True, exist_ok=True)
    with (ROOT.parent / "debian-13.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _COMPLETE.exists():
            shutil.rmtree(ROOT, ignore_errors=True)
            _run("debootstrap", "--foreign", "--variant=minbase", f"--include={','.join(PACKAGES)}", "trixie", str(ROOT), *_mirror())
            for package in sorted((ROOT / "var/cache/apt/archives").glob("*.deb")):
                _run("dpkg-deb", "-x", str(package), str(ROOT))
            (ROOT / "etc/hosts").touch()
            _COMPLETE.touch()
    return ROOT


def inside(command: list[str], hosts: Path = Path("/etc/hosts")) -> list[str]:
    """Return `command` so that it starts below `unpack()`. The process becomes the program, and is stopped by its own pid."""
    root = unpack()
    return ["env", f"ROOT={root}", f"HOSTS={hosts}", "unshare", "--mount", "sh", "-c", _ENTER, "sh", *command]


def _mirror() -> list[str]:
    """Return the mirror that apt uses, if its sources name one."""
    for source in sorted(Path("/etc/apt").glob("sources.list*")) + sorted(Path("/etc/apt/sources.list.d").glob("debian*")):
        if source.is_file():
            for word in source.read_text(errors="replace").split():
                if word.startswith(("http://", "https://")) and word.rstrip("/").endswith("/debian"):
                    return [word]
    return []


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
