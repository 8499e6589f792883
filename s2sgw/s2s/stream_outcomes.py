"""The outcomes of the streams of a leg: one is ready, one has ended, or why none could be opened."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any, Literal, get_args

from s2sgw.reporting.daily_report import DailyReport
from s2sgw.stream.events import Method
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.jid import Domain, Pair

StreamDirection = Literal["inbound", "outbound"]

#: The TLS version of a stream without TLS.
PLAIN = "none"
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3", PLAIN)


def names_of(literal: Any) -> list[str]:
    """Return the strings of a `Literal`, or of a union of such."""
    found: list[str] = []
    for each in get_args(literal):
        found += [each] if isinstance(each, str) else names_of(each)
    return found


class StreamOutcomes:
    """Ignores all outcomes. The backend leg has outcomes of its own (`backend.health`)."""

    def attribute(self, ending: Ending) -> Ending:
        """Return the ending of an attempt of ours as the record shows it: a failure is attributed to the server that failed."""
        return ending

    def attempt_failed(self, pair: Pair | None, ending: Ending) -> None:
        """Note that no stream could be opened for `pair` (None: for all of them). `ending` is not attributed yet."""

    def accepted_failed(self, names: tuple[str, str], ending: Ending) -> Ending:
        """Return the ending of a stream towards us that proved no pair, as the record shows it."""
        return ending

    def opened(self, direction: StreamDirection, peer: Domain, method: str, tls: str | None) -> None:
        """Note that a stream with `peer` is ready, opened towards us or by us, and authenticated by `method`.

        `tls`: its version.
        """

    def verifies(self) -> None:
        """Note that a stream is ready to verify a dialback key. No pair is authenticated on it."""

    def closed(self, direction: StreamDirection) -> None:
        """Note that a stream that was ready has ended."""


class StreamCounts(StreamOutcomes):
    """Counts the streams that were ready, by direction, method and TLS. Every series exists from the start."""

    def __init__(self, report: DailyReport | None = None) -> None:
        """Create all series. `report` gets each outcome as well."""
        self._report = report
        methods = [method for method in names_of(Method) if method != "bidi"]  # no stream is opened by it
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.counts.update(dict.fromkeys(product(get_args(StreamDirection), methods, TLS_VERSIONS), 0))

    def opened(self, direction: StreamDirection, peer: Domain, method: str, tls: str | None) -> None:
        self.counts[direction, method, tls or PLAIN] += 1
        if self._report is not None:
            self._report.authenticated(direction, peer.text, method, tls or PLAIN)
