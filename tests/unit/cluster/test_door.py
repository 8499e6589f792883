"""Where a new connection goes, over all that can be known of its home."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cluster.door import AskAgain, HandOn, Placement, ServeHere, peer_of, place
from s2sgw.cluster.members import SessionState
from s2sgw.cluster.node_records import NodeSession
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jid import Domain

HOME = NodeSession("b", "b1", 3)
LOCAL = {Domain.parse("l.example"), Domain.parse("m.example")}


class Nodes:
    """The knowledge of a node, set by the test."""

    def __init__(self, state: SessionState, lease: bool = True, listener: str | None = "192.0.2.2:5271") -> None:
        self.state = state
        self.lease = lease
        self.listener = listener

    def state_of(self, session: NodeSession, now: float) -> SessionState:
        return self.state

    def live_nodes(self, now: float) -> list[str]:
        return []

    def listener_of(self, node: str) -> str | None:
        return self.listener

    def may_write(self, now: float) -> bool:
        return self.lease


class PlacementTests(SynchronousTestCase):
    """The decision."""

    def test_states(self) -> None:
        """The home serves; a living one elsewhere gets the connection; a silent or unknown one is waited for."""
        table: dict[SessionState, Placement] = {
            "own": ServeHere(), "over": ServeHere(), "alive": HandOn("b", "192.0.2.2:5271"), "silent": AskAgain(), "unknown": AskAgain(),
        }  # fmt: skip
        for state, expected in table.items():
            self.assertEqual(place(HOME, Nodes(state), 0.0), expected, state)
            self.assertEqual(place(HOME, Nodes(state, lease=False), 0.0), AskAgain(), state)
        self.assertEqual(place(None, Nodes("unknown"), 0.0), ServeHere())
        self.assertEqual(place(None, Nodes("unknown", lease=False), 0.0), AskAgain())
        self.assertEqual(place(HOME, Nodes("alive", listener=None), 0.0), AskAgain())

    def test_peer(self) -> None:
        """The header tells the peer on both legs. Of two local domains it is the lesser one. Without a name it tells nothing."""
        def peer(from_: str | None, to: str | None) -> str | None:
            found = peer_of(Header(to, from_, None, "1.0"), LOCAL)
            return None if found is None else found.ascii

        self.assertEqual(peer("P.example", "l.example"), "p.example")
        self.assertEqual(peer("l.example", "p.example"), "p.example")
        self.assertEqual((peer("m.example", "l.example"), peer("l.example", "m.example")), ("l.example", "l.example"))
        self.assertEqual([peer(None, "l.example"), peer("p.example", None), peer("p q", "l.example"), peer("p.example", "")], [None] * 4)
