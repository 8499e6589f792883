"""The life of a courier as a machine: idle, connecting, ready, backing off, stopped (docs/decisions.md#engines)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from automat import TypeMachineBuilder

from s2sgw.delivery.outbound_stream import OutboundStream, StreamUnavailable
from s2sgw.xmpp.ending import Cause, Ending


class AgentInputs(Protocol):
    """What can happen to a courier."""

    def request_delivery(self) -> None:
        """Stanzas wait."""

    def opened(self, stream: OutboundStream) -> None:
        """The attempt succeeded."""

    def refused(self, refusal: StreamUnavailable) -> None:
        """The attempt failed."""

    def broke_off(self, ending: Ending) -> None:
        """The stream that was lent is gone, and its owner may come back for it."""

    def lost(self, ending: Ending) -> None:
        """The stream is gone."""

    def due(self) -> None:
        """The back-off is over."""

    def retry_now(self) -> None:
        """The next server showed itself."""

    def stop(self, cause: Cause) -> None:
        """The gateway closes."""


class AgentOutputs(Protocol):
    """What a courier does as its life goes on."""

    def open(self) -> None:
        """Begin an attempt."""

    def take_up(self, stream: OutboundStream) -> None:
        """Use the stream."""

    def suffer(self, refusal: StreamUnavailable) -> None:
        """The attempt failed."""

    def wait(self) -> None:
        """Something new came during the back-off."""

    def look_again(self) -> None:
        """The back-off is over."""

    def hold_on(self, ending: Ending) -> None:
        """Wait for the owner of the stream."""

    def let_go(self, ending: Ending) -> None:
        """The stream is gone."""

    def finish(self, cause: Cause) -> None:
        """Close for good."""


_builder = TypeMachineBuilder(AgentInputs, AgentOutputs)  # type: ignore[type-abstract]
_idle, _connecting, _ready = _builder.state("idle"), _builder.state("connecting"), _builder.state("ready")
_broken, _backing_off, _stopped = _builder.state("broken"), _builder.state("backing off"), _builder.state("stopped")


@_idle.upon(AgentInputs.request_delivery).to(_connecting)
@_backing_off.upon(AgentInputs.retry_now).to(_connecting)
def _open(life: AgentInputs, work: AgentOutputs) -> None:
    work.open()


@_connecting.upon(AgentInputs.opened).to(_ready)
@_broken.upon(AgentInputs.opened).to(_ready)
def _take_up(life: AgentInputs, work: AgentOutputs, stream: OutboundStream) -> None:
    work.take_up(stream)


@_connecting.upon(AgentInputs.refused).to(_backing_off)
def _suffer(life: AgentInputs, work: AgentOutputs, refusal: StreamUnavailable) -> None:
    work.suffer(refusal)


@_backing_off.upon(AgentInputs.request_delivery).loop()
def _wait(life: AgentInputs, work: AgentOutputs) -> None:
    work.wait()


@_backing_off.upon(AgentInputs.due).to(_idle)
def _look_again(life: AgentInputs, work: AgentOutputs) -> None:
    work.look_again()


@_ready.upon(AgentInputs.broke_off).to(_broken)
def _hold_on(life: AgentInputs, work: AgentOutputs, ending: Ending) -> None:
    work.hold_on(ending)


@_ready.upon(AgentInputs.lost).to(_backing_off)
@_broken.upon(AgentInputs.lost).to(_backing_off)
def _let_go(life: AgentInputs, work: AgentOutputs, ending: Ending) -> None:
    work.let_go(ending)


for _state in (_idle, _connecting, _ready, _broken, _backing_off):

    @_state.upon(AgentInputs.stop).to(_stopped)
    def _finish(life: AgentInputs, work: AgentOutputs, cause: Cause) -> None:
        work.finish(cause)


for _state in (_connecting, _ready, _broken, _stopped):
    _state.upon(AgentInputs.request_delivery).loop().returns(None)
for _state in (_idle, _connecting, _ready, _broken, _stopped):
    _state.upon(AgentInputs.retry_now).loop().returns(None)
for _late in (AgentInputs.opened, AgentInputs.refused, AgentInputs.broke_off, AgentInputs.lost, AgentInputs.stop):
    _stopped.upon(_late).loop().returns(None)

#: makes the life of one courier
build: Callable[[AgentOutputs], AgentInputs] = _builder.build()
