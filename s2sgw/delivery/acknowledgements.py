"""How we learn what the next server has: XEP-0198 acknowledgements, an XMPP ping behind the batch, or nothing but TCP.

In-order processing makes the reply to a ping a receipt for everything before it (R41). A server that never answers one
(some are reached one way only) is remembered for a day and believed to have what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.namespaces import MANAGEMENT, PING, SERVER

Acks = Literal["auto", "sm", "ping", "tcp"]

#: Seconds that a server has to answer a ping on a stream that lives.
PATIENCE = 20.0
#: Seconds for which a server that answered none is remembered, and how many are.
MEMORY = 86_400.0
REMEMBERED = 10_000
#: Seconds without any acknowledgement, on a stream that promised them, after which it is taken for broken.
OVERDUE = 60.0
#: Bytes that every server takes of a stanza (RFC 6120 §13.12). Not all say where they stop, and some choke on what is larger.
LARGE = 10_000
#: What asks for an acknowledgement (XEP-0198 §4).
REQUEST = f"<r xmlns='{MANAGEMENT}'/>".encode()


class Acknowledgements(Protocol):
    """What tells a courier which of its stanzas the next server has."""

    #: False: what is written is passed on
    acknowledges: bool
    #: they come on a stream towards us, not on the stream that is written to
    arrive_elsewhere: bool

    @property
    def whole(self) -> bool:
        """Everything that is counted on the stream and unacknowledged is waited for here, and nothing else."""

    def ahead(self, stanzas: Sequence[bytes]) -> bytes:
        """What is to be written before these."""

    def behind(self, number: int) -> bytes:
        """`number` more stanzas are being written; what is to be written behind them."""

    def acknowledged(self, number: int) -> int:
        """The other side has `number` more, by its own word (XEP-0198); how many of them that settles."""

    def crowded(self) -> None:
        """What is unacknowledged has become so much that whoever brings it would have to wait."""

    def stop(self) -> None:
        """The stream is gone."""


def _uncounted(number: int) -> None:
    """Nobody counts."""


class TcpAcks:
    """TCP alone. `sent` counts all the same: the other side may ask for acknowledgements later, and gives them then."""

    acknowledges = whole = arrive_elsewhere = False

    def __init__(self, sent: Callable[[int], object] = _uncounted) -> None:
        self._sent = sent

    def ahead(self, stanzas: Sequence[bytes]) -> bytes:
        return b""

    def behind(self, number: int) -> bytes:
        self._sent(number)
        return b""

    def acknowledged(self, number: int) -> int:
        return 0

    def crowded(self) -> None:
        """Nothing is unacknowledged."""

    def stop(self) -> None:
        """Nothing to stop."""


class StreamManagementAcks:
    """XEP-0198: `sent` counts with the engine, whose `Acknowledged` events come in as `acknowledged`.

    `broken(heard)` is told when nothing has been acknowledged for too long; `heard`: the other side has said before what it had.
    """

    acknowledges = True
    arrive_elsewhere = False

    def __init__(
        self, sent: Callable[[int], object], clock: IReactorTime, broken: Callable[[bool], None], before: int = 0,
        heard: bool = False,
    ) -> None:
        """`before`: so many were sent, and counted, whose receipt came in another way; their acknowledgements come first.

        `heard`: it has said what it had on the stream before.
        """
        self._sent = sent
        self._before = before
        self._clock = clock
        self._broken = broken
        self._heard = heard
        self._outstanding = 0
        self._since = 0.0  # of the first of these, or of the last acknowledgement
        self._watch: IDelayedCall | None = None

    @property
    def whole(self) -> bool:
        return not self._before

    def ahead(self, stanzas: Sequence[bytes]) -> bytes:
        return b""

    def behind(self, number: int) -> bytes:
        self._sent(number)
        return self._await(number)

    def again(self, number: int) -> bytes:
        """A stream was resumed, and `number` stanzas, counted already, are written again; what is to be written behind them."""
        self._before -= number
        self._heard = True
        return self._await(number)

    def _await(self, number: int) -> bytes:
        if not self._outstanding:
            self._since = self._clock.seconds()
        self._outstanding += number
        if self._watch is None:
            self._watch = self._clock.callLater(OVERDUE, self._look)
        return REQUEST

    def acknowledged(self, number: int) -> int:
        skipped = min(number, self._before)
        self._before -= skipped
        settled = min(number - skipped, self._outstanding)
        self._outstanding -= settled
        self._since = self._clock.seconds()
        self._heard = True
        return settled

    def crowded(self) -> None:
        """Whoever brings more waits."""

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        """One timer, put forward when it is due: a batch costs none."""
        self._watch = None
        left = self._since + OVERDUE - self._clock.seconds()
        if self._outstanding and left <= 0:
            self._broken(self._heard)
        elif self._outstanding:
            self._watch = self._clock.callLater(left, self._look)


class UnansweredPings:
    """The servers that do not answer what was asked (pings, say), for a day each."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def remember(self, name: str) -> None:
        while len(self._until) >= REMEMBERED:
            del self._until[next(iter(self._until))]
        self._until[name] = self._clock.seconds() + MEMORY

    def __contains__(self, name: str) -> bool:
        until = self._until.get(name)
        if until is not None and until <= self._clock.seconds():
            del self._until[name]
            until = None
        return until is not None


class PingAcks:
    """One ping at a time behind what was written; its answer acknowledges that, and asks again if more was written since.

    `expect(id, answered)` has the answer caught where it arrives; `acknowledged(number)` is told what it means, and
    `silent()` that none came: then everything counts as passed on from now on. Unless `choked()` finds that the server may not
    have got over what was sent, and ends the stream.
    """

    whole = False
    arrive_elsewhere = True

    def __init__(
        self, pair: Pair, write: Callable[[bytes], None], expect: Callable[[str, Callable[[], None]], None],
        forget: Callable[[str], None], acknowledged: Callable[[int], None], silent: Callable[[], None], clock: IReactorTime,
        token: Callable[[], str], sent: Callable[[int], object] = _uncounted, insist: bool = False,
        choked: Callable[[], bool] = lambda: False,
    ) -> None:
        """`insist`: after a ping without an answer the next batch is asked about all the same."""
        self._choked = choked
        self.acknowledges = True
        self._insist = insist
        self._pair = pair
        self._write = write
        self._expect = expect
        self._forget = forget
        self._acknowledged = acknowledged
        self._silent = silent
        self._clock = clock
        self._token = token
        self._sent = sent
        self._covered = 0  # by the ping that is out
        self._uncovered = 0  # written since
        self._answers = False  # this server has answered before
        self._id: str | None = None
        self._patience: IDelayedCall | None = None

    def ahead(self, stanzas: Sequence[bytes]) -> bytes:
        """Whether the server answers at all is to be known where it may fall silent over one of these."""
        if self._answers or self._id is not None or not self.acknowledges or max(map(len, stanzas)) <= LARGE:
            return b""
        return self._ping()

    def behind(self, number: int) -> bytes:
        self._uncovered += number
        self._sent(number)
        return b"" if self._id is not None or not self.acknowledges else self._ping()

    def acknowledged(self, number: int) -> int:
        """Pings are the only receipt here."""
        return 0

    def crowded(self) -> None:
        """A server that may be one that never answers holds nobody up: what was written counts as passed on."""
        everything = self._covered + self._uncovered
        if everything and not self._answers:
            self._covered = self._uncovered = 0
            self._acknowledged(everything)

    def stop(self) -> None:
        if self._id is not None:
            self._forget(self._id)
            self._id = None
        if self._patience is not None and self._patience.active():
            self._patience.cancel()

    def _ping(self) -> bytes:
        self._id = self._token()
        self._sent(1)
        self._covered, self._uncovered = self._uncovered, 0
        self._expect(self._id, self._answered)
        self._patience = self._clock.callLater(PATIENCE, self._late)
        addresses = {"type": "get", "id": self._id, "from": self._pair.sender.text, "to": self._pair.recipient.text}
        return Element("iq", SERVER, addresses, [Element("ping", PING)]).to_xml()

    def _answered(self) -> None:
        self.stop()
        self._answers = True
        covered, self._covered = self._covered, 0
        if self._uncovered:
            self._write(self._ping())
        self._acknowledged(covered)

    def _late(self) -> None:
        self.stop()
        if self._choked():
            return
        self.acknowledges = self._insist
        everything, self._covered, self._uncovered = self._covered + self._uncovered, 0, 0
        self._silent()
        self._acknowledged(everything)

