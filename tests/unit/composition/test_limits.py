"""How many connections are accepted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.composition.limits import backend_admission, connection_limits, federation_admission
from s2sgw.config.sections import GatewayLimits
from s2sgw.net.admission import AdmittedConnection, ConnectionLimits
from s2sgw.reporting.record import EventRecord
from s2sgw.runtime import descriptors


class LimitTests(SynchronousTestCase):
    def config(self, available: int = 100_000, **limits: Any) -> Any:
        self.patch(descriptors, "limit", lambda: available)
        return cast(Any, SimpleNamespace(limits=GatewayLimits(**limits), queue=SimpleNamespace(streams=4000)))

    def test_enough_descriptors(self) -> None:
        """The limits are those of the configuration, the unproven ones a share of all."""
        with capturedLogs() as logged:
            found = connection_limits(self.config(connections=1000, unproven="10%", negotiation="20s"))
        self.assertEqual((ConnectionLimits(1000, 200, 100, 100, 50, 20.0), []), (found, logged))

    def test_too_few_descriptors(self) -> None:
        """There are as many connections as descriptors allow for, and the log says how many."""
        with capturedLogs() as logged:
            found = connection_limits(self.config(1024))
        self.assertEqual((512, 128), (found.total, found.unproven))
        (line,) = logged
        self.assertEqual(("fewer connections", 20_000, 512, 1024), tuple(line[key] for key in ("event", "asked", "possible", "descriptors")))

    def test_hits_are_counted(self) -> None:
        """What a limit keeps out is counted by its key, on either leg; the backend has no bound but the total."""
        record = EventRecord(Clock(), Logger())
        federation = federation_admission(self.config(connections=1), Clock(), record)
        backend = backend_admission(federation.limits, Clock(), record)
        for admission in (federation, backend):
            found = admission.admit("127.0.0.1")
            assert isinstance(found, AdmittedConnection)
            found.prove()
            admission.admit("127.0.0.1")
        self.assertEqual({"connections": 2}, dict(record.limit_hits))
        self.assertEqual((0, 0, 0, 0), (
            backend.limits.per_address, backend.limits.unproven, backend.limits.unproven_per_site, backend.limits.unproven_per_name,
        ))
