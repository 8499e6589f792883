"""The verb `report`: the daily report, and the job that samples the queues for it and writes it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from s2sgw.admin.server import Arguments, NothingHere, VerbError
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.net.slices import SlicedWork, Slices
from s2sgw.reporting.daily_report import DailyReport, NoReport
from s2sgw.xmpp.jid import Domain, InvalidJID

#: Queues that are examined in one step.
AT_ONCE = 100


class ReportVerb:
    """Answers the verb, and keeps the report up to date."""

    def __init__(self, report: DailyReport, queues: DeliveryQueues, slices: Slices, clock: IReactorTime) -> None:
        self._report = report
        self._queues = queues
        self._slices = slices
        self._clock = clock

    async def report(self, arguments: Arguments) -> dict[str, Any]:
        """Return the report of `day` (default: today), of one `peer` if it is named."""
        day, peer = arguments.get("day"), arguments.get("peer")
        if day is not None and not isinstance(day, str):
            raise VerbError("day must be a date such as 2026-11-20", "usage")
        await self._slices.run(self._sample())
        try:
            found = await self._report.report(day)
            wanted = None if peer is None else Domain.parse(peer).text
        except NoReport as error:
            raise NothingHere(str(error), self._report.empty(error.day)) from None
        except (ValueError, InvalidJID, TypeError, AttributeError) as error:
            raise VerbError(str(error), "usage") from None
        return found if wanted is None else {**found, "peers": [row for row in found["peers"] if row["peer"] == wanted]}

    async def turn(self) -> None:
        """Add the stanzas that the queues passed on, and the longest waits; then write the report."""
        await self._slices.run(self._sample())
        await self._report.turn()

    def close(self) -> Deferred[None]:
        """Write the counts."""
        for queue in self._queues:
            queue.report_passed()
        return self._report.close()

    def _sample(self) -> SlicedWork[None]:
        now = self._clock.seconds()
        for number, queue in enumerate(self._queues):
            if number % AT_ONCE == 0:
                yield None
            queue.report_passed()
            oldest = queue.pair_queue.oldest
            if oldest is not None:
                self._report.waited(queue.peer.text, now - oldest)
