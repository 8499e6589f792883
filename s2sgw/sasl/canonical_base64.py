"""Base64 in its one canonical spelling (RFC 4648 §3.5): SASL messages, and the values in those of SCRAM."""

from __future__ import annotations

import base64
import binascii


def decode(text: str) -> bytes | None:
    """Return the bytes that `text` encodes; None if it is not canonical."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if encode(data) == text else None


def encode(data: bytes) -> str:
    """Return the encoding of `data`."""
    return base64.b64encode(data).decode()
