"""What is left of a stream of ours that broke off, ended by neither side, and may be resumed (XEP-0198 §5)."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.stream.management import Resumption

#: Seconds for which stanzas that came back on such a stream (XEP-0288), and are in doubt, wait for it: then they go another way.
RETURN = 15.0


@dataclass(frozen=True, slots=True)
class ResumableStream:
    """A stream of ours: by what it is resumed, and what came on it (XEP-0288)."""

    resumption: Resumption
    incoming: StreamIngress | None = None

    @classmethod
    def of(cls, resumption: Resumption, incoming: StreamIngress | None) -> ResumableStream:
        if incoming is not None:
            incoming.suspend(resumption.counters)
        return cls(resumption, incoming)

    def forget(self) -> None:
        """It is not resumed."""
        if self.incoming is not None:
            self.incoming.forget()
