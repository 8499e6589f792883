"""The state directory (0700), and the secret in it (0600)."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

from s2sgw.storage.atomic_file import write_atomically

#: Bytes of the secret.
SECRET_BYTES = 32


class SecretUnusable(ValueError):
    """The secret in the state directory cannot be used. The text says why."""


def prepare_state(state: Path) -> Path:
    """Create the state directory if it does not exist, close it to other users (0700), and return it. Raises `OSError`."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    return state


def keep_secret(path: Path) -> bytes:
    """Return the secret of this gateway, 32 bytes that stay the same over restarts. It is created at the first start.

    Dialback keys derive from it (XEP-0185). With a short or readable secret, strangers could make such keys. Raises
    `SecretUnusable` for such a file, and `OSError`.
    """
    if not path.exists():
        write_atomically(path, secrets.token_bytes(SECRET_BYTES))
    return existing_secret(path, "restore it from a backup, or remove it to have a new one made")


def existing_secret(path: Path, remedy: str) -> bytes:
    """Return a secret that exists. Raises `SecretUnusable`, which ends with `remedy`, and `OSError`."""
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise SecretUnusable(f"{path} must hold {SECRET_BYTES} bytes, and holds {len(secret)}; {remedy}")
    if len(set(secret)) == 1:
        raise SecretUnusable(f"{path} holds the same byte {SECRET_BYTES} times, which is no secret; {remedy}")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SecretUnusable(f"{path}: others than its owner may read it (chmod 600)")
    return secret


def read_secret_of(state: Path) -> bytes | None:
    """Return the secret in the state directory, for a command beside the gateway; None if it cannot be read."""
    try:
        secret = (state / "secret").read_bytes()
    except OSError:
        return None
    return secret if len(secret) == SECRET_BYTES else None
