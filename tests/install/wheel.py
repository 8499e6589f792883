"""A check of the wheel, run by the Python of an environment that has only the wheel: it is complete, and it starts.

A gateway with the echo backend is started by `s2sgw run`, queried, and stopped.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import entry_points, metadata
from pathlib import Path

DATA = ("s2sgw.toml", "s2sgw.service", "s2sgw@.service", "s2sgw.socket", "s2sgw-direct.socket", "sysusers.conf")
_CONFIG = """\
[gateway]
domains = ["example.org"]
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[tls]
certificates = "certs"
trust_anchors = "certs/example.org.crt"
[backend]
kind = "echo"
"""
_START_SECONDS = 60.0


def main() -> None:
    """Check the files; end with a message and status 1 if one is missing."""
    import s2sgw

    place = Path(s2sgw.__file__).resolve()
    require(sysconfig.get_path("purelib") in str(place) or "site-packages" in str(place), f"s2sgw is from {place}")
    package = importlib.resources.files("s2sgw")
    require(package.joinpath("py.typed").is_file(), "py.typed is missing")
    for name in DATA:
        require(package.joinpath("cli", "data", name).is_file(), f"cli/data/{name} is missing")
    require(any(each.name == "s2sgw" for each in entry_points(group="console_scripts")), "the command is missing")
    require(metadata("s2sgw")["License-Expression"] == "MIT", "the licence is missing")
    with tempfile.TemporaryDirectory() as folder:
        start(Path(folder))
    sys.stdout.write(f"s2sgw {s2sgw.__version__} started from the wheel, answered and stopped\n")


def free_port() -> int:
    """Return a port that no other program has now, and that the system gives to no outgoing connection (Linux: 32768 and above)."""
    for port in range(20100 + os.getpid() % 10000, 32700):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise SystemExit("no free port on 127.0.0.1")


def start(folder: Path) -> None:
    """Start a gateway in `folder`, ask for its status, and stop it."""
    port = free_port()
    certificate(folder / "certs")
    config = folder / "s2sgw.toml"
    config.write_text(_CONFIG.format(port=port))
    command = str(Path(sys.executable).with_name("s2sgw"))
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    output = (folder / "log").open("w+")
    gateway = subprocess.Popen([command, "run", "--config", str(config)], cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            answer = subprocess.run(
                [command, "status", "--json", "--config", str(config)], cwd=folder, env=environment, capture_output=True, text=True, check=False,
            )
            if answer.returncode == 0 and "example.org" in json.dumps(json.loads(answer.stdout)):
                break
            require(gateway.poll() is None and time.monotonic() < deadline, f"no answer: {answer.stdout}{answer.stderr}\n{(folder / 'log').read_text()}")
            time.sleep(0.2)
        gateway.send_signal(signal.SIGTERM)
        require(gateway.wait(30) == 0, f"it ended with {gateway.returncode}")
    finally:
        gateway.kill()
        gateway.wait()


def certificate(folder: Path) -> None:
    """Make a self-signed certificate for example.org."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.org")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("example.org")]), critical=False)
    (folder / "example.org.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = folder / "example.org.key"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    private.chmod(0o600)


def require(truth: bool, complaint: str) -> None:
    """End with `complaint` unless `truth`."""
    if not truth:
        raise SystemExit(complaint)


if __name__ == "__main__":
    main()
