"""`watch`: events while they happen."""

from __future__ import annotations

from threading import Thread
from typing import Any

from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.admin.event_watch import EventWatch


class WatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.publisher = LogPublisher()
        self.log = Logger("s2sgw", observer=self.publisher)
        self.later: list[tuple[Any, ...]] = []
        self.rows: list[Any] = []
        self.watch = EventWatch(lambda *call: self.later.append(call), self.publisher)

    def subscribe(self, **arguments: object) -> Any:
        return self.watch.watch(arguments).subscribe(self.rows.append)

    def test_peer(self) -> None:
        """Those about one peer, in either form of its name, also below the level of the log; notes are no events."""
        self.subscribe(peer="BÜCHER.example")
        for name in ("bücher.example", "xn--bcher-kva.example", "other.example", ""):
            self.log.debug(event="stream proven", peer=name, method="EXTERNAL")
        self.log.info("a note about {peer}", peer="bücher.example")
        self.assertEqual(["watching", "stream proven", "stream proven"], [row["event"] for row in self.rows])
        self.assertEqual(("debug", "EXTERNAL"), (self.rows[1]["level"], self.rows[1]["method"]))

    def test_all(self) -> None:
        """Without a peer, all events; none after the end."""
        end = self.subscribe()
        self.log.info(event="ready")
        end()
        self.log.info(event="more")
        self.assertEqual(["watching", "ready"], [row["event"] for row in self.rows])

    def test_other_thread(self) -> None:
        """An event of another thread is sent on the reactor's."""
        self.subscribe()
        thread = Thread(target=lambda: self.log.info(event="there"))
        thread.start()
        thread.join()
        self.assertEqual(["watching"], [row["event"] for row in self.rows])
        ((send, row),) = self.later
        send(row)
        self.assertEqual("there", self.rows[-1]["event"])
