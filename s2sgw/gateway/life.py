"""The life of a courier as a machine: idle, connecting, ready, backing off, stopped (STYLE habit 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from automat import TypeMachineBuilder

from s2sgw.gateway.opening import StreamRefused
from s2sgw.gateway.openstream import OpenStream
from s2sgw.xmpp.ending import Cause, Ending


class Life(Protocol):
    """What can happen to a courier."""

    def wanted(self) -> None:
        """Stanzas wait."""

    def opened(self, stream: OpenStream) -> None:
        """The attempt succeeded."""

    def refused(self, refusal: StreamRefused) -> None:
        """The attempt failed."""

    def broke_off(self, ending: Ending) -> None:
        """The stream that was lent is gone, and its owner may come back for it."""

    def lost(self, ending: Ending) -> None:
        """The stream is gone."""

    def due(self) -> None:
        """The back-off is over."""

    def contact(self) -> None:
        """The next server showed itself."""

    def stop(self, cause: Cause) -> None:
        """The gateway closes."""


class Work(Protocol):
    """What a courier does as its life goes on."""

    def open(self) -> None:
        """Begin an attempt."""

    def take_up(self, stream: OpenStream) -> None:
        """Use the stream."""

    def suffer(self, refusal: StreamRefused) -> None:
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


_builder = TypeMachineBuilder(Life, Work)  # type: ignore[type-abstract]
_idle, _connecting, _ready = _builder.state("idle"), _builder.state("connecting"), _builder.state("ready")
_broken, _backing_off, _stopped = _builder.state("broken"), _builder.state("backing off"), _builder.state("stopped")


@_idle.upon(Life.wanted).to(_connecting)
@_backing_off.upon(Life.contact).to(_connecting)
def _open(life: Life, work: Work) -> None:
    work.open()


@_connecting.upon(Life.opened).to(_ready)
@_broken.upon(Life.opened).to(_ready)
def _take_up(life: Life, work: Work, stream: OpenStream) -> None:
    work.take_up(stream)


@_connecting.upon(Life.refused).to(_backing_off)
def _suffer(life: Life, work: Work, refusal: StreamRefused) -> None:
    work.suffer(refusal)


@_backing_off.upon(Life.wanted).loop()
def _wait(life: Life, work: Work) -> None:
    work.wait()


@_backing_off.upon(Life.due).to(_idle)
def _look_again(life: Life, work: Work) -> None:
    work.look_again()


@_ready.upon(Life.broke_off).to(_broken)
def _hold_on(life: Life, work: Work, ending: Ending) -> None:
    work.hold_on(ending)


@_ready.upon(Life.lost).to(_backing_off)
@_broken.upon(Life.lost).to(_backing_off)
def _let_go(life: Life, work: Work, ending: Ending) -> None:
    work.let_go(ending)


for _state in (_idle, _connecting, _ready, _broken, _backing_off):

    @_state.upon(Life.stop).to(_stopped)
    def _finish(life: Life, work: Work, cause: Cause) -> None:
        work.finish(cause)


for _state in (_connecting, _ready, _broken, _stopped):
    _state.upon(Life.wanted).loop().returns(None)
for _state in (_idle, _connecting, _ready, _broken, _stopped):
    _state.upon(Life.contact).loop().returns(None)
for _late in (Life.opened, Life.refused, Life.broke_off, Life.lost, Life.stop):
    _stopped.upon(_late).loop().returns(None)

#: makes the life of one courier
build: Callable[[Work], Life] = _builder.build()
