"""The common parts of tests of the peer database: a peer, its keys, and a database that does everything at once."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.peerdb.database import MEMORY, PeerDatabase
from s2sgw.peerdb.keys import RememberedKey
from s2sgw.trust.evidence import TLSA, Evidence, POSHLookup, TLSALookup
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.jid import Domain
from tests.support.certificates import AT, self_signed

PEER, HERE = Domain.parse("peer.example"), Domain.parse("here.example")
OLD, NEW = self_signed(dns=["peer.example"]), self_signed(dns=["peer.example"])
OLD_KEY, NEW_KEY = Fingerprint.of(OLD.der), Fingerprint.of(NEW.der)
NOW = AT.timestamp()
EVIDENCE: Any = Evidence(
    PEER, "receiving", AT, (OLD.der,), "TLSv1.3", "TLS_AES_256_GCM_SHA384", "192.0.2.1:5269", "host.example", True,
    (TLSALookup("host.example", (TLSA(3, 1, 1, b"\1" * 32),), True, True, ""),),
    POSHLookup(({"sha-256": b"\2" * 32},), AT + timedelta(hours=1), ""),
)

T = TypeVar("T")


def fail_on_complaint(text: str) -> None:
    """Raise trouble that no test expects."""
    raise AssertionError(text)


def database(path: str = MEMORY, **options: Any) -> PeerDatabase:
    """Return a database without a thread."""
    return PeerDatabase(path, fail_on_complaint, **options)


def remembered(key: Fingerprint = OLD_KEY, **changes: Any) -> RememberedKey:
    """Return a key of the peer."""
    return RememberedKey(**{"domain": "peer.example", "key": key, "origin": "operator", "at": NOW, "certificate": OLD.der, **changes})


class PeerDatabaseTestCase(SynchronousTestCase):
    """A test case with synchronous answers."""

    def result(self, asked: Coroutine[Any, Any, T] | Deferred[T]) -> T:
        """Return the answer, or raise its error."""
        answer = asked if isinstance(asked, Deferred) else Deferred.fromCoroutine(asked)
        return self.successResultOf(answer)

    def failure(self, asked: Coroutine[Any, Any, Any] | Deferred[Any]) -> OSError:
        """Return the `OSError` of an answer that failed."""
        answer = asked if isinstance(asked, Deferred) else Deferred.fromCoroutine(asked)
        error = self.failureResultOf(answer, OSError).value
        assert isinstance(error, OSError)
        return error
