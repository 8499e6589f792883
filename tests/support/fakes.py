"""Stand-ins for the neighbours of the tested code: next hops, reactors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from s2sgw.delivery.next_hop import NextHop, NextHopStatus
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Domain


class Transports:
    """Transports that take every next hop from `next_hop(queue)`."""

    def __init__(self, next_hop: Callable[[DeliveryQueue], NextHop]) -> None:
        self.next_hop = next_hop


class FakeNextHop:
    """A next hop that takes everything at once and acknowledges nothing. Tests override the methods that they need."""

    ready = True
    slow = False
    acknowledges = False
    acks_arrive_elsewhere = False
    last_cause = Cause.CLOSED

    @property
    def state(self) -> str:
        return "idle"

    def dispose(self) -> None: ...

    def status(self) -> NextHopStatus:
        return NextHopStatus(self.state)

    def send(self, data: Sequence[bytes]) -> bool:
        return self.slow

    def relieve_pressure(self) -> None: ...

    def request_delivery(self) -> None: ...

    def withdraw_request(self) -> None: ...

    def retry_now(self, urged: bool = False) -> None: ...

    def release_stream(self) -> None: ...

    def stop(self, cause: Cause) -> Deferred[None]:
        return succeed(None)

    def abandon(self) -> None: ...


class _NoThreads:
    """A reactor that runs calls for another thread at once."""

    def callInThreadWithCallback(self, done: Callable[[bool, Any], None], call: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Call, and report the result."""
        try:
            result = call(*args, **options)
        except Exception:
            done(False, Failure())
        else:
            done(True, result)


class ThreadlessReactor(MemoryReactorClock):
    """A reactor that calls at once what another thread would call later."""

    def callFromThread(self, call: Any, *args: Any, **options: Any) -> None:
        call(*args, **options)

    def getThreadPool(self) -> _NoThreads:
        """Return a pool without threads."""
        return _NoThreads()


class FixedClock:
    """A wall clock with a fixed time."""

    def __init__(self, at: float) -> None:
        self._at = at

    def seconds(self) -> float:
        return self._at


class FixedRandom:
    """A source of chance that gives `numbers` in turn, and then the last one repeatedly (`queue.backoff.Chance`)."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers or (0.0,))

    def random(self) -> float:
        return self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]


class Connections:
    """A provider of connections that takes each from `connect(engine, owner)`."""

    def __init__(self, connect: Callable[[Any, Any], Any]) -> None:
        self.connect = connect


class Recorder:
    """An object that keeps the arguments of every call of any of its methods, in `calls`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append(arguments)


class FixedAnchors:
    """The same trust anchors for every policy, and no revocation list."""

    def __init__(self, anchors: Any) -> None:
        self._anchors = anchors

    def anchors(self, policy: object) -> Any:
        return self._anchors

    def revocations(self, path: object) -> None: ...


class OneDomain:
    """An `Identity` with one local domain and one certificate, if any."""

    def __init__(self, local: Domain, certificate: Any = None) -> None:
        self._local = local
        self._certificate = certificate
        self.local_domains = frozenset({local})

    def is_local(self, domain: Domain) -> bool:
        return domain == self._local

    is_own = is_local

    def may_be_local(self, text: str) -> bool:
        return True

    def credential(self, local: Domain, peer: Domain) -> Any:
        return self._certificate if local == self._local else None

    def server_tls(self, direct: bool) -> Any:
        raise AssertionError("TLS was opened")
