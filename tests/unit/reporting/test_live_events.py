"""Those who watch: which events they get, what is lost, how many there may be."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting import live_events
from s2sgw.reporting.live_events import LiveEvents, TooManyWatchers, Watcher
from s2sgw.reporting.record import EventRecord
from s2sgw.xmpp.ending import Cause, Ending


class LiveEventsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.live = LiveEvents()
        self.woken: list[str] = []
        self.ended: list[str] = []

    def watch(self, user: str = "alice", *peers: str) -> Watcher:
        return self.live.watch(user, frozenset(peers), lambda: self.woken.append(user), lambda: self.ended.append(user))

    def tell(self, peer: str, number: int = 0) -> None:
        self.live.tell(5.0, peer, {"event": "x", "peer": peer, "number": number})

    def test_by_peer(self) -> None:
        """Each gets the events of the peers that it watches; who names none gets all."""
        everything, one = self.watch(), self.watch("bob", "a.example")
        for peer in ("a.example", "b.example"):
            self.tell(peer)
        self.assertEqual(["a.example", "b.example"], [event["peer"] for event in everything.take()[0]])
        self.assertEqual([{"at": 5.0, "event": "x", "peer": "a.example", "number": 0}], one.take()[0])
        self.assertEqual(["alice", "bob"], self.woken)

    def test_woken_again(self) -> None:
        """The first event after events were taken wakes."""
        watcher = self.watch()
        self.tell("a.example")
        self.tell("a.example")
        watcher.take()
        self.tell("a.example")
        self.assertEqual(["alice"] * 2, self.woken)

    def test_slow(self) -> None:
        """Who takes nothing loses the oldest, and is told how many."""
        watcher = self.watch()
        for number in range(live_events.WAITING + 3):
            self.tell("a.example", number)
        events, missed = watcher.take()
        self.assertEqual((3, live_events.WAITING, 3), (missed, len(events), events[0]["number"]))
        self.assertEqual(([], 0), watcher.take())

    def test_bounds(self) -> None:
        """The oldest of a user with too many gives way; beyond the bound for all nobody comes in."""
        first = self.watch()
        for _ in range(live_events.WATCHERS_PER_USER):
            self.watch()
        self.assertEqual(["alice"], self.ended)
        self.tell("a.example")
        self.assertEqual([], first.take()[0])
        for number in range(live_events.WATCHERS - live_events.WATCHERS_PER_USER):
            self.watch(f"user {number}")
        self.assertRaises(TooManyWatchers, self.watch, "another")
        self.assertEqual(live_events.WATCHERS, len(self.live))

    def test_nobody_watches(self) -> None:
        """An event of a peer that nobody watches is kept for nobody."""
        watcher = self.watch("alice", "b.example")
        self.live.tell(0.0, "a.example", {"event": "x"})
        self.assertEqual(([], 0), watcher.take())

    def test_record(self) -> None:
        """Refusals and changes of streams come by themselves; each one, though the log has one line a minute."""
        record = EventRecord(Clock(), Logger("r", observer=lambda event: None))  # type: ignore[arg-type]
        told: list[dict[str, Any]] = []
        watcher = record.live.watch("alice", frozenset(), lambda: None)
        for _ in range(2):
            record.refused("inbound", "federation", ("a.example", "example.org"), "192.0.2.1", Ending(Cause.NO_SUCH_DOMAIN, "x"))
        record.standing("stream proven", "inbound", "federation", ("a.example", "example.org"), method="EXTERNAL")
        told += watcher.take()[0]
        self.assertEqual(["refused", "refused", "stream proven"], [event["event"] for event in told])
        self.assertEqual(("no-such-domain", "EXTERNAL"), (told[0]["cause"], told[2]["method"]))
