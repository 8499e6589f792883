"""The writes of home records, and the appends behind them (docs/cluster.md).

The engine knows the id of a write for `DUPLICATE_WINDOW`. A copy of a write may wait for longer in a server or a socket. Then it
would be stored again, as the last record of its lane, with totals of the past. So after a write of which an attempt had no
answer, the home record is written again. The engine refuses each copy that comes later, for it expects the home record before.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from s2sgw.cluster.engine import EngineError, EngineFull, Fence, Fenced
from s2sgw.cluster.jetstream_api import ID, WRONG_SEQUENCE, JetStreamAPI, Record, RequestRefused, expecting
from s2sgw.cluster.subjects import home_subject, spool_stream
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.jid import Domain

#: Homes that are remembered.
_REMEMBERED = 100_000


@dataclass(slots=True)
class _Home:
    """The home record of a peer that this node wrote. `sequence`: that of its last writing.

    `doubted`: a copy of an append may come late. `lock` is held while the record is written.
    """

    fence: Fence
    data: bytes
    sequence: int
    doubted: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class FencedWrites:
    """The writes of one node. `replaced(stream, sequence)` is called with each home record that is not the last any more."""

    def __init__(self, api: JetStreamAPI, replaced: Callable[[str, int], None]) -> None:
        self._api = api
        self._replaced = replaced
        self._homes: BoundedDict[Domain, _Home] = BoundedDict(_REMEMBERED)

    async def claim(self, peer: Domain, data: bytes, expected: int) -> int:
        """Write the home record if the last one is `expected`, or stands for it; return its sequence.

        Errors: `EngineFull`, `RequestRefused`.
        """
        home = self._homes.use(peer)
        if home is None or home.fence.sequence != expected:
            return await self._claim(peer, data, expected)
        async with home.lock:
            return await self._claim(peer, data, home.sequence)

    async def _claim(self, peer: Domain, data: bytes, expected: int) -> int:
        sequence = await self._write(peer, data, expected)
        self._homes[peer] = _Home(Fence(peer, sequence), data, sequence)
        return sequence

    async def append(self, fence: Fence, records: Sequence[Record], after: int) -> list[int]:
        """Store records, all or none, and return their sequences. Errors: `Fenced`, `EngineFull`, `RequestRefused`."""
        home = self._homes.use(fence.peer)
        if home is None or home.fence != fence:
            home = _Home(fence, b"", fence.sequence)  # of another engine, or forgotten: it cannot be written again
        sent = False
        try:
            if home.doubted:
                await self._renew(home)
            sent = True
            return await self._append(home, records, after)
        except RequestRefused as error:
            if error.code != WRONG_SEQUENCE:
                raise
            if self._homes.get(fence.peer) is home:
                del self._homes[fence.peer]
            fenced = Fenced(f"the home of {fence.peer} is another: {error}")
            fenced.in_doubt = sent and home.doubted
            raise fenced from error

    async def _append(self, home: _Home, records: Sequence[Record], after: int) -> list[int]:
        stream, fence = spool_stream(home.fence.peer), expecting(home_subject(home.fence.peer), home.sequence)
        fenced = [record._replace(headers={**record.headers, **fence}) for record in records]
        try:
            return await self._api.store(stream, fenced, after, partial(_doubt, home))
        except (EngineFull, RequestRefused) as error:
            if not home.doubted or (isinstance(error, RequestRefused) and error.code == WRONG_SEQUENCE):
                raise
            await self._renew(home)  # now no copy can follow, and the outcome is what is found
            found = await self._api.find(stream, records, after)
            if found is None:
                raise
            return found

    async def settle(self, peer: Domain) -> None:
        """Refuse from now on what may come late of the appends of a peer. If the engine refuses this, the next append does it."""
        home = self._homes.get(peer)
        if home is not None and home.doubted:
            try:
                await self._renew(home)
            except EngineError:
                return

    async def _renew(self, home: _Home) -> None:
        """Write the home record again. Errors: `EngineFull`, `RequestRefused`."""
        async with home.lock:
            if self._homes.get(home.fence.peer) is home:
                home.sequence = await self._write(home.fence.peer, home.data, home.sequence)
            home.doubted = False

    async def _write(self, peer: Domain, data: bytes, expected: int) -> int:
        subject, stream = home_subject(peer), spool_stream(peer)
        record = Record(subject, {ID: new_id(), **expecting(subject, expected)}, data)
        (sequence,) = await self._api.store(stream, [record], expected)
        if expected:
            self._replaced(stream, expected)
        return sequence


def _doubt(home: _Home) -> None:
    home.doubted = True


def new_id() -> str:
    """Return an id for a write."""
    return secrets.token_hex(12)
