"""A state machine drives the real queues, agents, upstream acknowledgements and streams, with every possible fault at each step.

The account and its invariant are in `tests.support.custody_model`. Two drivers choose the steps: hypothesis, and random walks
(`tests.support.random_walks`). FUZZ_EXAMPLES sets the number of runs of each, FUZZ_WALKS that of the walks alone, FUZZ_SEED their seed.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any, cast
from unittest import mock

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, run_state_machine_as_test
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.delivery import expiry as delivery_expiry
from s2sgw.delivery import queue as delivery_queue
from s2sgw.delivery import spooling as delivery_spooling
from s2sgw.ingress import pair_ingress
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.stanza import Kind
from tests.support.custody_model import CLOSED, OVER_CONTENT, WINDOW, Model, SweepFault, passing_noted
from tests.support.known_walks import KNOWN
from tests.support.model_servers import LOST, Line, Link
from tests.support.random_walks import Between, Several, Walk, step

RUNS = int(os.environ.get("FUZZ_EXAMPLES", "60"))
WALKS = int(os.environ.get("FUZZ_WALKS", os.environ.get("FUZZ_EXAMPLES", "600")))
SEED = os.environ.get("FUZZ_SEED")
STEPS = 60
#: Bytes that are written, or read from the spool, at once: a few stanzas.
CHUNK = 400

#: Walks of one seed: number N of seed S is number N + S * OF_A_SEED of all.
OF_A_SEED = 1_000_000

EITHER = (False, True)
WHICH = Between(0, 5)
FEW = Between(1, 8)
KINDS = Several(("message", "message", "message", "presence", "iq"), 8)
SECONDS = (WINDOW, WINDOW, WINDOW, 1.0, 3.0, 11.0, 31.0, 130.0, 610.0)


def _attempts(machine: Any) -> bool:
    return bool(machine.model.attempts)


def _is_sweep_fault(error: BaseException | None) -> bool:
    """Return whether the model itself has made a sweep fail, and nothing else has failed."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_sweep_fault, error.exceptions))
    return isinstance(error, SweepFault)


class CustodyMachine(RuleBasedStateMachine):
    """One run. Its rules are the actions of servers, the disk, the clock and the operator."""

    def __init__(self) -> None:
        super().__init__()
        self._patches = ExitStack()
        self._patches.enter_context(mock.patch.object(delivery_queue, "CHUNK", CHUNK))
        self._patches.enter_context(passing_noted(lambda: self.model))
        self.model: Model
        #: failures that the gateway logged without raising
        self._failures: list[Failure] = []
        self._observer = cast(ILogObserver, self._note_failure)
        globalLogPublisher.addObserver(self._observer)

    def _note_failure(self, event: LogEvent) -> None:
        failure: Failure | None = event.get("log_failure")
        if failure is not None and not _is_sweep_fault(failure.value):
            self._failures.append(failure)

    def _raise_failures(self) -> None:
        if self._failures:
            self._failures[0].raiseException()

    @initialize(shared=st.booleans(), spools=st.sampled_from((True, True, True, False)), roomy=st.booleans())
    def begin(self, shared: bool, spools: bool, roomy: bool) -> None:
        self.model = Model(shared_back_end=shared, spools=spools, roomy=roomy)
        self.model.spool.work(10)
        self.model.spool.answer(10)
        for line in self.model.lines:
            self.model.connect(line)

    # --- choices among existing objects ---

    def _line(self, which: int) -> Line:
        return self.model.lines[which % len(self.model.lines)]

    def _link(self, which: int) -> Link | None:
        links = self.model.links
        return links[-1 - which % len(links)] if links else None

    def _ours(self, which: int) -> Link | None:
        links = [link for link in self.model.links if link.ours]
        return links[-1 - which % len(links)] if links else None

    def _queue(self, which: int) -> Any:
        queues = list(self.model.queues)
        return queues[which % len(queues)] if queues else None

    # --- servers send ---

    @step(which=WHICH, pair=WHICH, kinds=KINDS, number=FEW)
    def says(self, which: int, pair: int, kinds: list[Kind], number: int) -> None:
        line = self._line(which)
        for each, kind in enumerate(kinds):
            chosen = line.pairs[(pair + each // 3) % len(line.pairs)]
            self.model.send(line, chosen, kind, str(self.model.next_number()))
        self.model.bring(line, number)

    @step(which=WHICH, account=Between(0, 200))
    def says_again(self, which: int, account: int) -> None:
        """Use an id again, once its server knows the outcome of the first use."""
        line = self._line(which)
        known = [each for (pair, _), each in self.model.accounts.items() if pair in line.pairs and each.acknowledged and each.stanza.type != "result"]
        if known:
            chosen = known[account % len(known)]
            self.model.send(line, chosen.pair, chosen.stanza.kind, chosen.stanza.id or "")
            self.model.bring(line, 1)

    @step(which=WHICH, number=Between(1, 20))
    def brings(self, which: int, number: int) -> None:
        self.model.bring(self._line(which), number)

    @step(which=WHICH, managed=Between(0, 4), resumable=EITHER, back=EITHER)
    def connects(self, which: int, managed: int, resumable: bool, back: bool) -> None:
        self.model.connect(self._line(which), managed=bool(managed), resumable=resumable, back=back)

    @step(which=WHICH, behind=Between(0, 2))
    def hears(self, which: int, behind: int) -> None:
        self.model.hear(self._line(which), behind)

    @step(which=WHICH)
    def loses_on_one_side(self, which: int) -> None:
        self.model.lose_on_one_side(self._line(which))

    @step(late=EITHER, which=WHICH, all=EITHER)
    def admits(self, late: bool, which: int, all: bool) -> None:
        """Answer the questions for admission of pairs, in order, or one of them first."""
        self.model.admits_late = late
        admissions = self.model.admissions
        for admission in admissions[:] if all else admissions[which % (len(admissions) or 1):][:1]:
            admissions.remove(admission)
            admission.callback(None)

    @step(which=WHICH, pair=WHICH, refused=EITHER)
    def policy_changes(self, which: int, pair: int, refused: bool) -> None:
        pairs = self._line(which).pairs
        self.model.change_policy({pairs[pair % len(pairs)]} if refused else set())

    # --- servers take ---

    @step(needs=_attempts, which=WHICH, kind=("managed", "resumable", "resumable", "ping", "ping", "tcp", "joined"), granted=EITHER, back=EITHER)
    def opens(self, which: int, kind: str, granted: bool, back: bool = False) -> None:
        self.model.open_stream(self.model.attempts[which % len(self.model.attempts)], kind, granted, back)

    @step(needs=_attempts, which=WHICH, cause=(Cause.DNS_UNREACHABLE, Cause.CONNECTION_REFUSED, Cause.NO_SUCH_DOMAIN))
    def refuses(self, which: int, cause: Cause) -> None:
        self.model.refuse_stream(self.model.attempts[which % len(self.model.attempts)], cause)

    @step(which=WHICH, number=Between(1, 12))
    def takes(self, which: int, number: int) -> None:
        if (link := self._link(which)) is not None:
            self.model.take(link, number)

    @step(which=WHICH, behind=(0, 0, 1, 5))
    def acknowledges(self, which: int, behind: int) -> None:
        if (link := self._link(which)) is not None:
            self.model.acknowledge(link, behind)

    @step(which=WHICH)
    def lies(self, which: int) -> None:
        if (link := self._ours(which)) is not None:
            self.model.lie(link)

    @step(which=WHICH, number=(0, 3, 20), ending=(LOST, LOST, LOST, CLOSED, OVER_CONTENT))
    def breaks(self, which: int, number: int, ending: Any) -> None:
        if (link := self._link(which)) is not None:
            self.model.take(link, number)
            link.end(ending)

    @step(which=WHICH)
    def blocks(self, which: int) -> None:
        if (link := self._link(which)) is not None:
            self.model.block(link)

    @step(which=WHICH, broken=EITHER)
    def promises(self, which: int, broken: bool) -> None:
        if (link := self._ours(which)) is not None:
            (self.model.break_promise if broken else self.model.promise)(link)

    @step(which=WHICH)
    def falls_silent_or_speaks(self, which: int) -> None:
        server = list(self.model.servers.values())[which % len(self.model.servers)]
        server.answers = not server.answers

    # --- the disk, and time ---

    @step(work=(0, 1, 1, 2, 20), answer=(0, 1, 1, 2, 20))
    def disk_works(self, work: int, answer: int) -> None:
        self.model.spool.work(work)
        self.model.spool.answer(answer)

    @step(full=EITHER, reads=EITHER, writes=EITHER, hangs=EITHER)
    def disk_fails(self, full: bool, reads: bool, writes: bool, hangs: bool) -> None:
        spool = self.model.spool
        spool.full, spool.reads_fail, spool.writes_fail, spool.hangs = full, reads, writes, hangs

    @step()
    def disk_is_mended(self) -> None:
        self.model.spool.mend()

    @step(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.model.pass_time(seconds)

    @step(which=WHICH, times=(1, 1, 3, 30))
    def sweep_fails(self, which: int, times: int) -> None:
        """Let the next sweeps of a queue fail."""
        if (queue := self._queue(which)) is not None:
            self.model.sweep_fails[queue.pair] = times

    @step(step=(-3600.0, 3600.0))
    def wall_clock_steps(self, step: float) -> None:
        self.model.wall_offset += step

    # --- the operator, and the end of the process ---

    @step(which=WHICH, what=("hold", "hold stanza", "release", "release", "release", "drop", "drop quietly", "flush", "contact"))
    def operator(self, which: int, what: str) -> None:
        queue = self._queue(which)
        if queue is None:
            return
        if what == "hold":
            self.model.hold(queue)
        elif what == "hold stanza":
            self.model.hold_stanza(queue)
        elif what == "release":
            self.model.release(queue)
        elif what == "flush":
            queue.flush()
        elif what == "contact":
            self.model.queues.retry_now(queue.pair.recipient)
        else:
            self.model.drop(queue, what == "drop quietly")

    @step(taken=(0, 0, 3, 50), rarely=Between(0, 3))
    def is_killed(self, taken: int, rarely: int) -> None:
        if not rarely:
            self.model.kill(taken)

    @step(servers_work=EITHER, disk_works=EITHER, rarely=Between(0, 5))
    def is_stopped(self, servers_work: bool, disk_works: bool, rarely: int) -> None:
        if not rarely:
            self.model.stop(servers_work, disk_works)

    # --- invariants ---

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "model"):
            self.model.check()
            self.model.check_queues()
        self._raise_failures()

    def finish(self) -> None:
        """Let everything complete."""
        try:
            if hasattr(self, "model"):
                self.model.finish()
        except AssertionError:
            self._raise_failures()  # this may be the reason
            raise
        self._raise_failures()

    def close(self) -> None:
        """Restore what was patched."""
        globalLogPublisher.removeObserver(self._observer)
        self._patches.close()

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.close()


class CustodyTests(SynchronousTestCase):
    """R33, R35: stanzas are in order per pair, no acknowledged one is lost, no request arrives twice, and everything ends."""

    def test_custody(self) -> None:
        """Drive the gateway with random steps by hypothesis."""
        machine = CustodyMachine if SEED is None else seed(int(SEED))(CustodyMachine)
        try:
            run_state_machine_as_test(machine, settings=settings(
                max_examples=RUNS, stateful_step_count=STEPS, deadline=None, report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ))
        except Exception as error:  # trial shows no notes, and the steps are in one
            raise self.failureException("\n".join([str(error), *getattr(error, "__notes__", ())])) from error

    def tearDown(self) -> None:
        """Forget the errors that the model has raised. The machine raises all others."""
        self.flushLoggedErrors(SweepFault, ExceptionGroup)

    def small_steps(self) -> None:
        """Take steps of one stanza where many are bounced."""
        for module in (delivery_queue, delivery_spooling, delivery_expiry, pair_ingress):
            self.patch(module, "BOUNCED_AT_ONCE", 1)
        self.patch(pair_ingress, "PASSED_AT_ONCE", 1)

    def test_known_walks(self) -> None:
        """Repeat the walks that found a fault."""
        self.small_steps()
        for name, walk in KNOWN.items():
            failure = walk.failure(CustodyMachine)
            if failure is not None:
                raise self.failureException(f"the walk of {name}: {failure}") from failure

    def test_walks(self) -> None:
        """Drive it by random walks, far more often, with steps of one stanza if many are bounced."""
        self.small_steps()
        first = int(SEED or 0) * OF_A_SEED
        for number in range(first, first + WALKS):
            walk = Walk.numbered(number, CustodyMachine)
            failure = walk.failure(CustodyMachine)
            if failure is not None:
                text = walk.shortened(CustodyMachine, failure).text()
                raise self.failureException(f"walk {number}: {failure}\n{text}") from failure
