"""The common part of the launchers of real servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.certificates import Certificate
from tests.lab.lab import Lab, Process, wait_for_text

PASSWORD = "sesame"


@dataclass(frozen=True)
class Site:
    """The ports and files of a server. `dns` is the port of its resolver on 127.0.0.1, `anchors` are its trust anchors."""

    lab: Lab
    domain: str
    dns: int
    anchors: Path
    certificate: Certificate
    users: Sequence[str] = ("juliet", "romeo")
    also: Sequence[str] = ()  # further domains that it hosts, with the same certificate
    s2s_addresses: Sequence[str] = ("127.0.0.1",)
    lines: str = ""  # configuration printed by `s2sgw setup`, used without changes
    dialback_only: bool = False  # it does not require certificates of peers
    s2s_port: int = 0  # 0: any version
    verbose: bool = True  # log everything, for scenarios that search the log
    encrypted: bool = True  # TLS between servers; without it, jabberd2 is as Debian ships it

    @property
    def domains(self) -> Sequence[str]:
        return (self.domain, *self.also)


@dataclass
class Server:
    """A running server: its name, its ports, its processes and its log."""

    kind: str
    domain: str
    client_port: int
    s2s_port: int
    processes: list[Process]
    log: Path
    component_port: int = 0
    direct_port: int = 0

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for process in self.processes)

    def stop(self, lab: Lab) -> None:
        lab.stop(self.processes)

    def logged(self) -> str:
        """Return its whole log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def logs(self, text: str, seconds: float = 5.0) -> bool:
        """Wait until `text` is in its log; return False if it does not appear."""
        return wait_for_text(self.logged, text, seconds)
