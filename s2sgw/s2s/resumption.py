"""A stream of ours that broke off, ended by neither side, and may be resumed (XEP-0198 §5)."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.stream.management import Resumption


@dataclass(frozen=True, slots=True)
class BrokenStream:
    """Implements `ResumableStream` of `delivery.outbound_stream`. `incoming` took the stanzas that came on it (XEP-0288)."""

    resumption: Resumption
    incoming: StreamIngress | None = None

    @classmethod
    def of(cls, resumption: Resumption, incoming: StreamIngress | None) -> BrokenStream:
        """Return what remains of a stream with these counters. The count of its own stanzas goes on."""
        if incoming is not None:
            incoming.suspend(resumption.counters)
        return cls(resumption, incoming)

    @property
    def seconds(self) -> float:
        return self.resumption.seconds

    @property
    def unacknowledged(self) -> int:
        return self.resumption.counters.sent - self.resumption.counters.acknowledged

    @property
    def carries_back(self) -> bool:
        return self.incoming is not None

    def forget(self) -> None:
        if self.incoming is not None:
            self.incoming.forget()
