"""The faults of a certificate that anyone who has it can see. None depends on our trust anchors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from s2sgw.trust.certificate import summarise
from s2sgw.trust.identity import matches, names
from s2sgw.xmpp.jid import Domain


def faults(chain: Sequence[bytes], domain: Domain, at: datetime) -> list[str]:
    """Return the faults of the leaf of `chain` (DER) as a certificate of `domain`, each as a sentence about "it"."""
    if not chain:
        return ["no certificate was presented"]
    summary = summarise(chain[0])
    if summary.unreadable or summary.not_before is None or summary.not_after is None:
        return ["it cannot be read"]
    found = []
    if at > summary.not_after:
        found.append(f"it expired on {summary.not_after:%Y-%m-%d}")
    if at < summary.not_before:
        found.append(f"it is not valid before {summary.not_before:%Y-%m-%d}")
    if matches(names(chain[0]), domain).name is None:
        found.append(f"it does not name {domain}")
    if summary.self_signed:
        found.append("it is self-signed")
    return found
