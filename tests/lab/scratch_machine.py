"""A scratch machine: systemd with this machine's programs and files. Nothing that it writes, runs or sends touches this machine.

Its root is an overlay of this machine's root, in memory. Processes, mounts, network, hostname and control groups are namespaces of its own.
Its only network is its loopback. It needs root, systemd, `unshare`, `nsenter` and `ip`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.lab.lab import LabError

_TOOLS = ("unshare", "nsenter", "ip", "/lib/systemd/systemd")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds for systemd to start, and for one command.
_BOOT_SECONDS, _RUN_SECONDS = 60.0, 300.0
#: Units that a machine without hardware does not need.
_MASKED = (
    "systemd-networkd", "systemd-resolved", "systemd-udevd", "systemd-timesyncd", "systemd-logind", "console-getty",
    "systemd-udev-trigger", "systemd-modules-load", "systemd-sysctl", "ifupdown-pre", "networking",
)
_BOOT = """\
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir -p "$1/upper/etc/systemd/system" "$1/work" "$1/root"
for unit in $2; do ln -s /dev/null "$1/upper/etc/systemd/system/$unit.service"; done
echo scratch > "$1/upper/etc/hostname"
echo 0123456789abcdef0123456789abcdef > "$1/upper/etc/machine-id"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
touch dev/console "$1/console"
mount --bind "$1/console" dev/console
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
ip link set lo up
mkdir run/old
pivot_root . run/old
cd /
umount --lazy /run/old
rmdir /run/old
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target
"""


def missing() -> str:
    """Return what a scratch machine needs and this machine lacks, or ""."""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None)


class ScratchMachine:
    """A running scratch machine. `folder` is an empty folder to mount it at. `with` starts it, and ends every process in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> ScratchMachine:
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child",
             "bash", "-c", _BOOT, "boot", str(self._folder), " ".join(_MASKED)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        try:
            self._wait_until_running(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()  # and with it its child, which is the first process of the machine, and so all others
            self._process.wait()

    def _wait_until_running(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        state = "not started"
        while time.monotonic() < deadline:
            if process.poll() is not None:
                errors = process.stderr.read().decode() if process.stderr else ""
                raise LabError(f"the scratch machine did not start: {errors.strip()}")
            first = children.read_text().split()
            if first and Path(f"/proc/{first[0]}/comm").read_text().strip() == "systemd":
                self._pid = int(first[0])
                state = self.run("systemctl is-system-running || true").strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.2)
        raise LabError(f"the scratch machine's systemd is {state!r} after {_BOOT_SECONDS:.0f} s")

    def run(self, script: str, *, text: str = "", cwd: str = "/root", seconds: float = _RUN_SECONDS, check: bool = True) -> str:
        """Run a script of bash as root, with `text` on its standard input; return its output.

        Raises `LabError` with its output if it fails, unless `check` is false.
        """
        command = [
            "nsenter", "--target", str(self._pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd",
            "env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=cat", "DEBIAN_FRONTEND=noninteractive",
            "bash", "-euc", f"cd {cwd}\n{script}",
        ]
        try:
            answer = subprocess.run(
                command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"stopped after {seconds:.0f} s: {script}") from None
        if check and answer.returncode:
            raise LabError(f"status {answer.returncode} of: {script}\n{answer.stdout.strip()[-3000:]}")
        return answer.stdout

    def talk(self, module: str, *arguments: str, seconds: float = _RUN_SECONDS) -> str:
        """Run a Python module of this project on the machine's network, with this machine's files; return its output."""
        command = ["nsenter", "--target", str(self._pid), "--net", sys.executable, "-m", module, *arguments]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False)
        if answer.returncode:
            raise LabError(f"{module} {' '.join(arguments)}: {answer.stdout.strip()[-3000:]}")
        return answer.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in the machine. Its folder is made if needed."""
        self.run(f"mkdir -p '{os.path.dirname(path)}'; cat > '{path}'; chmod {mode:o} '{path}'", text=text)

    def wait(self, script: str, seconds: float = 60.0) -> str:
        """Run a script until it succeeds; return its output."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.run(script)
            except LabError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.3)
