"""The state directory (0700) and the secret that it holds (0600)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
