"""The interface of the engine: the replicated store that the nodes of a cluster share (docs/cluster.md).

Every write of a peer's records carries the fence of that peer, which is the sequence of its home record. The engine refuses a
write with an older fence. A call whose outcome is unknown is made again under the same id until the outcome is known. It never
fails for that reason, but it may take as long as the engine is away.

`tests/support/engine_contract.py` is the test suite of every implementation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from s2sgw.xmpp.jid import Domain, Pair

#: Headers of a record: names of letters, digits and "-" that do not begin with "Nats-", and values of one line of printable ASCII
#: without blanks at the ends. Together they are small: 4 kB at most.
Headers = Mapping[str, str]

#: The bounds of what is kept for inspection. There is room for the stanzas of a full quarantine with their envelopes.
KEPT_RECORDS = 1000
KEPT_BYTES = 20 * 1024 * 1024
#: Seconds that a node has for an answer, unless the question says otherwise.
ASK_SECONDS = 5.0


class EngineError(Exception):
    """A call had no effect. The text says why."""


class Fenced(EngineError):
    """The fence is old: another node is the peer's home.

    `in_doubt`: the records may have been stored before that, and removed by the new home since.
    """

    in_doubt = False


class EngineFull(EngineError):
    """The engine has no room. The same call fails again until there is room."""


class Conflict(EngineError):
    """The value was changed meanwhile: its sequence is not the expected one."""


class EngineUnfit(EngineError):
    """The engine cannot be used as it is. The text says what an operator has to change."""


class EngineGone(EngineError):
    """The engine was closed by this node, or it gave no answer to a question that changes nothing."""


class NoReceiver(EngineGone):
    """No process reads the questions of the node: it has not read this one, and never will."""


class Fence(NamedTuple):
    """The right to write the records of `peer`: the sequence of the home record by which it was claimed."""

    peer: Domain
    sequence: int


class LaneRecord(NamedTuple):
    """A record to append to the log of the lane `pair`."""

    pair: Pair
    headers: Headers
    data: bytes


class Stored(NamedTuple):
    """A record in the engine. Sequences ascend within all records of a peer; they are not without gaps."""

    sequence: int
    headers: Headers
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerLogs:
    """A peer at one moment: its home record, if it has one, and the last record of each lane, without its data."""

    home: Stored | None
    lanes: Mapping[Pair, Stored]


class HomesPage(NamedTuple):
    """Some home records of several peers, oldest first. `last`: the sequence to go on behind; 0: there are no more."""

    homes: Sequence[tuple[Domain, Stored]]
    last: int


class Entry(NamedTuple):
    """A value of the shared table. `data` is None: it was removed, and its sequence is that of the removal."""

    key: str
    sequence: int
    data: bytes | None


class Watch(Protocol):
    """A subscription to a part of the shared table."""

    async def current(self) -> None:
        """Return when every change that was made before this call has been told. Errors: `EngineGone`."""

    def stop(self) -> None:
        """Call no more."""


class ClusterEngine(Protocol):
    """A store on several machines. All calls are made on the reactor's thread, and are answered there."""

    @property
    def max_record(self) -> int:
        """Return the most bytes that the data and the headers of one record may have together."""

    @property
    def stalled(self) -> bool:
        """Return whether a write has been unanswered for longer than a second."""

    def has_room(self, peer: Domain) -> bool:
        """Return whether stanzas of `peer` may be appended. The room that is left is for claims, marks and removals."""

    async def append(self, fence: Fence, records: Sequence[LaneRecord], identity: str) -> Sequence[int]:
        """Append `records` to the logs of lanes of the fence's peer, all of them or none; return their sequences.

        A second call with the same `identity`, within 30 seconds of the first, has no second effect, and returns the same.
        Errors: `Fenced`, `EngineFull`, `EngineGone`.
        """

    async def home(self, peer: Domain) -> Stored | None:
        """Return the home record of `peer`. It may be out of date: `claim` tells. Errors: `EngineGone`."""

    async def claim(self, peer: Domain, data: bytes, expected: int) -> tuple[Fence, PeerLogs]:
        """Write the home record of `peer` if the sequence of the last one is `expected` (0: there is none).

        The records that are returned are those behind the claim: no write with an older fence can follow.
        Errors: `Conflict`, `EngineFull`, `EngineGone`.
        """

    async def read(self, pair: Pair, peer: Domain, after: int, up_to: int, at_most: int) -> Sequence[Stored]:
        """Read records of a lane with `after` < sequence ≤ `up_to`, in order: about `at_most` bytes, or one record.

        `up_to` is a sequence that the caller knows to exist: a replica that lacks it is asked again. For some milliseconds,
        a record that was removed may still be among them. Errors: `EngineGone`.
        """

    def delete(self, peer: Domain, sequences: Sequence[int]) -> Deferred[bool]:
        """Remove records of `peer`. If this fails now, it is done later, or never if this process ends.

        The result is True when all of them are gone, and False when the engine was closed before. It never fails.
        """

    def purge(self, pair: Pair, peer: Domain, up_to: int) -> Deferred[bool]:
        """Remove the records of a lane up to a sequence, that one included, as `delete` does."""

    async def keep(self, peer: Domain, data: bytes) -> None:
        """Keep `data` for inspection by an operator. Any node may do this for any `peer`.

        Of all peers together the last `KEPT_RECORDS` are kept, and at most `KEPT_BYTES`: the oldest is removed first.
        Errors: `EngineFull`, `EngineGone`.
        """

    async def kept(self, at_most: int) -> Sequence[Stored]:
        """Return the last records that were kept, oldest first. Errors: `EngineGone`."""

    async def held_peers(self) -> Mapping[Domain, int]:
        """Return the peers that have records, with how many, home records included. Errors: `EngineGone`."""

    @property
    def parts(self) -> int:
        """Return into how many parts the peers are divided, for `old_homes`."""

    async def old_homes(self, part: int, after: int, age: float) -> HomesPage:
        """Read home records of a part of the peers, behind the sequence `after`, that were written `age` seconds ago or earlier.

        The engine's clock counts. Some hundred are read at once. Records that were removed or replaced may be among them.
        Errors: `EngineGone`.
        """

    async def get(self, key: str) -> Entry | None:
        """Read a value of the shared table, from the replica that decides. Errors: `EngineGone`."""

    async def put(self, key: str, data: bytes | None, expected: int | None) -> int:
        """Write a value if its sequence is `expected` (0: there is none; None: in any case); return its new sequence.

        Keys are words of letters, digits, "-", "_" and "=", joined by ".". The sequences of all keys with one first word ascend
        together, in the order of the writes. Errors: `Conflict`, `EngineFull`, `EngineGone`.
        """

    async def entries(self, prefix: str) -> Sequence[Entry]:
        """Read all values below `prefix`, removed ones included. They may be out of date. Errors: `EngineGone`.

        `prefix` is one or more whole words: "pin" has "pin.a" below it, and not "pins.a". "" has all.
        """

    def watch(self, prefix: str, changed: Callable[[Entry], None]) -> Watch:
        """Call `changed` with every value below `prefix`, and again for every change.

        Of several changes of one value, only the last may be told. After a time without the engine, what was missed is told.
        """

    def pulse(self, data: bytes) -> None:
        """Send `data` to all nodes. It may be lost."""

    def on_pulse(self, heard: Callable[[bytes], None]) -> None:
        """Call `heard` with the pulses of all nodes, this one included."""

    async def ask(self, node: str, question: bytes, seconds: float = ASK_SECONDS) -> bytes:
        """Return the answer of a node. Errors: `NoReceiver`; `EngineGone` if it does not answer within so many seconds."""

    def answer(self, node: str, answers: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer the questions to `node`, which is this one."""

    async def close(self) -> None:
        """End all calls, with `EngineGone`, and the connection."""
