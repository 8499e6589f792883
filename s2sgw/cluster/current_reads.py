"""Reads that must not be out of date, from replicas that may be.

An answer that lacks what is known to exist is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from s2sgw.cluster.engine import EngineGone
from s2sgw.cluster.jetstream_api import Found, JetStreamAPI

#: Seconds before a replica that was behind is asked again.
_BEHIND = 0.005


async def last_records(api: JetStreamAPI, stream: str, pattern: str, subject: str, sequence: int) -> dict[str, Found]:
    """Return the last record of each subject of a pattern, without data, as of `sequence` of `subject` or later.

    `sequence` is known to exist. It is asked for until it is there, however long that takes.
    """
    while True:
        try:
            found = {each.subject: each for each in await api.last_of(stream, pattern, data=False, behind=(subject, sequence))}
        except EngineGone:
            continue
        if subject in found and found[subject].sequence >= sequence:
            return found
        await asyncio.sleep(_BEHIND)


async def lane_records(
    api: JetStreamAPI, stream: str, subject: str, after: int, up_to: int, at_most: int
) -> Sequence[Found]:
    """Return records of a subject with `after` < sequence ≤ `up_to`: about `at_most` bytes, or one record.

    `up_to` is known to exist in the stream. Errors: `EngineGone`.
    """
    while after < up_to:
        page = await api.next_page(stream, subject, after, max(1, at_most))
        last = page.records[-1].sequence if page.records else after
        if page.more or last >= up_to or await _is_end(api, stream, subject, last, up_to):
            return [record for record in page.records if record.sequence <= up_to]
        await asyncio.sleep(_BEHIND)
    return []


async def _is_end(api: JetStreamAPI, stream: str, subject: str, last: int, up_to: int) -> bool:
    """Return whether a leader that has reached `up_to` has no record of a subject behind `last` either."""
    following = await api.leader_next(stream, subject, last)
    if following is not None and following.sequence <= up_to:
        return False
    return bool((await api.info(stream))["state"]["last_seq"] >= up_to)


async def newest_records(api: JetStreamAPI, stream: str, pattern: str, at_most: int, page_bytes: int) -> Sequence[Found]:
    """Return the last records of a stream of which only the oldest are removed, in order. Errors: `EngineGone`."""
    state = (await api.info(stream))["state"]
    last, after = state["last_seq"], max(0, state["first_seq"] - 1, state["last_seq"] - at_most)
    found: list[Found] = []
    while after < last:
        page = await api.next_page(stream, pattern, after, page_bytes)
        found += page.records
        after = page.records[-1].sequence if page.records else after
        if after < last and not page.more:
            await asyncio.sleep(_BEHIND)
    return found
