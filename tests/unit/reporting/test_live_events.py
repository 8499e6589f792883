"""Tests of watches: their events, lost events, and the number of watches."""

from __future__ import annotations

import time
from threading import Thread
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.reporting import live_events
from s2sgw.reporting.live_events import TOLD, LiveEvents, TooManyWatchers, Watcher
from s2sgw.reporting.record import EventRecord
from s2sgw.xmpp.ending import Cause, Ending


class LiveEventsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.publisher = LogPublisher()
        self.later: list[tuple[Any, ...]] = []
        self.live = LiveEvents(lambda *call: self.later.append(call), self.publisher)
        self.log = Logger("s2sgw", observer=self.publisher)
        self.woken: list[str] = []
        self.ended: list[str] = []

    def watch(self, user: str = "alice", *peers: str) -> Watcher:
        return self.live.watch(user, frozenset(peers), lambda: self.woken.append(user), lambda: self.ended.append(user))

    def tell(self, peer: str, number: int = 0) -> None:
        self.live.tell(5.0, LogLevel.info, peer, {"event": "x", "peer": peer, "number": number})

    def test_by_peer(self) -> None:
        """Each watch gets the events of its peers. One without peers gets all."""
        everything, one = self.watch(), self.watch("bob", "a.example")
        for peer in ("a.example", "b.example"):
            self.tell(peer)
        self.assertEqual(["a.example", "b.example"], [event["peer"] for event in everything.take()[0]])
        row = {"at": 5.0, "time": "1970-01-01T00:00:05.000Z", "level": "info", "event": "x", "peer": "a.example", "number": 0}
        self.assertEqual([row], one.take()[0])
        self.assertEqual(["alice", "bob"], self.woken)

    def test_woken_again(self) -> None:
        """The first event after the events were taken wakes the watch."""
        watcher = self.watch()
        self.tell("a.example")
        self.tell("a.example")
        watcher.take()
        self.tell("a.example")
        self.assertEqual(["alice"] * 2, self.woken)

    def test_slow(self) -> None:
        """A watch that is not read loses the oldest events, and gets their number."""
        watcher = self.watch()
        for number in range(live_events.WAITING + 3):
            self.tell("a.example", number)
        events, missed = watcher.take()
        self.assertEqual((3, live_events.WAITING, 3), (missed, len(events), events[0]["number"]))
        self.assertEqual(([], 0), watcher.take())

    def test_bounds(self) -> None:
        """If a user has too many watches, the oldest gives way."""
        first = self.watch()
        for _ in range(live_events.WATCHERS_PER_USER):
            self.watch()
        self.assertEqual(["alice"], self.ended)
        self.tell("a.example")
        self.assertEqual([], first.take()[0])

    def test_full(self) -> None:
        """At the total limit, the oldest watch of the user with most gives way to a user with fewer, and otherwise none does."""
        for number in range(live_events.WATCHERS):
            self.watch(f"user {number // live_events.WATCHERS_PER_USER}")
        self.watch("another")
        self.watch("another")
        self.assertEqual(["user 0", "user 1"], self.ended)
        self.assertEqual(live_events.WATCHERS, len(self.live))
        for name in range(live_events.WATCHERS - 5):
            self.watch(f"one {name}")
        self.assertRaises(TooManyWatchers, self.watch, "late")
        self.assertEqual(live_events.WATCHERS, len(self.live))

    def test_log(self) -> None:
        """Events of the log are passed on, also those below its level. Notes are not, nor events that the record has passed on."""
        watcher = self.watch()
        self.log.debug(event="stream proven", peer="a.example", method="EXTERNAL")
        self.log.info("a note")
        told: Any = {TOLD: True}
        self.log.info(event="many", **told)
        (event,) = watcher.take()[0]
        self.assertEqual(("debug", "stream proven", "EXTERNAL"), (event["level"], event["event"], event["method"]))
        self.assertLess(abs(time.time() - event["at"]), 600)

    def test_other_thread(self) -> None:
        """An event of another thread is passed on in the reactor's thread."""
        watcher = self.watch()
        thread = Thread(target=lambda: self.log.info(event="there"))
        thread.start()
        thread.join()
        self.assertEqual([], watcher.take()[0])
        ((pass_on, event),) = self.later
        pass_on(event)
        self.assertEqual("there", watcher.take()[0][0]["event"])

    def test_no_watch(self) -> None:
        """An event of a peer without a watch is not kept. The log is observed only while there is a watch."""
        seen = LogPublisher()
        self.patch(self.publisher, "addObserver", lambda observer: seen.addObserver(observer))
        self.patch(self.publisher, "removeObserver", lambda observer: seen.removeObserver(observer))
        first, second = self.watch("alice", "b.example"), self.watch("bob", "b.example")
        self.live.tell(0.0, LogLevel.info, "a.example", {"event": "x"})
        self.assertEqual([([], 0)] * 2, [first.take(), second.take()])
        self.live.stop(first)
        self.assertEqual([self.live], seen._observers)
        for _ in range(2):
            self.live.stop(second)
        self.assertEqual([], seen._observers)

    def test_record(self) -> None:
        """Each refusal and each change of a stream is sent once, logged or only counted, and not their summary."""
        clock = Clock()
        record = EventRecord(clock, self.log, live=self.live)
        watcher = record.live.watch("alice", frozenset(), lambda: None)
        for _ in range(2):
            record.refused("inbound", "federation", ("a.example", "example.org"), "192.0.2.1", Ending(Cause.NO_SUCH_DOMAIN, "x"))
        for _ in range(5):
            record.standing("stream proven", "inbound", "federation", ("a.example", "example.org"), owner=self, method="EXTERNAL")
        record.refused("outbound", "backend", ("a.example", "example.org"), "127.0.0.1", Ending(Cause.BACKEND_REFUSED, "x"))
        told = watcher.take()[0]
        self.assertEqual(["refused"] * 2 + ["stream proven"] * 5 + ["refused"], [event["event"] for event in told])
        self.assertEqual([set(told[0])] * 2, [set(told[1]), set(told[7])])
        self.assertEqual(("no-such-domain", "warn", "EXTERNAL"), (told[1]["cause"], told[1]["level"], told[3]["method"]))
        clock.advance(3600)
        record.tell_repeated()
        self.assertEqual([], watcher.take()[0])
