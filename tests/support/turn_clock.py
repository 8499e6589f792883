"""A clock on which the turns of a reactor can be told apart."""

from __future__ import annotations

from twisted.internet.task import Clock


class TurnClock(Clock):
    """As `Clock`; but `turn` calls what is due when it begins, and not what that asks for in turn, as a reactor does."""

    def turn(self) -> None:
        """One turn of the reactor, in which no time passes."""
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
