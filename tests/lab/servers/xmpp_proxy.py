"""xmpp-proxy, a reverse proxy in Rust. It terminates TLS and passes each stanza to a server.

cargo builds it once, into a folder that is kept between runs (`S2SGW_XMPP_PROXY`, /var/cache/s2sgw-lab/xmpp-proxy). The
release on crates.io requests no certificate of a peer, proves nothing and keeps nothing. The server behind it does all that.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.lab.certificates import Certificate
from tests.lab.lab import Lab, LabError
from tests.lab.servers.server import Server

VERSION = "1.0.0"
ROOT = Path(os.environ.get("S2SGW_XMPP_PROXY", "/var/cache/s2sgw-lab/xmpp-proxy"))
PROGRAM = ROOT / "bin" / "xmpp-proxy"
#: Seconds for the build; it takes one minute on two cores.
_SECONDS = 600.0
_CONFIG = """\
listen = [ "127.0.0.1:{port}" ]
c2s_target = "127.0.0.1:1"
s2s_target = "127.0.0.1:{target}"
proxy = false
max_stanza_size_bytes = 262_144
tls_key = "{key}"
tls_cert = "{chain}"
"""


def build() -> Path:
    """Build the program if it is missing; return its path. Raise `LabError` with the reason if it is not available."""
    if PROGRAM.exists():
        return PROGRAM
    cargo = shutil.which("cargo")
    if cargo is None:
        raise LabError("cargo is not installed")
    command = [cargo, "install", "xmpp-proxy", "--version", VERSION, "--locked", "--root", str(ROOT)]
    try:
        ROOT.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    except OSError as problem:
        raise LabError(f"it cannot be built: {problem}") from None
    try:
        output, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise LabError(f"cargo did not build it within {_SECONDS:.0f} s") from None
    if process.returncode or not PROGRAM.exists():
        raise LabError(f"cargo could not build it: {output.strip().splitlines()[-1:]}")
    return PROGRAM


def start(lab: Lab, certificate: Certificate, target: int) -> Server:
    """Start it before the server whose port without TLS is `target`, and wait until it listens."""
    program, folder, port = build(), lab.directory("xmpp-proxy"), lab.port()
    (folder / "xmpp-proxy.toml").write_text(_CONFIG.format(port=port, target=target, key=certificate.key, chain=certificate.chain))
    process = lab.start("xmpp-proxy", [str(program), str(folder / "xmpp-proxy.toml")], folder)
    lab.wait_for_port(process, port)
    return Server("xmpp-proxy", "", 0, port, [process], folder / "xmpp-proxy.out")
