"""A gateway with a console, in a separate process, and a peer with a self-signed certificate."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s2sgw.config.password_hash import PasswordHash
from tests.lab.lab import Lab
from tests.support.certificates import Authority, Issued, self_signed

ROOT = Path(__file__).resolve().parents[2]
PASSWORDS = {"alice": "correct horse", "bob": "battery staple"}
#: Seconds for any step on a busy machine.
PATIENCE = 60.0
PEER, EVIL, GONE = "peer.example", "evil.example", "gone.example"
HOSTILE = "<script>document.title='owned'</script>"
CONFIG = """\
[gateway]
domains = ["example.org"]
[[listen]]
endpoint = "tcp:{federation}:interface=127.0.0.1"
[tls]
certificates = "certs"
trust_anchors = "ca.crt"
[dns]
servers = ["127.0.0.1:1"]
[dns.static]
"peer.example" = "127.0.0.1:{peer}"
"evil.example" = "127.0.0.1:{peer}"
"gone.example" = "127.0.0.1:1"
[backend]
kind = "echo"
[peers.default]
unknown_issuer = "ask"
[console]
listen = "tcp:{console}:interface=127.0.0.1"
[console.users]
alice = "{alice}"
bob = "{bob}"
[console.roles]
alice = "operator"
"""


class Place:
    """The gateway, and the peer, which is `examples/hello.py`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.folder = lab.directory("console")
        self.federation, self.console = lab.port(), lab.port()
        self.listener = socket.create_server(("127.0.0.1", lab.port()))
        self.listener.settimeout(PATIENCE)
        self._authority = Authority.root()
        (self.folder / "ca.crt").write_bytes(self._authority.pem)
        (self.folder / "certs").mkdir()
        self._write("certs/example.org", self._authority.issue(dns=["example.org"]))
        self._write(PEER, self_signed(dns=[PEER], common_name=PEER))
        self._write(EVIL, self_signed(dns=[EVIL], common_name=HOSTILE))
        self.config = self.folder / "s2sgw.toml"
        hashes = {name: PasswordHash.of(password).text() for name, password in PASSWORDS.items()}
        self.config.write_text(CONFIG.format(
            federation=self.federation, console=self.console, peer=self.listener.getsockname()[1], **hashes,
        ))  # fmt: skip
        self._hello = _hello()
        self._hello.SECONDS = PATIENCE

    def _write(self, name: str, issued: Issued) -> None:
        (self.folder / f"{name}.crt").write_bytes(issued.pem_chain)
        key = self.folder / f"{name}.key"
        key.touch(0o600)
        key.write_bytes(issued.key_pem)

    @property
    def address(self) -> str:
        """Return the console's address."""
        return f"http://127.0.0.1:{self.console}"

    def start(self) -> None:
        """Start the gateway, and wait until its console answers."""
        argv = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "s2sgw", "--config", str(self.config)]
        environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        process = self._lab.start("s2sgw", argv, self.folder, environment)
        self._lab.wait_for_port(process, self.console, PATIENCE)

    def command(self, *words: str) -> str:
        """Return the output of `s2sgw WORDS`."""
        code = "from s2sgw.cli.main import main; main()"
        argv = [sys.executable, "-c", code, *words, "--config", str(self.config)]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout.strip()

    def audited(self) -> str:
        """Return the audit log."""
        return (self.folder / "state" / "audit.log").read_text()

    # --- the peer ---

    def try_to_connect(self, name: str = PEER) -> bool:
        """Connect as a peer; return whether the gateway lets it authenticate."""
        try:
            place = ("127.0.0.1", self.federation)
            self._quietly(lambda: self._peer(name).send_message(place, "example.org", "hello")).connection.close()
        except self._hello.UnexpectedAnswer:
            return False
        return True

    def converse(self) -> Callable[[], str]:
        """Let the peer say hello; return a function that waits for the echo and returns it."""
        answers: list[str] = []
        peer = self._peer(PEER)
        place = ("127.0.0.1", self.federation)
        outgoing = self._quietly(lambda: peer.send_message(place, "example.org", "hello"))

        def receive() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                incoming, answer = peer.receive_message(self.listener, "example.org")
                peer.answer_ping(incoming, outgoing)
                answers.append(answer)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()

        def wait() -> str:
            thread.join(PATIENCE)
            return answers[0] if answers else ""

        return wait

    def _peer(self, name: str) -> Any:
        return self._hello.Peer(name, self.folder / "ca.crt", self.folder / f"{name}.crt")

    def _quietly(self, call: Callable[[], Any]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return call()


def _hello() -> Any:
    specification = importlib.util.spec_from_file_location("hello", ROOT / "examples" / "hello.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
