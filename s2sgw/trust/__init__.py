"""The proofs that a certificate or a DNS answer gives. Pure."""

from __future__ import annotations

from s2sgw.trust.proofs import validate_peer

__all__ = ["validate_peer"]
