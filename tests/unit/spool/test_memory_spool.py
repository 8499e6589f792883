"""Tests of the spool in memory against the spool's contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.spool.interface import Spool
from tests.support.faulty_spool import FaultySpool
from tests.support.spool_contract import Deliver, SpoolContract


class MemorySpoolTests(SpoolContract, SynchronousTestCase):
    """Tests of the reference implementation."""

    def open(self, deliver: Deliver, limit: int) -> FaultySpool:
        return FaultySpool(limit, deliver)

    @contextmanager
    def failing(self, spool: Spool) -> Iterator[None]:
        assert isinstance(spool, FaultySpool)
        spool.fail()
        yield
        spool.mend()

    @contextmanager
    def hanging(self, spool: Spool) -> Iterator[None]:
        assert isinstance(spool, FaultySpool)
        spool.stall()
        yield
        spool.go_on()
