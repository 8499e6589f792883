"""A lane under everything at once, against a model: a slow spool, acknowledgements of every kind, lost streams, holds, restarts.

What the model asks: per pair, whatever arrives for the first time arrives in the order in which it was accepted; nothing is
lost; nothing arrives twice but what a lost stream left in doubt; nobody upstream is told too early, and everybody in the end.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery import queue as flows
from s2sgw.delivery.ack_selection import AckSelection
from s2sgw.delivery.acknowledgements import Acks
from s2sgw.delivery.agent import DeliveryAgent
from s2sgw.delivery.next_hop import NextHop, NextHopLimits, StreamFacts
from s2sgw.delivery.outbound_stream import StreamUnavailable
from s2sgw.delivery.queue import DeliveryQueue
from s2sgw.queue.backoff import BackOff
from s2sgw.queue.evidence import PASSED_ON, WRITTEN, ReceiptEvidence
from s2sgw.reporting.record import Direction, EventRecord
from s2sgw.s2s.extensions import ExtensionMemory
from s2sgw.spool.interface import Done, Replaced, Spooled, SpoolError
from s2sgw.spool.memory_spool import MemorySpool
from s2sgw.stream.events import Acknowledged, Event, ManagementEnabled, ManagementRefused
from s2sgw.stream.management import Counters
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.namespaces import MANAGEMENT
from s2sgw.xmpp.stanza import Kind, Stanza
from tests.support.custody import Receipt, custody_of, stop
from tests.support.fakes import FakeNextHop

HERE, THERE = Domain.parse("here.example"), Domain.parse("there.example")
OUT = Pair(HERE, THERE)
#: Bytes of memory: a lane may take a quarter, and keeps a sixty-fourth once the spool has it: one stanza or two.
MEMORY = 64 * 1024
#: Bytes written, or read from the spool, at once: a few stanzas.
CHUNK = 200
WINDOW = 0.02
#: Runs (each its own seed; `make fuzz` takes more), and steps of each.
RUNS, STEPS = int(os.environ.get("FUZZ_EXAMPLES", "1100")), 90
#: What happens, and how often in so many steps.
WEIGHTS = {
    "comes": 22, "time passes": 18, "disk answers": 22, "opens": 10, "arrives": 8, "acknowledged": 8, "lost": 6, "rarely": 6,
}
KINDS: tuple[Kind, ...] = ("message", "presence", "iq")
RARELY = (
    "refused", "refused for good", "blocked", "blocked", "promised", "broken promise", "held", "let go", "let go", "contact",
    "contact", "restart",
)

_TOKEN = re.compile(rb"<(message|presence|iq)\b[^>]*? id='([^']+)'|<r ")


def stanza(number: int, kind: Kind) -> Stanza:
    type = "get" if kind == "iq" else None
    data = f"<{kind} id='{number}'>{'.' * 30}</{kind}>".encode()
    return Stanza(kind, data, "u@there.example", "u@here.example/r", type, str(number))


class SlowSpool(MemorySpool):
    """A spool whose answers come when the test says so. `safe`: the numbers of the stanzas of which it has said so."""

    def __init__(self, limit: int) -> None:
        self.answers: deque[Callable[[], None]] = deque()
        self.safe: set[int] = set()
        super().__init__(limit, self.answers.append)

    def append(self, batch: Sequence[Spooled], done: Done, replaces: Sequence[Replaced] = ()) -> None:
        def answered(error: SpoolError | None) -> None:
            if error is None:
                self.safe |= {int(row.stanza.id or "") for row in batch}
            done(error)
        super().append(batch, answered, replaces)

    def answer(self, number: int) -> None:
        for _ in range(min(number, len(self.answers))):
            self.answers.popleft()()


class Engine:
    """The counters of one stream."""

    def __init__(self) -> None:
        self.counters: Counters | None = None

    @property
    def managed(self) -> bool:
        return self.counters is not None

    @property
    def unacknowledged(self) -> int:
        return 0 if self.counters is None else self.counters.sent - self.counters.acknowledged

    def sent(self, number: int) -> None:
        if self.counters is not None:
            self.counters.sent += number


class Wire:
    """A stream to the next server, as the delivery agent and as the next server see it."""

    method, reasons, pair, limits, resumable, outcome = "EXTERNAL", (), OUT, NextHopLimits(), None, None
    asking = ambiguous = shared_connection = carries_back = answers = False
    sole = ours = True
    largest_in_flight = 0

    def __init__(self, managed: bool, over: Callable[[], None]) -> None:
        self._over = over
        self.engine = Engine()
        self.user: Any = None
        self.writable = True
        self.ending: Ending | None = None
        #: on their way: numbers of stanzas, ids of pings, "r", and "counted" from where the next server counts
        self.way: deque[int | str] = deque()
        self.pings: deque[str] = deque()
        self.last = 0
        self.count: int | None = None
        #: whether there are acknowledgements (XEP-0198) may still change
        self.open = True
        if managed:
            self.count, self.engine.counters = 0, Counters(0)

    @property
    def managed(self) -> bool:
        return self.engine.managed

    @property
    def unacknowledged(self) -> int:
        return self.engine.unacknowledged

    def count_sent(self, number: int) -> None:
        self.engine.sent(number)

    def note_answer(self) -> None:
        self.answers = True

    def facts(self) -> StreamFacts:
        return StreamFacts("federation", "EXTERNAL", (), "192.0.2.1:5269", "TLSv1.3", None, True, self)

    def write(self, stanzas: Sequence[bytes]) -> None:
        for found in _TOKEN.finditer(b"".join(stanzas)):
            name = (found[2] or b"r").decode()
            self.way.append(int(name) if name.isdigit() else name)

    def close(self, ending: Ending) -> Deferred[None]:
        if self.ending is None:
            self.ending = ending
            self._over()
            if self.user is not None:
                self.user.stream_lost(ending)
        return succeed(None)

    abort = close

    def leave(self, ending: Ending) -> Deferred[None]:
        self.user = None
        return self.close(ending)

    def when_closed(self) -> Deferred[None]:
        return succeed(None)

    def event(self, event: Event) -> None:
        if self.user is not None:
            self.user.stream_event(event)


class Tally(EventRecord):
    """Tells the model what became of each stanza."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.clock, Logger())
        self._model = model

    def counted(self, direction: Direction, outcome: str, stanzas: Iterable[Stanza]) -> None:
        stanzas = list(stanzas)
        super().counted(direction, outcome, stanzas)
        if direction == "outbound":
            self._model.became(outcome, [int(each.id or "") for each in stanzas])


class Model:
    """The gateway's lane of one pair, with its courier, between an upstream that counts receipts and a next server that counts stanzas."""

    def __init__(self) -> None:
        self.evidence: ReceiptEvidence = WRITTEN
        self._patches: list[Any] = [mock.patch.object(flows, "CHUNK", CHUNK), mock.patch.object(DeliveryQueue, "_passed_on", self._noted())]
        for patch in self._patches:
            patch.start()
        self.clock = Clock()
        self.spool = SlowSpool(1 << 20)
        self.wire: Wire | None = None
        self.attempt: Deferred[Wire] | None = None
        self.acks: Acks = "auto"
        self.next = 1
        self.arrived: set[int] = set()
        #: passed on by our books, and by which stream
        self.passed: dict[int, Wire | None] = {}
        #: ended in another way, and believed to have arrived where nobody said so
        self.ended: set[int] = set()
        self.believed: set[int] = set()
        #: what each who brought stanzas still waits for
        self.open: dict[int, list[int]] = {}
        self._begin()

    def _noted(self) -> Any:
        """Note by which evidence stanzas are passed on."""
        passed_on = DeliveryQueue._passed_on

        def noted(queue: DeliveryQueue, number: int, evidence: ReceiptEvidence) -> None:
            self.evidence = evidence
            passed_on(queue, number, evidence)
            self.evidence = WRITTEN

        return noted

    def _begin(self) -> None:
        self.extensions = ExtensionMemory(self.clock)
        self.record = Tally(self)
        self.custody = custody_of(
            self.clock, self.record, lambda domain: domain == HERE, self._next_hop, memory=MEMORY, spool=self.spool, window=WINDOW,
        )
        self.queues = self.custody.queues
        self.ack_selection = AckSelection(lambda domain: self.acks, self.queues.replies, self.extensions, self.clock)

    def _next_hop(self, queue: DeliveryQueue) -> NextHop:
        if queue.direction == "inbound":
            return FakeNextHop()
        way: Any = mock.Mock(leg="federation", find=self._find)
        return DeliveryAgent(queue, way, self.record, BackOff(jitter=0), lambda: 0.0, self.clock, self.ack_selection.choose)

    async def _find(self, *_: Any) -> Wire:
        self.attempt = Deferred()
        return await self.attempt

    @property
    def queue(self) -> DeliveryQueue:
        return self.queues.queue(OUT)

    @property
    def agent(self) -> DeliveryAgent:
        assert isinstance(self.queue.next_hop, DeliveryAgent)
        return self.queue.next_hop

    # --- what must hold ---

    def became(self, outcome: str, numbers: Sequence[int]) -> None:
        """Our books say so."""
        if outcome == "passed":
            self._passed(numbers)
        elif outcome != "resent":
            assert not self.passed.keys() & set(numbers), f"{outcome} after it was passed on: {numbers}"
            self.ended |= set(numbers)

    def _passed(self, numbers: Sequence[int]) -> None:
        unknown = [number for number in numbers if number not in self.arrived]
        if self.evidence is PASSED_ON:
            assert not unknown, f"passed on, but not arrived: {unknown}"
        assert not self.passed.keys() & set(numbers), f"passed on twice: {numbers}"
        self.believed |= set(unknown)
        self.passed |= dict.fromkeys(numbers, self.wire)

    def _arrives(self, wire: Wire, number: int) -> None:
        assert number > wire.last, f"{number} after {wire.last} on one stream"
        wire.last = number
        before = set(range(1, number)) - self.arrived - self.ended
        assert not before, f"{number} overtook {sorted(before)}"
        assert number not in self.ended, f"{number} had ended"
        assert self.passed.get(number, wire) is wire, f"{number} came again although it was passed on"
        self.arrived.add(number)
        self.believed.discard(number)

    def _settled(self, first: int) -> None:
        numbers = self.open.pop(first)
        unsafe = set(numbers) - self.passed.keys() - self.ended - self.spool.safe
        assert not unsafe, f"settled, and nowhere: {sorted(unsafe)}"

    # --- what happens ---

    def comes(self, kinds: list[Kind]) -> None:
        """One turn's stanzas."""
        numbers = list(range(self.next, self.next + len(kinds)))
        self.next += len(kinds)
        self.open[numbers[0]] = numbers
        upstream_ack = Receipt(len(kinds), lambda: self._settled(numbers[0]))
        self.queue.accept([stanza(*each) for each in zip(numbers, kinds, strict=True)], None, upstream_ack)

    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if seconds >= 1:
            self.custody.expiry.sweep()

    def disk_answers(self, number: int) -> None:
        self.spool.answer(number)

    def stream_opens(self, kind: str) -> None:
        attempt, self.attempt = self.attempt, None
        assert attempt is not None
        self.acks = "tcp" if kind == "tcp" else "auto"
        self.wire = Wire(kind == "managed", self._over)
        attempt.callback(self.wire)

    def arrives(self, number: int) -> None:
        """The next server takes what is on its way."""
        if self.wire is not None:
            self._take(self.wire, number)

    def _take(self, wire: Wire, number: int) -> None:
        for _ in range(min(number, len(wire.way))):
            token = wire.way.popleft()
            if token == "counted":
                wire.count = 0
                continue
            if wire.count is not None and token != "r":
                wire.count += 1
            if isinstance(token, int):
                self._arrives(wire, token)
            elif token != "r":
                wire.pings.append(token)

    def acknowledges(self, behind: int) -> None:
        """The next server says what it has, or all but the last few of it."""
        if self.wire is not None:
            self._acknowledge(self.wire, behind)

    def _acknowledge(self, wire: Wire, behind: int = 0) -> None:
        if wire.pings:
            answer = Stanza("iq", b"<iq/>", "here.example", "there.example", "result", wire.pings.popleft())
            self.queues.queue(OUT.inverse).accept([answer])
        counters = wire.engine.counters
        if counters is not None and wire.count is not None and wire.count - behind > counters.acknowledged:
            wire.open = False
            count = counters.acknowledge(Element("a", MANAGEMENT, {"h": str(wire.count - behind)}))
            wire.event(Acknowledged(count))

    def stream_lost(self, number: int, content: bool) -> None:
        """A few stanzas arrive yet; the rest never does."""
        assert self.wire is not None
        self._take(self.wire, number)
        over_content = Ending(Cause.STREAM_ERROR, by="them", condition="policy-violation")
        self.wire.close(over_content if content else Ending(Cause.CONNECTION_LOST, by="network"))

    def _over(self) -> None:
        """The stream is gone; what was believed to have arrived, and did not, is nobody's any more."""
        self.wire = None
        self.ended |= self.believed
        self.believed.clear()

    def rarely(self, what: str) -> None:
        """What happens now and then; some of it only where it can."""
        if what.startswith("refused") and self.attempt is not None:
            attempt, self.attempt = self.attempt, None
            attempt.errback(StreamUnavailable(Ending(Cause.DNS_UNREACHABLE if what == "refused" else Cause.NO_SUCH_DOMAIN)))
        elif what == "held":
            self.queue.hold()
        elif what == "let go":
            self.queue.release()
        elif what == "contact":
            self.queues.retry_now(THERE)
        elif what == "restart":
            self._restart()
        elif self.wire is not None:
            self._on_the_stream(self.wire, what)

    def _on_the_stream(self, wire: Wire, what: str) -> None:
        if what == "blocked":
            self._block(wire)
        elif what == "promised" and wire.open and not wire.engine.managed:
            wire.open = False
            wire.way.append("counted")
            wire.engine.counters = Counters(0)
            wire.event(ManagementEnabled())
        elif what == "broken promise" and wire.open and wire.engine.managed:
            wire.open = False
            wire.engine.counters = wire.count = None
            wire.event(ManagementRefused())

    def _block(self, wire: Wire) -> None:
        """It takes nothing more; or takes again."""
        wire.writable = not wire.writable
        if wire.writable:
            wire.user.stream_free()
        else:
            wire.user.stream_slow()

    def _restart(self) -> None:
        """In order: nothing is lost, and what came before is older."""
        stop(self.custody)
        self.attempt = None
        while self.spool.answers:
            self.spool.answer(1)
        assert not self.open, f"nobody was told: {self.open}"
        self._begin()
        self.custody.restore.restore_all()
        while self.spool.answers:
            self.spool.answer(1)

    # --- the end ---

    def close(self) -> None:
        for patch in self._patches:
            patch.stop()

    def finish(self) -> None:
        """Everything is let through; then nothing is left anywhere."""
        self.queue.release()
        for _ in range(200):
            if self.attempt is not None:
                self.stream_opens("managed")
            if self.wire is not None:
                if not self.wire.writable:
                    self._block(self.wire)
                self._take(self.wire, 1000)
                self._acknowledge(self.wire)
            self.spool.answer(1000)
            self.clock.advance(1)
            self.custody.expiry.sweep()
            if not len(self.queue.pair_queue) and not self.spool.answers:
                break
        everything = set(range(1, self.next))
        missing = everything - self.arrived - self.ended - self.believed
        assert not missing, f"lost: {sorted(missing)}"
        left = len(self.queue.pair_queue), self.spool.count, self.custody.services.relief.memory.used, self.open
        assert left == (0, 0, 0, {}), f"left behind: lane, spool, memory, receipts: {left}"


def walk(model: Model, chance: Random) -> None:
    """Now this happens, now that."""
    for _ in range(chance.randint(5, STEPS)):
        what = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if what == "comes":
            model.comes(chance.choices(KINDS, (6, 1, 1), k=chance.randint(1, 8)))
        elif what == "time passes":
            model.time_passes(chance.choices((WINDOW, 1.0, 3.0, 11.0, 31.0), (8, 1, 1, 1, 1))[0])
        elif what == "disk answers":
            model.disk_answers(chance.choice((1, 1, 1, 2, 5)))
        elif what == "opens" and model.attempt is not None:
            model.stream_opens(chance.choices(("managed", "ping", "tcp"), (2, 2, 1))[0])
        elif what == "arrives":
            model.arrives(chance.randint(1, 12))
        elif what == "acknowledged":
            model.acknowledges(chance.choice((0, 0, 1, 5)))
        elif what == "lost" and model.wire is not None:
            model.stream_lost(chance.choice((0, 3, 20)), content=chance.random() < 0.3)
        else:
            model.rarely(chance.choice(RARELY))


class FlowModelTests(SynchronousTestCase):
    """Chance, against the model."""

    def test_order_and_custody(self) -> None:
        """R33, R35: in order per pair, nothing lost, twice only what a lost stream left in doubt, told neither early nor never."""
        for seed in range(RUNS):
            model = Model()
            try:
                walk(model, Random(seed))
                model.finish()
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            finally:
                model.close()
