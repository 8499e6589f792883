"""The extensions that a server supports in practice: one that broke a stream to it is not used with it for a day.

`ExtensionMemory` remembers this for every server. `ExtensionTrial` watches one stream of ours and finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.delivery.poison import speaks_of_content
from s2sgw.stream.events import Acknowledged, Event, Resumed
from s2sgw.stream.initiating import InitiatingStream
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.fair_dict import FairNames
from s2sgw.xmpp.timer import cancel

#: The optional extensions of a stream.
Extension = Literal["direct-tls", "bidi", "management", "resumption", "multiplexing"]

#: Seconds for which an extension that broke a stream is not used with that server.
DISABLED_SECONDS = 86_400.0
#: Seconds for which an extension that has worked is not suspected because a connection is lost.
WORKED_SECONDS = 3600.0
#: Servers that are remembered.
MAX_SERVERS = 10_000
#: Seconds after a stream became ready within which an error of the other side may be due to an extension.
ERROR_SECONDS = 10.0
#: The same for a loss without an error.
LOSS_SECONDS = 1.0

#: Stream errors that concern the other side's own state, not our use of an extension.
_STATE_ERRORS = frozenset({
    "system-shutdown", "reset", "connection-timeout", "resource-constraint", "conflict", "see-other-host", "host-gone",
    "host-unknown", "remote-connection-failed", "not-authorized",
})  # fmt: skip


@dataclass(slots=True)
class _Server:
    """`disabled` maps an extension to the end of its exclusion, `suspects` maps one to the ending that makes it suspect."""

    disabled: dict[Extension, float] = field(default_factory=dict)
    suspects: dict[Extension, Ending] = field(default_factory=dict)


class ExtensionMemory:
    """The extensions that broke a server, by the server's name (its domain). At most `MAX_SERVERS` are remembered.

    `on_disabled(name, extension, ending)` is called when an extension is newly disabled.
    """

    def __init__(
        self, clock: IReactorTime, on_disabled: Callable[[str, Extension, Ending], None] = lambda name, extension, ending: None,
    ) -> None:
        self._clock = clock
        self._on_disabled = on_disabled
        self._servers: FairNames[_Server] = FairNames(MAX_SERVERS)
        #: server -> the extensions that worked last, and until when that counts
        self._worked: FairNames[tuple[frozenset[Extension], float]] = FairNames(MAX_SERVERS)

    def usable(self, name: str, extension: Extension) -> bool:
        """Return whether `extension` may be used with the server."""
        server = self._servers.get(name)
        return server is None or not (extension in server.suspects or self._is_disabled(server, extension))

    def disable(self, name: str, extension: Extension, ending: Ending) -> None:
        """Do not use `extension` for a day: a stream with it failed with `ending`, and one without it works."""
        server = self._server(name)
        was_disabled = self._is_disabled(server, extension)
        server.disabled[extension] = self._clock.seconds() + DISABLED_SECONDS
        if not was_disabled:
            self._on_disabled(name, extension, ending)

    def work(self, name: str, extensions: Iterable[Extension]) -> None:
        """Note that a stream with these works: a connection that is lost during the next hour does not make them suspect."""
        self._worked[name] = frozenset(extensions), self._clock.seconds() + WORKED_SECONDS

    def have_worked(self, name: str) -> frozenset[Extension]:
        """Return the extensions that have worked with the server during the last hour."""
        extensions, until = self._worked.get(name, (frozenset(), 0.0))
        return extensions if until > self._clock.seconds() else frozenset()

    def suspect(self, name: str, extension: Extension, ending: Ending) -> None:
        """Open the next stream without `extension`: a stream that used it failed early. `confirm` or `clear` follows."""
        self._server(name).suspects[extension] = ending

    def suspects(self, name: str) -> bool:
        """Return whether the next stream to the server is a trial without some extension."""
        server = self._servers.get(name)
        return server is not None and bool(server.suspects)

    def confirm(self, name: str) -> None:
        """The stream without the suspected extensions works: disable them."""
        server = self._servers.get(name)
        for extension, ending in list(server.suspects.items()) if server is not None else ():
            self.disable(name, extension, ending)
        self.clear(name)

    def clear(self, name: str) -> None:
        """The stream without the suspected extensions failed as well: they are not the reason."""
        server = self._servers.get(name)
        if server is None:
            return
        server.suspects.clear()
        if not server.disabled:
            del self._servers[name]

    def forget(self, name: str) -> None:
        """Forget what is remembered of the server: all extensions can be used again."""
        self._servers.discard(name)
        self._worked.discard(name)

    def disabled(self) -> Iterator[tuple[str, tuple[Extension, ...]]]:
        """Yield each server that has disabled extensions, with these."""
        for name, server in list(self._servers.items()):
            extensions = tuple(extension for extension in server.disabled if self._is_disabled(server, extension))
            if extensions:
                yield name, extensions

    def _is_disabled(self, server: _Server, extension: Extension) -> bool:
        return server.disabled.get(extension, 0.0) > self._clock.seconds()

    def _server(self, name: str) -> _Server:
        """Return the record of the server.

        To make room for a new one, the registered domain with the most names loses the record that was written longest ago.
        """
        server = self._servers[name] = self._servers.get(name) or _Server()
        return server


class ExtensionTrial:
    """Watches one young stream of ours to the server called `name`, and tells the memory which extensions may have broken it."""

    def __init__(self, engine: InitiatingStream, name: str, extensions: ExtensionMemory, clock: IReactorTime) -> None:
        self._engine = engine
        self._name = name
        self._extensions = extensions
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._ready_at: float | None = None
        #: the trial is over
        self.over = False

    def begin(self) -> None:
        """Note that the stream is ready. Without extensions in use or under suspicion the trial is over."""
        self._ready_at = self._clock.seconds()
        self.over = self.over or (not self._used and not self._extensions.suspects(self._name))
        if not self.over:
            self._timer = self._clock.callLater(ERROR_SECONDS, self._succeed)

    def event(self, event: Event) -> None:
        """Clear the extensions in use when an acknowledgement or a resumption shows that they work."""
        if isinstance(event, Acknowledged | Resumed) and not self.over:
            self._stop()
            self._succeed()

    def end(self, ending: Ending, excused: bool = False) -> None:
        """Note that the stream ended.

        If it was young and an extension may be the reason, the next stream is opened without that one.
        `excused`: the reason is known to be something else. If `<resume/>` was not answered, resumption alone is disabled.
        """
        if self._engine.resuming and self._refuses(ending):
            self._extensions.disable(self._name, "resumption", ending)
        suspicious = not (self.over or excused) and self._may_be_due_to_extensions(ending)
        if not self.over and self._ready_at is not None and ending.condition is None and not suspicious:
            self._extensions.work(self._name, self._used)
        self._stop()
        if suspicious and self._extensions.suspects(self._name):
            self._extensions.clear(self._name)
        elif suspicious:
            for extension in self._suspected(ending):
                self._extensions.suspect(self._name, extension, ending)

    def _may_be_due_to_extensions(self, ending: Ending) -> bool:
        """Return whether an extension may be why the other side ended the stream: by an error, or at once without one."""
        if ending.by == "us":
            return False
        if ending.condition is not None:
            return ending.condition not in _STATE_ERRORS
        return self._ready_at is None or self._clock.seconds() - self._ready_at <= LOSS_SECONDS

    def _suspected(self, ending: Ending) -> list[Extension]:
        """Return the extensions that may be the reason. Once `<enable/>` is answered, an error over content is about a stanza
        (`delivery.poison`), not about XEP-0198. A loss without an error says nothing of what has worked before.
        """
        answered = speaks_of_content(ending) and not self._engine.enabling
        worked = self._extensions.have_worked(self._name) if ending.condition is None else ()
        return [each for each in self._used if each not in worked and not (answered and each == "management")]

    def _refuses(self, ending: Ending) -> bool:
        """Return whether the other side ended the stream, or sent something invalid. A lost connection is not counted."""
        if ending.condition in _STATE_ERRORS or ending.cause in (Cause.INTERNAL, Cause.SHUTDOWN):
            return False
        return self._engine.over

    @property
    def _used(self) -> list[Extension]:
        extensions: list[tuple[Extension, bool]] = [("management", self._engine.managed), ("bidi", self._engine.bidi)]
        return [extension for extension, used in extensions if used]

    def _stop(self) -> None:
        self.over = True
        cancel(self._timer)

    def _succeed(self) -> None:
        self.over = True
        self._extensions.work(self._name, self._used)
        if not self._extensions.suspects(self._name):
            return
        if all(self._extensions.usable(self._name, extension) for extension in self._used):
            self._extensions.confirm(self._name)
        else:
            self._extensions.clear(self._name)  # what is suspected on another stream works on this one
