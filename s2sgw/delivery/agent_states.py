"""The states of a delivery agent, the data of each state, and the transitions (docs/decisions.md#engines)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from s2sgw.delivery.acknowledgements import Acknowledgements
from s2sgw.delivery.outbound_stream import OutboundStream, StreamUnavailable
from s2sgw.xmpp.ending import Cause, Ending


@dataclass(slots=True)
class Idle:
    """There is no stream, and none is needed."""

    word: ClassVar[str] = "idle"


@dataclass(slots=True)
class Connecting:
    """A stream is being opened."""

    attempt: Deferred[Any]
    word: ClassVar[str] = "connecting"


@dataclass(slots=True)
class Delivering:
    """A stream is open, since `since`.

    `acked`: something was acknowledged on it. `promised`: it will be acknowledged by XEP-0198 as soon as nothing is in flight.
    """

    stream: OutboundStream
    acknowledgements: Acknowledgements
    since: float
    acked: bool = False
    promised: bool = False
    word: ClassVar[str] = "ready"


@dataclass(slots=True)
class Suspended:
    """A stream of the other side was lost and may be resumed (XEP-0198 §5). `timer` fires when a stanza in flight expires."""

    stream: OutboundStream
    acknowledgements: Acknowledgements
    since: float
    acked: bool
    timer: IDelayedCall | None
    word: ClassVar[str] = "broken"


@dataclass(slots=True)
class BackingOff:
    """The next attempt is made when `timer` fires."""

    timer: IDelayedCall
    word: ClassVar[str] = "backing off"


@dataclass(slots=True)
class Stopped:
    """The gateway closes. `closed` fires when the stream is closed."""

    closed: Deferred[None]
    word: ClassVar[str] = "idle"


AgentState = Idle | Connecting | Delivering | Suspended | BackingOff | Stopped


class AgentInputs(Protocol):
    """The inputs of an agent."""

    def request_delivery(self) -> None:
        """Stanzas wait."""

    def withdraw(self) -> None:
        """No stanza waits any more."""

    def connected(self, stream: OutboundStream) -> None:
        """The attempt succeeded, or a suspended stream was resumed."""

    def failed(self, refusal: StreamUnavailable) -> None:
        """The attempt failed."""

    def suspended(self, ending: Ending) -> None:
        """The stream of the other side was lost, and may be resumed."""

    def lost(self, ending: Ending) -> None:
        """The stream is gone."""

    def due(self) -> None:
        """The back-off is over."""

    def retry_now(self) -> None:
        """The next server was in contact."""

    def stop(self, cause: Cause) -> None:
        """The gateway closes."""

    def abandon(self) -> None:
        """Another node has the queue."""


class AgentOutputs(Protocol):
    """The actions of an agent in its transitions. Each sets the data of the new state."""

    def begin_attempt(self) -> None:
        """Open a stream."""

    def end_attempt(self) -> None:
        """Open no stream."""

    def use_stream(self, stream: OutboundStream) -> None:
        """Use the stream."""

    def attempt_failed(self, refusal: StreamUnavailable) -> None:
        """Try again later."""

    def new_during_back_off(self) -> None:
        """Something new came during the back-off."""

    def back_off_over(self) -> None:
        """Try again if something waits."""

    def await_resumption(self, ending: Ending) -> None:
        """Wait for the other side."""

    def stream_gone(self, ending: Ending) -> None:
        """Decide what happens to the stanzas in flight, and when the next attempt is made."""

    def finish(self, cause: Cause) -> None:
        """Close for good."""

    def cut_off(self) -> None:
        """End at once."""


_builder = TypeMachineBuilder(AgentInputs, AgentOutputs)  # type: ignore[type-abstract]
_idle, _connecting, _ready = _builder.state("idle"), _builder.state("connecting"), _builder.state("ready")
_suspended, _backing_off, _stopped = _builder.state("suspended"), _builder.state("backing off"), _builder.state("stopped")


@_idle.upon(AgentInputs.request_delivery).to(_connecting)
@_backing_off.upon(AgentInputs.retry_now).to(_connecting)
def _begin_attempt(machine: AgentInputs, agent: AgentOutputs) -> None:
    agent.begin_attempt()


@_connecting.upon(AgentInputs.withdraw).to(_idle)
def _end_attempt(machine: AgentInputs, agent: AgentOutputs) -> None:
    agent.end_attempt()


@_connecting.upon(AgentInputs.connected).to(_ready)
@_suspended.upon(AgentInputs.connected).to(_ready)
def _use_stream(machine: AgentInputs, agent: AgentOutputs, stream: OutboundStream) -> None:
    agent.use_stream(stream)


@_connecting.upon(AgentInputs.failed).to(_backing_off)
def _attempt_failed(machine: AgentInputs, agent: AgentOutputs, refusal: StreamUnavailable) -> None:
    agent.attempt_failed(refusal)


@_backing_off.upon(AgentInputs.request_delivery).loop()
def _new_during_back_off(machine: AgentInputs, agent: AgentOutputs) -> None:
    agent.new_during_back_off()


@_backing_off.upon(AgentInputs.due).to(_idle)
def _back_off_over(machine: AgentInputs, agent: AgentOutputs) -> None:
    agent.back_off_over()


@_ready.upon(AgentInputs.suspended).to(_suspended)
def _await_resumption(machine: AgentInputs, agent: AgentOutputs, ending: Ending) -> None:
    agent.await_resumption(ending)


@_ready.upon(AgentInputs.lost).to(_backing_off)
@_suspended.upon(AgentInputs.lost).to(_backing_off)
def _stream_gone(machine: AgentInputs, agent: AgentOutputs, ending: Ending) -> None:
    agent.stream_gone(ending)


for _state in (_idle, _connecting, _ready, _suspended, _backing_off):

    @_state.upon(AgentInputs.stop).to(_stopped)
    def _finish(machine: AgentInputs, agent: AgentOutputs, cause: Cause) -> None:
        agent.finish(cause)

    @_state.upon(AgentInputs.abandon).to(_stopped)
    def _cut_off(machine: AgentInputs, agent: AgentOutputs) -> None:
        agent.cut_off()


for _state in (_connecting, _ready, _suspended, _stopped):
    _state.upon(AgentInputs.request_delivery).loop().returns(None)
for _state in (_idle, _connecting, _ready, _suspended, _stopped):
    _state.upon(AgentInputs.retry_now).loop().returns(None)
for _state in (_idle, _ready, _suspended, _backing_off, _stopped):
    _state.upon(AgentInputs.withdraw).loop().returns(None)
_idle.upon(AgentInputs.failed).loop().returns(None)  # of an attempt that was ended
for _late in (
    AgentInputs.connected, AgentInputs.failed, AgentInputs.suspended, AgentInputs.lost, AgentInputs.stop, AgentInputs.abandon,
):
    _stopped.upon(_late).loop().returns(None)

#: makes the machine of one agent
build: Callable[[AgentOutputs], AgentInputs] = _builder.build()
