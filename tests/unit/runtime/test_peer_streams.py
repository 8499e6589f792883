"""Tests of the effect of an operator's decision about a key on a peer's streams and queues, and of revocation lists that cannot be read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.authentication.trust_files import read_revocations
from s2sgw.runtime.policy_change import PeerStreams
from s2sgw.trust.pins import Fingerprint
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.jid import Domain, Pair
from tests.support.certificates import leaf_for, self_signed, shared_issuer

PEER, OTHER, HERE = (Domain.parse(name) for name in ("peer.example", "other.example", "here.example"))
LEAF = self_signed(dns=["peer.example"])
KEY = Fingerprint.of(LEAF.der)


class Connection:
    def __init__(self, chain: tuple[bytes, ...] = (LEAF.der,), ending: Ending | None = None) -> None:
        self.chain = chain
        self.ending = ending
        self.refusals: list[Any] = []

    def fail(self, refusal: Any) -> None:
        self.refusals.append(refusal)


class Ours(list[Any]):
    """The streams that we opened: those that are ready, and those that are being negotiated."""

    def __init__(self, *ready: Any, negotiated: tuple[Any, ...] = ()) -> None:
        super().__init__(ready)
        self.negotiated = negotiated


def queue(recipient: Domain, length: int = 0) -> Any:
    return SimpleNamespace(pair=Pair(HERE, recipient), pair_queue=range(length))


def initiated(recipient: Domain, connection: Connection, leg: str = "federation") -> Any:
    return SimpleNamespace(pair=Pair(HERE, recipient), connection=connection, leg=leg)


class PeerStreamsTests(SynchronousTestCase):
    def test_waiting(self) -> None:
        """The waiting stanzas for a peer are counted over all of its queues."""
        queues: Any = SimpleNamespace(towards={PEER: [queue(PEER, 2), queue(PEER, 3)], OTHER: [queue(OTHER, 7)]}.__getitem__)
        self.assertEqual(5, PeerStreams(queues, [], []).waiting(PEER))  # type: ignore[arg-type]

    def test_shared(self) -> None:
        """R20: a stream that is known in two ways is closed once."""
        shared = Connection()
        self.assertEqual(1, PeerStreams([], [], Ours(initiated(PEER, shared), initiated(PEER, shared))).close(PEER, KEY))  # type: ignore[arg-type]
        self.assertEqual(1, len(shared.refusals))

    def test_wake(self) -> None:
        """The queues that wait for the peer try again."""
        woken: list[Domain] = []
        PeerStreams(SimpleNamespace(retry_now=lambda *peer, urged: woken.extend(peer) if urged else None), [], []).wake(PEER)  # type: ignore[arg-type]
        self.assertEqual([PEER], woken)

    def test_close(self) -> None:
        """R20: the streams in both directions that the key opened are closed with <policy-violation/>, and no others."""
        mine, out, closed, another = Connection(), Connection(), Connection(ending=Ending(Cause.CLOSED)), Connection((b"x",))
        backend, stranger = Connection(), Connection()
        accepted = [
            (connection, SimpleNamespace(peer=peer, senders={peer}, side=SimpleNamespace(leg=leg)))
            for connection, peer, leg in (
                (mine, PEER, "federation"), (closed, PEER, "federation"), (another, PEER, "federation"), (backend, PEER, "backend"),
                (stranger, OTHER, "federation"),
            )
        ]
        unready = Connection()
        ours = Ours(
            initiated(PEER, out), initiated(PEER, backend, leg="backend"), initiated(OTHER, stranger),
            negotiated=(initiated(PEER, unready), initiated(PEER, backend, leg="backend"), initiated(OTHER, stranger)),
        )
        self.assertEqual(3, PeerStreams([], accepted, ours).close(PEER, KEY))  # type: ignore[arg-type]
        for connection in (mine, out, unready):
            [refusal] = connection.refusals
            self.assertEqual(("policy-violation", Cause.KEY_REVOKED), (refusal.condition.value, refusal.ending.cause))
        self.assertEqual([[]] * 4, [each.refusals for each in (closed, another, backend, stranger)])


class RevocationFileTests(SynchronousTestCase):
    def empty(self) -> Path:
        folder = Path(self.mktemp())
        folder.mkdir()
        return folder

    def test_read(self) -> None:
        """Lists of a file or a folder are read. Those that cannot be read are reported."""
        folder = self.empty()
        (folder / "a.crl").write_bytes(shared_issuer().crl([leaf_for("a.example").certificate]))
        self.assertEqual(1, len(read_revocations(self.empty()).value.complaints))
        found = read_revocations(folder).value
        self.assertEqual((1, ()), (len(found), found.complaints))
        (folder / "b.crl").write_bytes(b"nonsense")
        self.assertEqual(1, len(read_revocations(folder / "b.crl").value.complaints))
