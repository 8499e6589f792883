"""The gateway under test: its configuration file, its process, and its command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.certificates import Certificate
from tests.lab.lab import HAS_IPV6, Lab, LabError, Process, wait_for_text
from tests.lab.nameserver import Nameserver
from tests.lab.toml import dumps

PROJECT = Path(__file__).resolve().parent.parent.parent
_COMMAND_SECONDS = 20.0


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LabError(f"{name} is not installed")
    return found


TWISTD = _program("twistd")


@dataclass
class Gateway:
    """A gateway and its ports. They are chosen before it starts, so that the server behind it can be configured first."""

    lab: Lab
    domain: str
    folder: Path
    port: int  # federation, STARTTLS
    direct: int  # federation, direct TLS
    inner: int  # where the backend opens its streams
    view: int  # the DNS view
    console: int
    also: Sequence[str] = ()  # further local domains
    process: Process | None = None

    @property
    def config(self) -> Path:
        return self.folder / "s2sgw.toml"

    def configure(
        self, *, backend: str, dns: Nameserver | None, anchors: Path, certificates: Sequence[Certificate],
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write s2sgw.toml. `changes` adds keys to sections (a mapping) or replaces them (any other value).

        `dns` None: there is no name server, and every question fails at once.
        """
        store = self.folder / "certs"
        store.mkdir(exist_ok=True)
        for number, certificate in enumerate(certificates):
            shutil.copy(certificate.chain, store / f"{number}.crt")
            shutil.copy2(certificate.key, store / f"{number}.key")
            (store / f"{number}.key").chmod(0o600)
        document = self._document(backend, "127.0.0.1:1" if dns is None else dns.address, str(anchors))
        for section, change in (changes or {}).items():
            document[section] = {**document.get(section, {}), **change} if isinstance(change, Mapping) else change
        self.config.write_text(dumps(document))

    def _document(self, backend: str, dns: str, anchors: str) -> dict[str, Any]:
        return {
            "gateway": {"state": "state", "domains": [self.domain, *self.also]},
            "listen": [
                {"endpoint": f"{kind}:{port}:interface={address}", "tls": tls}
                for kind, address in (("tcp", "127.0.0.1"), ("tcp6", "\\:\\:1"))[: 1 + HAS_IPV6]
                for port, tls in ((self.port, "starttls"), (self.direct, "direct"))
            ],
            "tls": {"certificates": "certs", "trust_anchors": anchors},
            "dns": {"servers": [dns], "private_addresses": "allow"},
            "backend": {
                "kind": "s2s", "address": backend, "listen": f"tcp:{self.inner}:interface=127.0.0.1",
                "dns_view": f"127.0.0.1:{self.view}", "forward": [dns], "tls": "required",
            },
            "log": {"format": "text", "level": "info"},
        }

    def begin(self, *program: str, descriptors: Sequence[int] = ()) -> Process:
        """Start it without waiting. `program` replaces twistd; it gets these descriptors of this process."""
        argv = [*(program or [TWISTD]), "-n", "--pidfile=", "s2sgw", "--config", str(self.config)]
        environment = {"PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
        self.process = self.lab.start("s2sgw", argv, self.folder, environment, descriptors)
        return self.process

    def start(self, seconds: float = 20.0, program: Sequence[str] = ()) -> None:
        """Start it, and wait until it accepts connections. `program` replaces twistd; it gets these descriptors of this process."""
        self.process = self.begin(*program)
        for port in (self.port, self.inner):
            self.lab.wait_for_port(self.process, port, seconds)

    def stop(self) -> int | None:
        """Stop it normally; return its exit status."""
        if self.process is None:
            return None
        status = self.process.stop()
        self.lab.stop([self.process])
        return status

    def command(self, *words: str, check: bool = True) -> str:
        """Run `s2sgw WORDS --config …`; return its output. Raise `LabError` if it fails and `check` is true."""
        code = "from s2sgw.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--config", str(self.config)], cwd=PROJECT, capture_output=True,
            text=True, timeout=_COMMAND_SECONDS, check=False,
        )
        if check and done.returncode:
            raise LabError(f"s2sgw {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def asked(self, *words: str) -> Any:
        """Return the answer of `s2sgw WORDS --json`."""
        return json.loads(self.command(*words, "--json", check=False))

    def logs(self, text: str, seconds: float = 5.0) -> bool:
        """Wait until `text` is in the log; return False if it does not appear."""
        return wait_for_text(self.logged, text, seconds)

    def logged(self) -> str:
        return self.process.log.read_text(errors="replace") if self.process else ""


def gateway(lab: Lab, domain: str, *also: str) -> Gateway:
    """Return a gateway for these domains with ports of its own, to be configured and started."""
    port, direct, inner, view, console = (lab.port() for _ in range(5))
    return Gateway(lab, domain, lab.directory(f"gateway-{domain}"), port, direct, inner, view, console, also)
