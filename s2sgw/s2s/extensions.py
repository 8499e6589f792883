"""Whether a stream of ours bears the extensions that are used on it: what breaks it young is left out once, and if that helps,
for a day (`s2s.destinations`).
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.poison import speaks_of_content
from s2sgw.s2s.destinations import Destinations, Extra
from s2sgw.stream.events import Acknowledged, Event, Resumed
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds within which an error of the other side may be laid at the door of an extension; and a loss without a word.
BRIEF = 10.0
AT_ONCE = 1.0

#: Stream errors that speak of the other side's state, not of what we do.
_OF_STATE = frozenset({
    "system-shutdown", "reset", "connection-timeout", "resource-constraint", "conflict", "see-other-host", "host-gone",
    "host-unknown", "remote-connection-failed", "not-authorized",
})  # fmt: skip


class ExtensionTrial:
    """The youth of one stream to the server called `name`."""

    def __init__(self, engine: InitiatingStream, name: str, destinations: Destinations, clock: IReactorTime) -> None:
        self._engine = engine
        self._name = name
        self._destinations = destinations
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._ready_at: float | None = None
        self._old = False

    def begin(self) -> None:
        """The stream is ready; of most nothing is to be learned."""
        self._ready_at = self._clock.seconds()
        self._old = self._old or (not self._used and not self._destinations.suspects(self._name))
        if not self._old:
            self._timer = self._clock.callLater(BRIEF, self._lives)

    def stands(self, event: Event) -> None:
        """An acknowledgement, or that a stream was resumed, shows that the extensions break nothing, and that a trial lives."""
        if isinstance(event, Acknowledged | Resumed) and not self._old:
            self._stop()
            self._lives()

    def end(self, ending: Ending, excused: bool = False) -> None:
        """The stream is gone: if it was young, and something on it may be to blame, that is left out next time.

        `excused`: something else is known to be. Instead of an answer to `<resume/>` it is that.
        """
        if self._engine.resuming and self._balks(ending):
            self._destinations.broke(self._name, "resumption", ending)
        blamed = not (self._old or excused) and self._may_blame(ending)
        self._stop()
        if blamed and self._destinations.suspects(self._name):
            self._destinations.acquit(self._name)
        elif blamed:
            for extra in self._suspected(ending):
                self._destinations.suspect(self._name, extra, ending)

    def _may_blame(self, ending: Ending) -> bool:
        """Whether the other side broke off over what we do, as far as can be told: without a word at once, be it in order."""
        if ending.by == "us":
            return False
        if ending.condition is not None:
            return ending.condition not in _OF_STATE
        return self._ready_at is None or self._clock.seconds() - self._ready_at <= AT_ONCE

    def _suspected(self, ending: Ending) -> list[Extra]:
        """What may have been too much. Once `<enable/>` is answered, an error over content is over a stanza
        (`delivery.poison`).
        """
        answered = speaks_of_content(ending) and not self._engine.enabling
        return [extra for extra in self._used if not (answered and extra == "management")]

    def _balks(self, ending: Ending) -> bool:
        """Whether the other side ended the stream, or said nothing, or nonsense. (A lost connection says nothing of it.)"""
        if ending.condition in _OF_STATE or ending.cause in (Cause.INTERNAL, Cause.SHUTDOWN):
            return False
        return self._engine.over

    @property
    def _used(self) -> list[Extra]:
        extras: list[tuple[Extra, bool]] = [("management", self._engine.managed), ("bidi", self._engine.bidi)]
        return [extra for extra, used in extras if used]

    def _stop(self) -> None:
        self._old = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _lives(self) -> None:
        self._old = True
        if not self._destinations.suspects(self._name):
            return
        if all(self._destinations.bears(self._name, extra) for extra in self._used):
            self._destinations.steady(self._name)
        else:
            self._destinations.acquit(self._name)  # what is suspected on another stream works on this one
