"""A run of real processes: one temporary folder, ports on loopback, and processes that end with the run."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

#: Below Linux's range for outgoing connections, so that no connection of the run takes the port of a listener.
PORTS = range(20100, 32700)
#: Seconds that a process has to end after SIGTERM, before it is killed. (The gateway may take 5 s to deliver what it holds.)
GRACE = 12.0
_PR_SET_PDEATHSIG = 1


class LabError(Exception):
    """Raised when the lab itself failed: a server did not start, or a tool is missing."""


def wait_for_text(logged: Callable[[], str], text: str, seconds: float = 5.0) -> bool:
    """Wait until a log has `text`; return False if it does not appear. ejabberd writes its log some time after the event."""
    deadline = time.monotonic() + seconds
    while text not in logged():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A process that the lab started; its output goes to `log`."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path, descriptors: Sequence[int] = (),
        own_session: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **env}, cwd=cwd, preexec_fn=_die_with_parent, pass_fds=descriptors,
                start_new_session=own_session,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def status(self) -> int | None:
        return self._popen.poll()

    def output(self, lines: int = 25) -> str:
        """Return the last `lines` of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def signal(self, number: int) -> None:
        if self.alive:
            self._popen.send_signal(number)

    def stop(self) -> int | None:
        """Send SIGTERM, and SIGKILL after `GRACE` seconds; return its exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int | None:
        self.signal(signal.SIGKILL)
        return self._popen.wait(GRACE)

    def cpu_seconds(self) -> float:
        """Return user and system time of all its threads, without its children."""
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        """Return the memory that it uses now (RSS), from /proc/PID/statm."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that process `pid` has used, from /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free(port: int, kind: socket.SocketKind, address: str) -> bool:
    with closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


#: True if this machine has IPv6 on loopback.
HAS_IPV6 = _has_ipv6()
#: The sockets that a port must be free for.
_BINDINGS = (
    (socket.SOCK_STREAM, "127.0.0.1"), (socket.SOCK_DGRAM, "127.0.0.1"), *([(socket.SOCK_STREAM, "::1")] if HAS_IPV6 else []),
)


def free_ports(first: int | None = None) -> Iterator[int]:
    """Yield ports of `PORTS` that are free now for TCP and UDP on 127.0.0.1, and for TCP on ::1 if there is IPv6, each once.

    `first`: the first one to try; the default depends on the process, so that two runs seldom look at the same one.
    """
    start = (os.getpid() * 37) % len(PORTS) if first is None else PORTS.index(first)
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        if all(_free(port, kind, address) for kind, address in _BINDINGS):
            yield port


class Lab:
    """A context manager that owns the folder, the ports and the processes of a run."""

    def __init__(self, keep: bool = False, first_port: int | None = None, own_sessions: bool = False) -> None:
        """`keep`: leave the folder. `first_port`: the first of `PORTS` to try; the default depends on the process.

        `own_sessions`: Ctrl-C in the terminal does not reach the processes.
        """
        self._own_sessions = own_sessions
        self.folder = Path(tempfile.mkdtemp(prefix="s2sgw-lab-"))
        self.folder.chmod(0o755)
        self.processes: list[Process] = []
        self._keep = keep
        self._ports = free_ports(first_port)

    def port(self) -> int:
        """Return a port that is free for TCP and UDP on 127.0.0.1, and for TCP on ::1 if there is IPv6. Each port is returned once."""
        return next(self._ports)

    def directory(self, name: str) -> Path:
        """Make a folder; if `name` exists, a number is added."""
        path, number = self.folder / name, 1
        while path.exists():
            number += 1
            path = self.folder / f"{name}-{number}"
        path.mkdir(parents=True)
        return path

    def start(
        self, name: str, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, descriptors: Sequence[int] = (),
    ) -> Process:
        """Start `argv` in `folder` with these descriptors of this process; its output goes to `folder`/NAME.out."""
        process = Process(name, argv, folder / f"{name}.out", env or {}, folder, descriptors, self._own_sessions)
        self.processes.append(process)
        return process

    def wait_for_port(self, process: Process, port: int, seconds: float = 20.0, address: str = "127.0.0.1") -> None:
        """Wait until `port` accepts a connection. If it does not, raise `LabError` with the process's last output."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not process.alive:
                raise LabError(f"{process.name} ended with status {process.status}:\n{process.output()}")
            try:
                socket.create_connection((address, port), 1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise LabError(f"{process.name} does not listen on {port} after {seconds:.0f} s:\n{process.output()}")

    def stop(self, processes: Sequence[Process]) -> None:
        """Send SIGTERM to all of these, then wait for each."""
        for process in processes:
            process.signal(signal.SIGTERM)
        for process in processes:
            process.stop()
        self.processes = [process for process in self.processes if process not in processes]

    def close(self) -> None:
        self.stop(list(reversed(self.processes)))
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
