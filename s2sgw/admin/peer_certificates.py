"""Certificates of peers that expire soon, from their open streams, so that the operator can warn the peer in time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from s2sgw.net.slices import SlicedWork
from s2sgw.trust.parsed import ParsedCertificate

#: Days before its expiry at which a peer's certificate is listed, and the most peers in the list, the first to expire first.
SOON_DAYS, LISTED = 14, 20
#: Streams that are examined in one step.
AT_ONCE = 50


class PeerChain(NamedTuple):
    """A peer, and the chain that it presented on an open stream (DER, leaf first)."""

    peer: str
    chain: tuple[bytes, ...]


def ending_soon(streams: Iterable[PeerChain], now: float) -> SlicedWork[list[dict[str, Any]]]:
    """Return {`peer`, `ends`} for each peer whose newest certificate ends within `SOON_DAYS`; times are since the epoch."""
    ends: dict[str, float] = {}
    for number, stream in enumerate(streams):
        if number % AT_ONCE == 0:
            yield None
        at = _end(stream.chain)
        if at is not None:
            ends[stream.peer] = max(at, ends.get(stream.peer, at))
    soon = sorted((at, peer) for peer, at in ends.items() if at - now <= SOON_DAYS * 86400)
    return [{"peer": peer, "ends": at} for at, peer in soon[:LISTED]]


def _end(chain: tuple[bytes, ...]) -> float | None:
    """Return when the leaf of a chain expires; None if there is none, or it cannot be parsed."""
    try:
        return ParsedCertificate(chain[0]).certificate.not_valid_after_utc.timestamp() if chain else None
    except ValueError:
        return None
