"""A clock with separate turns of the reactor."""

from __future__ import annotations

from twisted.internet.task import Clock


class TurnClock(Clock):
    """A `Clock` whose `turn` calls only what is due at its beginning. Later calls wait for the next turn, as in a reactor."""

    def turn(self) -> None:
        """Do one turn of the reactor, in which no time passes."""
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
