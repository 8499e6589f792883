"""The hooks of docs/certificates.md, run as they stand there, with other folders and with stand-ins for the commands that need root."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.project.source_tree import ROOT

#: Where the page keeps the certificates.
CERTIFICATES = "/etc/s2sgw/certs"
#: Commands that need root, or a gateway: they write down how they were called. `install` copies without an owner.
STAND_INS = {
    "chown": 'echo "chown $*" >> "$CALLS"',
    "s2sgw": 'echo "s2sgw $*" >> "$CALLS"',
    "install": 'echo "install $1 $2 $3 $4" >> "$CALLS"; shift 4; exec "$INSTALL" "$@"',
    "acme.sh": """while [ $# -gt 0 ]; do
  case "$1" in --fullchain-file) chain=$2;; --key-file) key=$2;; --reloadcmd) reload=$2;; esac; shift
done
echo chain > "$chain"; (umask 077; echo key > "$key"); sh -c "$reload\"""",
}


def hook(name: str) -> str:
    """Return the first block of commands that follows the bold `name` in docs/certificates.md."""
    _, _, text = (ROOT / "docs" / "certificates.md").read_text("utf-8").partition(f"**{name}**")
    found = re.search(r"(?m)(?:^(?: {4}.*)?\n)+", text.partition("\n")[2])
    assert found is not None
    return re.sub(r"(?m)^ {4}", "", found[0].strip("\n"))


class HookTests(SynchronousTestCase):
    """One renewal by each ACME client."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.certificates = self.folder / "certs"
        (self.folder / "bin").mkdir(parents=True)
        self.certificates.mkdir()
        self.calls = self.folder / "calls"
        for name, body in STAND_INS.items():
            path = self.folder / "bin" / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)

    def run_hook(self, name: str, **variables: str) -> list[str]:
        """Run the hook; return the calls of the stand-ins."""
        script = hook(name).replace(CERTIFICATES, str(self.certificates))
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(self.calls), "INSTALL": shutil.which("install") or "", **variables,
        }
        done = subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def modes(self) -> dict[str, int]:
        """Return the mode of each file in the folder of the certificates."""
        files = [path for path in self.certificates.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.certificates)): stat.S_IMODE(path.stat().st_mode) for path in files}

    def test_certbot(self) -> None:
        """A certificate that is there already is replaced, through certbot's links; another one is left out."""
        live, archive = self.folder / "live" / "example.org", self.folder / "archive"
        live.mkdir(parents=True)
        archive.mkdir()
        for name in ("fullchain", "privkey"):
            (archive / f"{name}2.pem").write_text("new")
            (live / f"{name}.pem").symlink_to(archive / f"{name}2.pem")
        self.assertEqual([], self.run_hook("certbot", RENEWED_LINEAGE=str(live)))
        self.assertEqual({}, self.modes())
        (self.certificates / "example.org").mkdir()
        (self.certificates / "example.org" / "privkey.pem").write_text("old")
        (self.certificates / "example.org" / "privkey.pem").chmod(0o600)
        self.assertEqual([f"chown -R s2sgw: {self.certificates}", "s2sgw reload"], self.run_hook("certbot", RENEWED_LINEAGE=str(live)))
        self.assertEqual({"example.org/fullchain.pem": 0o600, "example.org/privkey.pem": 0o600}, self.modes())
        self.assertEqual("new", (self.certificates / "example.org" / "privkey.pem").read_text())

    def test_lego(self) -> None:
        """The certificate and its key belong to the gateway's user, and no other user can read the key."""
        for name in ("crt", "key"):
            (self.folder / name).write_text(name)
        calls = self.run_hook("lego", LEGO_CERT_PATH=str(self.folder / "crt"), LEGO_CERT_KEY_PATH=str(self.folder / "key"))
        self.assertEqual(["install -o s2sgw -g s2sgw", "install -o s2sgw -g s2sgw", "s2sgw reload"], calls)
        self.assertEqual({"example.org.crt": 0o644, "example.org.key": 0o600}, self.modes())

    def test_acme_sh(self) -> None:
        """acme.sh writes the two files, and then runs the command."""
        self.assertEqual([f"chown -R s2sgw: {self.certificates}", "s2sgw reload"], self.run_hook("acme.sh"))
        self.assertEqual({"example.org.crt", "example.org.key"}, set(self.modes()))
