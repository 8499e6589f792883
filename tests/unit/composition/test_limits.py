"""Tests of the number of connections that are accepted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.composition.limits import backend_admission, connection_limits, federation_admission, possible_streams
from s2sgw.config.sections import GatewayLimits
from s2sgw.net.admission import AdmittedConnection, ConnectionLimits
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime import descriptors


class LimitTests(SynchronousTestCase):
    def config(self, available: int = 100_000, streams: int = 4000, **limits: Any) -> Any:
        self.patch(descriptors, "limit", lambda: available)
        return cast(Any, SimpleNamespace(limits=GatewayLimits(**limits), queue=SimpleNamespace(streams=streams)))

    def test_enough_descriptors(self) -> None:
        """The limits are those of the configuration. Unproven connections may use a share of them."""
        with capturedLogs() as logged:
            found = connection_limits(self.config(connections=1000, unproven="10%", negotiation="20s"))
        self.assertEqual((ConnectionLimits(1000, 200, 100, 100, 50, 20.0), []), (found, logged))

    def test_too_few_descriptors(self) -> None:
        """The number of connections is limited by the descriptors, and the log gives the number."""
        with capturedLogs() as logged:
            found = connection_limits(self.config(1024))
        self.assertEqual((384, 96), (found.total, found.unproven))
        told = [(line["key"], line["asked"], line["possible"], line["open_files"]) for line in logged]
        self.assertEqual([("limits.connections", 20_000, 384, 1024), ("queue.streams", 4000, 192, 1024)], told)
        self.assertEqual(192, possible_streams(self.config(1024)))

    def test_hits_are_counted(self) -> None:
        """Connections refused by a limit are counted by its key, on either leg. The backend has only the total limit."""
        record = EventRecord(Clock(), Logger())
        federation = federation_admission(self.config(connections=1), Clock(), record)
        backend = backend_admission(self.config(connections=1), Clock(), record)
        for admission in (federation, backend):
            found = admission.admit("127.0.0.1")
            assert isinstance(found, AdmittedConnection)
            found.prove()
            admission.admit("127.0.0.1")
        self.assertEqual({"connections": 2}, dict(record.limit_hits))
        self.assertEqual((0, 0, 0, 0), (
            backend.limits.per_address, backend.limits.unproven, backend.limits.unproven_per_site, backend.limits.unproven_per_name,
        ))
