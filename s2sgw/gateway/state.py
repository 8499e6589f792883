"""What the gateway keeps in its state directory, and the trust anchors that it reads."""

from __future__ import annotations

import os
import secrets
import ssl
from pathlib import Path

from s2sgw.trust.anchors import Anchors
from s2sgw.trust.revocation import RevocationLists

#: Where Debian keeps the system's anchors, in case OpenSSL does not know.
DEBIAN_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def read_anchors(source: str) -> Anchors:
    """Trust anchors: "system", a PEM file, or a directory of such."""
    path = Path(source) if source != "system" else Path(ssl.get_default_verify_paths().cafile or DEBIAN_BUNDLE)
    anchors = Anchors.parse(*(each.read_bytes() for each in _files(path)))
    return anchors if anchors or anchors.complaints else Anchors(complaints=[f"{path} holds no certificate"])


def read_revocations(path: Path) -> RevocationLists:
    """Revocation lists: a PEM or DER file, or a directory of such."""
    lists = RevocationLists.parse(*(each.read_bytes() for each in _files(path)))
    return lists if lists or lists.complaints else RevocationLists(complaints=[f"{path} holds no revocation list"])


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]


def prepare_state(state: Path) -> Path:
    """The state directory, for us alone (0700)."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    return state


def keep_secret(path: Path) -> bytes:
    """A secret of 32 bytes that outlives restarts, readable by us alone (0600)."""
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()
