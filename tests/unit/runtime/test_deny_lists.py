"""Tests of deny lists at work: files and URLs, read again, with the last good copy kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.denylist import DenyList
from s2sgw.runtime import deny_lists
from s2sgw.runtime.deny_lists import RETRY, DenyLists, ListChange, ListUnreadable, ReadLists, complaints

URL, OTHER = "https://lists.example/deny.txt", "https://lists.example/other.txt"


class DenyListsTestCase(SynchronousTestCase):
    """Base class with lists whose fetches are answered by the test."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.file = self.state / "list.txt"
        self.file.write_text("a.example\n")
        self.clock = Clock()
        self.fetches: list[tuple[str, Deferred[bytes]]] = []
        self.heard: list[tuple[Sequence[DenyList], Sequence[ListChange]]] = []
        self.lists = self.made()

    def made(self) -> DenyLists:
        return DenyLists(self.state, self, self.clock, self)

    def changed(self, lists: Sequence[DenyList], found: Sequence[ListChange]) -> None:
        self.heard.append((lists, found))

    def fetch(self, url: str) -> Deferred[bytes]:
        self.fetches.append((url, Deferred()))
        return self.fetches[-1][1]

    def answer(self, text: bytes | Exception) -> None:
        _, fetch = self.fetches.pop(0)
        fetch.errback(text) if isinstance(text, Exception) else fetch.callback(text)

    def names(self, lists: DenyLists | None = None) -> list[str]:
        return sorted(name for each in (lists or self.lists).lists for name in each.names)


class FileTests(DenyListsTestCase):
    """Tests of lists in files."""

    def test_at_once(self) -> None:
        """A file applies at once, and the result comes when all lists were tried."""
        tried = self.lists.hold([self.file], 3600)
        self.assertIsNone(self.successResultOf(tried))
        self.assertEqual(["a.example"], self.names())
        (lists, changes), = self.heard
        self.assertEqual(([str(self.file)], [ListChange(str(self.file), 1, 0, ("a.example",))]), ([each.source for each in lists], changes))

    def test_read_again(self) -> None:
        """After `refresh` a changed file applies. An unchanged one is not reported."""
        self.lists.hold([self.file], 3600)
        self.clock.advance(3599)
        self.file.write_text("b.example\n")
        self.assertEqual(["a.example"], self.names())
        self.clock.advance(1)
        self.assertEqual(["b.example"], self.names())
        self.assertEqual([ListChange(str(self.file), 1, 1, ("b.example",), ("a.example",))], self.heard[-1][1])
        self.clock.advance(3600)
        self.assertEqual(2, len(self.heard))

    def test_not_twice(self) -> None:
        """A list that was read without changes is the same as before: its names are in memory once. What was read is freed."""
        freed: list[ReadLists] = []
        clear = deny_lists._clear
        self.patch(deny_lists, "_clear", freed.append)
        self.lists.hold([self.file], 3600)
        (held,), _ = self.heard[-1]
        self.clock.advance(3600)
        self.assertIs(held, self.lists.lists[0])
        self.assertIsNot(held, freed[-1].lists[str(self.file)])
        self.file.write_text("b.example\n")
        self.clock.advance(3600)
        self.assertIs(held, freed[-1].before[str(self.file)])
        clear(freed[-1])
        self.assertEqual(({}, {}), (freed[-1].before, freed[-1].lists))
        self.assertEqual(["b.example"], self.names())

    def test_unreadable(self) -> None:
        """If a file is missing, or is no longer a list, its last content stays. It is tried again sooner, and reported once."""
        self.lists.hold([self.file], 3600)
        self.file.unlink()
        self.clock.advance(3600)
        self.assertEqual(["a.example"], self.names())
        (alert,) = self.lists.alerts()
        self.assertIn("No such file or directory; it stays as it was, with 1 name", alert)
        self.assertEqual({str(self.file): "cannot be read: No such file or directory"}, self.lists.failures)
        self.file.write_text("<html>\n")
        self.clock.advance(RETRY)
        self.assertIn("is no list", self.lists.failures[str(self.file)])
        self.file.unlink()
        self.file.symlink_to("/dev/null")
        self.clock.advance(RETRY)
        self.assertEqual("cannot be read: is no regular file", self.lists.failures[str(self.file)])
        self.file.unlink()
        self.file.write_text("c.example\n")
        self.clock.advance(RETRY)
        self.assertEqual((["c.example"], {}, []), (self.names(), self.lists.failures, self.lists.alerts()))
        self.clock.advance(3599)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))

    def test_named_no_more(self) -> None:
        """The fault of a list that a reload names no more is forgotten: the others are read at their own time again."""
        other = self.state / "other.txt"
        other.write_text("b.example\n")
        self.lists.hold([self.file, other], 3600)
        other.unlink()
        self.clock.advance(3600)
        self.assertEqual(1, len(self.lists.alerts()))
        self.lists.hold([self.file], 3600)
        self.assertEqual([], self.lists.alerts())
        self.file.write_text("c.example\n")
        self.clock.advance(3599)
        self.assertEqual(["a.example"], self.names())

    def test_complaints(self) -> None:
        """A start reports errors of files only, because URLs may be read later."""
        bad, long = self.state / "bad", self.state / "long"
        bad.write_bytes(b"\xff\n")
        long.write_bytes(b"a.example\n" * 3)
        self.patch(deny_lists, "LIST_BYTES", 25)
        self.assertEqual(
            [f"{bad} is not UTF-8", f"{long} is longer than 25 bytes"], complaints([self.file, bad, URL, long]),
        )


class URLTests(DenyListsTestCase):
    """Tests of lists by HTTPS."""

    def test_fetched(self) -> None:
        """A list applies once it is fetched, and so does its next version."""
        tried = self.lists.hold([URL], 3600)
        self.assertNoResult(tried)
        self.assertEqual([], self.heard)
        self.answer(b"a.example\n*.b.example\n")
        self.successResultOf(tried)
        self.assertEqual(["*.b.example", "a.example"], self.names())
        self.clock.advance(3600)
        self.answer(b"a.example\n")
        self.assertEqual(["a.example"], self.names())
        self.assertEqual([ListChange(URL, 0, 1, (), ("*.b.example",))], self.heard[-1][1])

    def test_kept(self) -> None:
        """A fetched list is kept over a restart, whether or not the server answers then."""
        self.lists.hold([URL], 3600)
        self.answer(b"a.example\n")
        again = self.made()
        again.hold([URL], 3600)
        self.assertEqual(["a.example"], self.names(again))
        self.answer(ListUnreadable("no network"))
        self.assertEqual(["a.example"], self.names(again))
        self.assertEqual({URL: "no network"}, again.failures)

    def test_no_copy_of_rubbish(self) -> None:
        """A document that is not a list replaces none, neither in use nor on disk. It is tried again after a while."""
        self.lists.hold([URL], 3600)
        self.answer(b"a.example\n")
        self.clock.advance(3600)
        self.answer(b"<html>\nnot found\n")
        self.assertEqual(["a.example"], self.names())
        self.clock.advance(RETRY)
        self.answer(b"b.example\n")
        self.assertEqual(["b.example"], self.names())
        self.assertEqual([b"b.example\n"], [copy.read_bytes().partition(b"\n")[2] for copy in (self.state / "deny").iterdir()])

    def test_copy_altered(self) -> None:
        """A copy that was altered on the disk is not used: the list applies once it is fetched."""
        self.lists.hold([URL], 3600)
        self.answer(b"a.example\nb.example\n")
        [copy] = (self.state / "deny").iterdir()
        for data, names in (
            (copy.read_bytes().replace(b"b.example", b"c.example"), []), (copy.read_bytes()[:-5], []),
            (b"old.example\n", ["old.example"]),
        ):
            copy.write_bytes(data)
            again = self.made()
            again.hold([URL], 3600)
            self.assertEqual(names, self.names(again))
            again.stop()

    def test_others_go_on(self) -> None:
        """A list that cannot be fetched does not affect the others."""
        self.lists.hold([URL, OTHER, self.file], 3600)
        self.assertEqual(["a.example"], self.names())
        self.answer(ListUnreadable("no"))
        self.answer(b"b.example\n")
        self.assertEqual(["a.example", "b.example"], self.names())

    def test_copies_of_lists_let_go(self) -> None:
        """A list that is no longer configured has no effect, and its copy is removed."""
        self.lists.hold([URL, OTHER], 3600)
        self.answer(b"a.example\n")
        self.answer(b"b.example\n")
        self.lists.hold([OTHER], 3600)
        self.assertEqual(["b.example"], self.names())
        self.assertEqual(1, len(list((self.state / "deny").iterdir())))
        self.assertEqual([ListChange(URL, 0, 1, (), ("a.example",))], self.heard[-1][1])

    def test_full_disk(self) -> None:
        """If a copy cannot be written, the list still applies."""
        (self.state / "deny").write_text("in the way")
        self.lists.hold([URL], 3600)
        self.answer(b"a.example\n")
        self.assertEqual(["a.example"], self.names())


class ElsewhereTests(DenyListsTestCase):
    """Tests of lists that are read and compared in another thread, whose calls the test makes."""

    def setUp(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        super().setUp()

    def made(self) -> DenyLists:
        return DenyLists(self.state, self, self.clock, self, SimpleNamespace(run=self.in_thread))

    def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        self.calls.append((partial(call, *arguments), Deferred()))
        return self.calls[-1][1]

    def elsewhere(self) -> None:
        """Make the requested calls, and those that follow."""
        while self.calls:
            call, result = self.calls.pop(0)
            maybeDeferred(call).addErrback(lambda failure: failure).chainDeferred(result)

    def test_read_elsewhere(self) -> None:
        """Files and texts are read in the thread, one after the other, and apply all together when all are compared."""
        tried = self.lists.hold([self.file, URL], 3600, ReadLists({}, {}, [], {}))
        self.assertEqual(([], 2), (self.names(), len(self.calls)))  # the old lists' table, and the file
        self.elsewhere()
        self.assertEqual([], self.names())
        self.answer(b"b.example\n")
        self.assertNoResult(tried)
        self.elsewhere()
        self.successResultOf(tried)
        self.assertEqual((["a.example", "b.example"], 1), (self.names(), len(self.heard)))

    def test_given_up(self) -> None:
        """The result for lists that are no longer used is discarded."""
        self.lists.hold([self.file], 3600, ReadLists({}, {}, [], {}))
        self.lists.stop()
        self.elsewhere()
        self.assertEqual(([], [], []), (self.names(), self.heard, self.clock.getDelayedCalls()))

    def test_refreshed_while_a_reload_reads(self) -> None:
        """A list that was refreshed after a reload began to read stays: the reload's version of it is older."""
        self.lists.hold([URL], 3600)
        self.answer(b"a.example\n")
        self.elsewhere()
        read = self.lists.read([self.file, URL])
        self.clock.advance(3600)
        self.answer(b"b.example\nc.example\n")
        self.elsewhere()
        self.file.write_text("d.example\n")
        self.lists.hold([self.file, URL], 3600, read)
        self.assertEqual(["a.example", "b.example", "c.example"], self.names())
        self.assertEqual([ListChange(str(self.file), 1, 0, ("a.example",))], self.heard[-1][1])
        self.elsewhere()
        self.answer(b"c.example\n")
        self.elsewhere()
        self.assertEqual(["c.example", "d.example"], self.names())

    def test_broken_copy(self) -> None:
        """An error in a copy is reported when the lists are applied, in the reactor's thread."""
        self.lists.hold([URL], 3600)
        self.answer(b"a.example\n")
        self.elsewhere()
        [copy] = (self.state / "deny").iterdir()
        copy.write_bytes(copy.read_bytes()[:-3])
        again = self.made()
        with capturedLogs() as logs:
            read = again.read([URL])
            self.assertEqual([], logs)
            again.hold([URL], 3600, read)
        self.assertEqual(["deny list copy unusable"], [event.get("event") for event in logs])

    def test_very_many_names(self) -> None:
        """Of a large change the numbers are reported, and the first names."""
        self.file.write_text("".join(f"{number:04}.example\n" for number in range(1000)))
        self.lists.hold([self.file], 3600)
        change, = self.heard[-1][1]
        self.assertEqual((1000, 0, 100, ()), (change.added, change.removed, len(change.first_added), change.first_removed))
        self.assertEqual(("0000.example", "0099.example"), (change.first_added[0], change.first_added[-1]))


class LifeTests(DenyListsTestCase):
    """Tests of timers and the stop."""

    def test_stop(self) -> None:
        """A running fetch is cancelled, and no timer is left."""
        tried = self.lists.hold([URL], 3600)
        self.lists.stop()
        self.successResultOf(tried)
        self.assertEqual((True, []), (self.fetches[0][1].called, self.clock.getDelayedCalls()))

    def test_held_anew_meanwhile(self) -> None:
        """If the lists change during a fetch, its result is discarded."""
        self.lists.hold([URL], 3600)
        self.lists.hold([self.file], 3600)
        self.assertEqual(["a.example"], self.names())
        self.assertEqual(1, len(self.clock.getDelayedCalls()))

    def test_look(self) -> None:
        """Two simultaneous requests read the lists once, and both get the result."""
        self.lists.hold([URL], 3600)
        self.answer(b"a.example\n")
        first, second = self.lists.look(), self.lists.look()
        self.assertEqual(1, len(self.fetches))
        self.answer(b"b.example\n")
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))

    def test_none(self) -> None:
        """Without lists nothing is done."""
        self.successResultOf(self.lists.hold([], 3600))
        self.assertEqual(([], []), (self.clock.getDelayedCalls(), self.heard))

    def test_mistake(self) -> None:
        """An internal error is logged, and the lists are read again all the same."""
        self.lists.hold([URL], 3600)
        self.answer(RuntimeError("x"))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
