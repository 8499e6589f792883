"""Stanzas that are kept in the engine for inspection by an operator: those that a next hop closes its streams for."""

from __future__ import annotations

import json
from collections import deque

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.cluster.engine import ClusterEngine, EngineError, Stored
from s2sgw.cluster.failures import Failures
from s2sgw.cluster.records import LaneTotals, LoggedStanza, RecordError, decode, encode_run
from s2sgw.spool.interface import QUARANTINE_BYTES, QUARANTINE_STANZAS, Quarantined, Spooled
from s2sgw.xmpp.jid import Domain, Pair

#: Seconds until a stanza that could not be stored is stored again.
KEEP_AGAIN_SECONDS = 1.0


class Quarantine:
    """The quarantine of all nodes. What could not be stored is stored later: at most `QUARANTINE_STANZAS` wait for that."""

    def __init__(self, engine: ClusterEngine, clock: IReactorTime, offset: int, failures: Failures) -> None:
        """Take the microseconds from the gateway's clock to the epoch as `offset`."""
        self._engine = engine
        self._clock = clock
        self._offset = offset
        self._failures = failures
        self._waiting: deque[tuple[Domain, bytes]] = deque(maxlen=QUARANTINE_STANZAS)
        self._storing = False
        #: the next try, after a failure
        self._later: IDelayedCall | None = None
        self._finished: list[Deferred[None]] = []

    def keep(self, peer: Domain, spooled: Spooled, cause: str, at: float) -> None:
        """Keep a stanza with the reason. `at` is seconds since the epoch."""
        self._waiting.append((peer, self._encoded(spooled, cause, at)))
        if not self._storing and self._later is None:
            self._go_on()

    def _go_on(self) -> None:
        self._storing, self._later = True, None
        Deferred.fromCoroutine(self._store())

    async def _store(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            try:
                await self._engine.keep(*first)
            except Exception as error:
                if not isinstance(error, EngineError):
                    self._failures.note("a stanza could not be kept for inspection")
                self._later = self._clock.callLater(KEEP_AGAIN_SECONDS, self._go_on)
                break
            if self._waiting and self._waiting[0] is first:
                self._waiting.popleft()
        self._storing = False
        self._finish()

    def _finish(self) -> None:
        finished, self._finished = self._finished, []
        for each in finished:
            each.callback(None)

    def finished(self) -> Deferred[None]:
        """Wait until everything is stored, or could not be."""
        finished: Deferred[None] = Deferred()
        self._finished.append(finished)
        if not self._storing:
            self._finish()
        return finished

    def stop(self) -> None:
        """Store nothing more."""
        self._waiting.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def kept(self, at_most: int) -> list[Quarantined]:
        """Return the last stanzas, oldest first, those before this call too. Damaged ones are left out. Raises `EngineError`."""
        await self.finished()
        found: list[Quarantined] = []
        room = QUARANTINE_BYTES
        for stored in reversed(await self._engine.kept(min(at_most, QUARANTINE_STANZAS))):
            quarantined = self._decoded(stored)
            if quarantined is not None:
                room -= len(quarantined.spooled.stanza.data)
                if found and room < 0:
                    break
                found.append(quarantined)
        return found[::-1]

    def _encoded(self, spooled: Spooled, cause: str, at: float) -> bytes:
        accepted, deadline = (round(seconds * 1e6) + self._offset for seconds in (spooled.accepted_at, spooled.deadline))
        stanza = LoggedStanza(spooled.position, spooled.stanza, accepted, deadline, spooled.written)
        record = encode_run(LaneTotals(0), [stanza])
        names = [domain.ascii for domain in spooled.pair]
        envelope = {"pair": names, "cause": cause, "at": round(at * 1e6), "headers": dict(record.headers)}
        return json.dumps(envelope).encode() + b"\n" + record.data

    def _decoded(self, stored: Stored) -> Quarantined | None:
        text, _, data = stored.data.partition(b"\n")
        try:
            envelope = json.loads(text)
            (each,) = decode(envelope["headers"], data).stanzas
            sender, recipient = map(Domain.parse, envelope["pair"])
            cause, at = str(envelope["cause"]), envelope["at"] / 1e6
        except (ValueError, KeyError, TypeError, RecordError):
            return None
        accepted, deadline = ((time - self._offset) / 1e6 for time in (each.accepted, each.deadline))
        row = Spooled(Pair(sender, recipient), each.position, each.stanza, accepted, deadline, each.written, each.damage)
        return Quarantined(stored.sequence, row, cause, at)
