"""The servers of the custody model, and the contents of the connections between them and the gateway."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any, ParamSpec, cast

from twisted.internet.defer import Deferred, succeed

from s2sgw.ingress.stream_ingress import StreamIngress
from s2sgw.reporting.record import Leg
from s2sgw.s2s.resumption import BrokenStream
from s2sgw.s2s.shared_stream import SharedStream
from s2sgw.stream.events import Event, Refusal
from s2sgw.stream.management import Counters, Resumption
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from tests.support.custody_model import Model

P = ParamSpec("P")

LOST = Ending(Cause.CONNECTION_LOST, by="network")
#: Seconds for which a stream that broke may be resumed.
RESUME_SECONDS = 60
#: Seconds that a server takes to answer a closing tag.
CLOSING_SECONDS = 0.05

_TAG = re.compile(rb"<(message|presence|iq)\b([^>]*)>|<r ")
_ATTRIBUTE = re.compile(rb"""\b(id|type|from|to)=['"]([^'"]*)""")


@cache
def domain_of(address: str) -> Domain:
    """Return the domain of an address."""
    return Domain.parse((address.partition("@")[2] or address).partition("/")[0])


class Token:
    """Something in transit to a server: a stanza, a ping, `<r/>`, or ("counted") the point where the server begins to count."""

    __slots__ = ("error", "id", "kind", "pair", "request")

    def __init__(self, kind: str, attributes: dict[bytes, bytes] | None = None) -> None:
        self.kind = kind
        found = {name.decode(): value.decode() for name, value in (attributes or {}).items()}
        self.id = found.get("id", "")
        self.error = found.get("type") == "error"
        self.request = kind == "iq" and found.get("type") == "get"
        self.pair = Pair(domain_of(found["from"]), domain_of(found["to"])) if "from" in found else None

    @property
    def counts(self) -> bool:
        """Return True if XEP-0198 counts it."""
        return self.kind in ("message", "presence", "iq")

    @property
    def ping(self) -> bool:
        """Return True if it is a ping of the gateway's own."""
        return self.request and self.id.startswith("s2sgw-")


class Server:
    """The server of `domains`, on `leg` of the gateway."""

    def __init__(self, domains: tuple[Domain, ...], leg: Leg) -> None:
        self.domains = domains
        self.leg: Leg = leg
        #: it answers pings, and acknowledges stanzas
        self.answers = True
        #: by the id of a gateway's stream that broke: the number of stanzas received on it
        self.sessions: dict[str, int] = {}


class Line:
    """The stanzas of `pairs` that a server sends in one order, on one stream after another."""

    def __init__(self, server: Server, pairs: tuple[Pair, ...]) -> None:
        self.server = server
        self.pairs = pairs
        #: stanzas to send: (pair, stanza, True if it is sent for the first time)
        self.outbox: deque[tuple[Pair, Stanza, bool]] = deque()
        self.link: Link | None = None
        #: with XEP-0198: stanzas sent since it was enabled, and the number that the server knows to be safe
        self.brought: list[tuple[Pair, Stanza]] = []
        self.heard = 0
        #: the broken stream that is to be resumed
        self.broken: Link | None = None

    def take_back(self) -> None:
        """Send again the stanzas that are not known to be safe, before all others."""
        self.outbox.extendleft((pair, stanza, False) for pair, stanza in reversed(self.brought[self.heard:]))
        self.brought, self.heard, self.broken = [], 0, None


class Link:
    """A stream: connection and engine in one. It brings the stanzas of `line`, and carries those of `shared_stream` away."""

    tls_version, cipher, peer_address = "TLSv1.3", None, "192.0.2.1:5269"
    leg: Leg = "federation"

    def __init__(self, model: Model, server: Server, line: Line | None, *, ours: bool, kind: str, several: bool) -> None:
        self.model = model
        self.server = server
        self.line = line
        self.ours = ours
        self.kind = kind
        self.shared = several
        self.life = model.life
        self.counters: Counters | None = None
        #: True if XEP-0198 may still be enabled; the number of stanzas that the server has counted
        self.asking_open = True
        self.taken: int | None = None
        self.resumption: Resumption | None = None
        self.continues = self.closing = self.retiring = False
        #: a stream of the server's: the pairs that go back on it (XEP-0288)
        self.carried: list[Pair] = []
        self.ending: Ending | None = None
        self.writable = True
        self.holders: set[object] = set()
        #: the time since which the gateway reads; `inf` if it does not
        self.read_since = self.last_received = model.clock.seconds()
        self.wire: deque[Token] = deque()
        self._closed: list[Deferred[None]] = []
        self.shared_stream = SharedStream(cast(Any, self), cast(Any, self), self, cast(Any, object()) if ours else None)
        self.ingress: StreamIngress | None = None
        if line is not None:
            line.link = self
            self.ingress = StreamIngress(
                model.services, self, self, server.leg, model, self.senders,
            )
            if ours:
                self.shared_stream.incoming = self.ingress

    # --- the engine ---

    @property
    def managed(self) -> bool:
        return self.counters is not None

    @property
    def owes(self) -> bool:
        if not self.heard or self.line is None or self.counters is None:
            return False
        return self.counters.handled < len(self.line.brought)

    @property
    def acknowledged_to_peer(self) -> int:
        return 0 if self.counters is None else self.counters.told

    def handled(self, number: int) -> list[Event]:
        assert self.counters is not None
        assert self.line is not None
        self.counters.handled += number
        if self.heard:
            assert self.counters.handled <= len(self.line.brought), "more acknowledged than was sent"
            self.tell()
        return []

    @property
    def heard(self) -> bool:
        """Read the stream as the server, unless the server has replaced it by another."""
        return self.line is not None and self in (self.line.link, self.line.broken)

    def tell(self) -> None:
        """Tell the server which stanzas are safe."""
        assert self.counters is not None
        assert self.line is not None
        told, self.counters.told = self.counters.told, self.counters.handled
        self.model.acknowledged(self.line.brought[told:self.counters.told])

    def sent(self, number: int) -> bool:
        if self.counters is None:
            return False
        self.counters.sent += number
        return True

    def enable(self, resumable: bool) -> None:
        """Enable XEP-0198 in both directions, from the first stanza on."""
        self.counters, self.taken, self.asking_open = Counters(0), 0, False
        if resumable:
            self.resumption = Resumption(f"r{self.model.next_number()}", RESUME_SECONDS, self.counters)

    # --- the connection ---

    def step(self, method: Callable[P, list[Event]], *args: P.args, **kwargs: P.kwargs) -> None:
        if self.ending is None:
            method(*args, **kwargs)

    @property
    def has_unread_input(self) -> bool:
        return bool(self.holders)

    def pause(self, holder: object) -> None:
        self.holders.add(holder)
        self.read_since = inf

    def resume(self, holder: object) -> None:
        self.holders.discard(holder)
        if not self.holders and self.read_since == inf:
            self.read_since = self.model.clock.seconds()

    def write(self, data: bytes) -> bool:
        if self.ending is None:
            for found in _TAG.finditer(data):
                attributes = dict(_ATTRIBUTE.findall(found[2])) if found[1] else None
                self.wire.append(Token((found[1] or b"r").decode(), attributes))
        return not self.writable

    def when_closed(self) -> Deferred[None]:
        if self.ending is not None:
            return succeed(None)
        self._closed.append(Deferred())
        return self._closed[-1]

    def close(self, ending: Ending) -> None:
        """Close normally: data in transit arrives, in both directions on a stream of ours that carries both (XEP-0288)."""
        if self.ending is not None or self.closing:
            return
        self.model.take(self, len(self.wire))
        if self.ours and self.line is not None:
            self.closing = True
            self.model.clock.callLater(CLOSING_SECONDS, self._close_late, ending)
        else:
            self.end(ending)

    def _close_late(self, ending: Ending) -> None:
        """Read what the server wrote before it read the closing tag."""
        if self.ending is None and self.line is not None:
            self.model.go_on_sending(self.line)
            self.end(ending)

    def wind_down(self, ending: Ending) -> None:
        """Close normally. The server closes its side at once."""
        self.close(ending)

    def fail(self, refusal: Refusal) -> None:
        self.close(refusal.ending)

    def abort(self, ending: Ending) -> None:
        self.end(ending)

    def end(self, ending: Ending) -> None:
        """End the connection: data in transit is lost."""
        if self.ending is not None:
            return
        self.ending = ending
        self.wire.clear()
        self.model.links.remove(self)
        resumption, self.resumption = self.resumption, None
        broken_off = resumption if ending.by == "network" and not self.closing else None
        if self.line is not None and self.line.link is self:
            self.line.link = None
        if self.life is self.model.life:
            self._end_ours(ending, broken_off) if self.ours else self._end_theirs(ending, resumption, broken_off)
        if self.line is not None and self.line.broken is not self and self.line.link is None:
            self.line.take_back()
        closed, self._closed = self._closed, []
        for each in closed:
            each.callback(None)

    def _end_ours(self, ending: Ending, broken_off: Resumption | None) -> None:
        """Act as `s2s.connecting.InitiatedStream.ended`."""
        if broken_off is not None and not self.shared_stream.shared:
            self.server.sessions[broken_off.id] = self.taken or 0
            self.shared_stream.broken = BrokenStream.of(broken_off, None)
        self.shared_stream.lost(ending)
        if self.ingress is not None:
            self.ingress.close(ending)

    def _end_theirs(self, ending: Ending, resumption: Resumption | None, broken_off: Resumption | None) -> None:
        """Act as `s2s.accepted_stream.AcceptedStream.ended`."""
        assert self.ingress is not None
        assert self.line is not None
        kept, table = False, self.model.table
        if resumption is not None:
            table.closed(resumption.id)
            if broken_off is not None:
                broken_off.counters.began = -len(self.line.brought)
                kept = table.keep(broken_off, cast(Any, self), ending)
        if kept:
            self.line.broken, self.former = self, broken_off
        else:
            self.ingress.close(ending)
            self.shared_stream.lost(ending)

    # --- the owner of a resumable stream (`s2s.resumption_table`) ---

    former: Resumption | None = None

    @property
    def incoming(self) -> StreamIngress | None:
        return self.ingress

    @property
    def pairs(self) -> frozenset[Pair]:
        return frozenset(() if self.line is None else [*self.line.pairs, *self.carried])

    @property
    def senders(self) -> set[Domain]:
        return set() if self.line is None else {pair.sender for pair in self.line.pairs}

    def displace(self) -> None:
        self.end(LOST)
