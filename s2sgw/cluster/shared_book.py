"""The book: everything that operators have decided, and what was learnt of peers, as all nodes of a cluster share it."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.defer import Deferred, FirstError, gatherResults

from s2sgw.cluster.engine import EngineGone
from s2sgw.cluster.shared_denials import SharedDenials
from s2sgw.cluster.shared_holds import SharedHolds
from s2sgw.cluster.shared_keys import SharedKeys
from s2sgw.cluster.shared_pending import SharedPending
from s2sgw.cluster.shared_proofs import SharedProofs
from s2sgw.cluster.shared_table import SharedTable


@dataclass(frozen=True, slots=True)
class SharedBook:
    """The parts of the book."""

    holds: SharedHolds
    keys: SharedKeys
    pending: SharedPending
    proofs: SharedProofs
    denials: SharedDenials

    def _tables(self) -> list[SharedTable]:
        pending = self.pending
        return [
            self.holds.table, self.keys.table, self.keys.first_uses.table, pending.outbound.table, pending.inbound.table,
            self.proofs.items.table, self.denials.table,
        ]

    def start(self) -> None:
        """Begin to read. The engine must be open."""
        for table in self._tables():
            table.start()

    async def current(self) -> None:
        """Return when every change that was made before this call is known here. Errors: `EngineGone`."""
        reading = [Deferred.fromCoroutine(table.current()) for table in self._tables()]
        try:
            await gatherResults(reading, consumeErrors=True)
        except FirstError as error:
            raise EngineGone(error.subFailure.getErrorMessage()) from None

    async def restore(self) -> None:
        """Write what this node has kept and no other one has shared. Raises `OSError`."""
        await self.keys.restore()
        await self.denials.restore()

    def stop(self) -> None:
        """Write nothing more in the background."""
        self.keys.stop()
        for items in (self.pending.outbound, self.pending.inbound, self.proofs.items):
            items.stop()
