"""The SASL mechanisms for authentication between servers, under their registered names."""

from __future__ import annotations

from typing import Literal

Mechanism = Literal[
    "EXTERNAL", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "DIGEST-MD5",
]

#: The historic mechanism (RFC 6331): it is used only if a policy names it, and after every other mechanism.
LEGACY: Mechanism = "DIGEST-MD5"
#: The default mechanisms, best first.
MECHANISMS: tuple[Mechanism, ...] = (
    "EXTERNAL", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1",
)
#: The mechanisms that need a shared secret.
BY_SECRET: frozenset[str] = frozenset({*MECHANISMS, LEGACY} - {"EXTERNAL"})
#: The mechanisms that are bound to the TLS channel (RFC 5802 §6).
BOUND: frozenset[str] = frozenset(name for name in MECHANISMS if name.endswith("-PLUS"))
