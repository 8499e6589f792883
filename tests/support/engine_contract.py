"""The contract of every engine (`s2sgw/cluster/engine.py`): a mixin suite. Another implementation subclasses it and gives `open`,
`run_coroutine`, `pause` and `filled`.

Stores may be shared by tests: each test has peers, lanes and keys of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults

from s2sgw.cluster.engine import (
    KEPT_BYTES,
    KEPT_RECORDS,
    ClusterEngine,
    Conflict,
    EngineError,
    EngineFull,
    EngineGone,
    Entry,
    Fence,
    Fenced,
    LaneRecord,
    NoReceiver,
    Stored,
)
from s2sgw.xmpp.jid import Domain, Pair

LOCAL, OTHER = Domain.parse("local.example"), Domain.parse("[::1]")
_numbers = count(1)
_T = TypeVar("_T")


def record(pair: Pair, text: str = "one", **headers: str) -> LaneRecord:
    return LaneRecord(pair, headers, text.encode())


def texts(records: Sequence[Stored]) -> list[str]:
    return [stored.data.decode() for stored in records]


class EngineContract:
    """Subclass beside a `SynchronousTestCase`. Each test is a coroutine of two nodes' engines on one store."""

    assertEqual: Callable[..., None]
    assertLess: Callable[..., None]
    assertGreater: Callable[..., None]
    assertTrue: Callable[..., Any]
    assertIn: Callable[..., None]
    assertNotIn: Callable[..., None]

    def open(self) -> tuple[ClusterEngine, ClusterEngine]:
        """Return the engines of two nodes on one store."""
        raise AssertionError("a subclass says how")

    def run_coroutine(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        """Run a test to its end."""
        raise AssertionError("a subclass says how")

    def pause(self) -> Deferred[None]:
        """Give the engine time to tell what is not asked. Fails the test when it has had enough."""
        raise AssertionError("a subclass says how")

    def filled(self) -> AbstractAsyncContextManager[None]:
        """Within it, the store has no room for 9,000 bytes."""
        raise AssertionError("a subclass says how")

    def run_test(self, test: Callable[[ClusterEngine, ClusterEngine], Coroutine[Deferred[Any], Any, None]]) -> None:
        number = next(_numbers)
        self.peer = Domain.parse(f"peer{number}.example")
        self.stranger = Domain.parse(f"stranger{number}.example")
        self.lane, self.back = Pair(self.peer, LOCAL), Pair(LOCAL, self.peer)
        self.key = f"test{number}"

        async def run() -> None:
            one, other = self.open()
            try:
                await test(one, other)
            finally:
                await one.close()
                await other.close()

        self.run_coroutine(run())

    async def fails(self, kind: type[EngineError], call: Awaitable[Any]) -> None:
        outcome = await self.outcome(call)
        self.assertEqual((type(outcome), bool(str(outcome))), (kind, True), outcome)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.pause()

    async def claimed(self, engine: ClusterEngine, peer: Domain | None = None) -> Fence:
        """Claim a peer that has no home, or another's."""
        peer = peer or self.peer
        expected = 0
        while True:
            try:
                return (await engine.claim(peer, b"home", expected))[0]
            except Conflict:
                home = await engine.home(peer)
                expected = home.sequence if home is not None else 0

    async def all_of(self, engine: ClusterEngine, pair: Pair, up_to: int) -> list[str]:
        """Read a lane of which nothing was removed, record by record."""
        found: list[Stored] = []
        while more := await engine.read(pair, self.peer, found[-1].sequence if found else 0, up_to, 1):
            self.assertEqual(len(more), 1)
            found += more
        return texts(found)

    # --- claims and fences ---

    def test_first_claim(self) -> None:
        """A peer without a home is claimed with 0, by one node alone."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            self.assertEqual(await one.home(self.peer), None)
            fence, records = await one.claim(self.peer, b"a 1", 0)
            self.assertEqual((fence.peer, records.home, records.lanes), (self.peer, Stored(fence.sequence, {}, b"a 1"), {}))
            await self.fails(Conflict, other.claim(self.peer, b"b 1", 0))
            await self.fails(Conflict, other.claim(self.peer, b"b 1", fence.sequence + 1))

        self.run_test(test)

    def test_claim_tells_the_last_record_of_each_lane(self) -> None:
        """A claim returns everything that was appended before it, as exactly as if the claimant had written it."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            third = Pair(OTHER, self.peer)
            fence = await self.claimed(one)
            lanes: dict[Pair, Stored] = {}
            for number in range(6):
                pair = (self.lane, self.back, third)[number % 3]
                (sequence,) = await one.append(fence, [record(pair, f"r{number}", count=str(number))], f"id{number}")
                lanes[pair] = Stored(sequence, {"count": str(number)}, b"")
            newer, records = await other.claim(self.peer, b"b", fence.sequence)
            self.assertGreater(newer.sequence, fence.sequence)
            self.assertEqual((dict(records.lanes), records.home), (lanes, Stored(newer.sequence, {}, b"b")))

        self.run_test(test)

    def test_claims_in_turn(self) -> None:
        """Each claim shows what the former home appended last, however soon it follows."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            for number in range(60):
                mine, next_one = (one, other) if number % 2 == 0 else (other, one)
                (sequence,) = await mine.append(fence, [record(self.lane, "x")], f"{number}")
                fence, logs = await next_one.claim(self.peer, b"x", fence.sequence)
                self.assertEqual([stored.sequence for stored in logs.lanes.values()], [sequence])

        self.run_test(test)

    def test_old_fence(self) -> None:
        """After a claim the former home writes nothing, and the new one does."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            old = await self.claimed(one)
            await one.append(old, [record(self.lane, "before")], "a")
            new, _ = await other.claim(self.peer, b"b", old.sequence)
            await self.fails(Fenced, one.append(old, [record(self.lane, "late")], "b"))
            await self.fails(Fenced, one.append(old, [record(self.lane, "late"), record(self.back, "late")], "c"))
            (last,) = await other.append(new, [record(self.lane, "after")], "d")
            self.assertEqual(await self.all_of(one, self.lane, last), ["before", "after"])

        self.run_test(test)

    def test_fence_of_no_home(self) -> None:
        """A fence is good as long as its home record is the last one; a removed home record has no fence."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            await self.fails(Fenced, one.append(Fence(self.peer, 1 << 40), [record(self.lane)], "a"))
            fence = await self.claimed(one)
            self.assertEqual(await one.delete(self.peer, [fence.sequence]), True)
            await self.fails(Fenced, one.append(fence, [record(self.lane)], "b"))
            self.assertGreater((await other.claim(self.peer, b"b", 0))[0].sequence, fence.sequence)

        self.run_test(test)

    def test_rivals(self) -> None:
        """Two nodes that claim the same peer at once: one of them has it."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            expected = 0
            for _ in range(5):
                claims = [Deferred.fromCoroutine(engine.claim(self.peer, b"x", expected)) for engine in (one, other)]
                results = [await self.outcome(claim) for claim in claims]
                self.assertEqual(sorted(type(result).__name__ for result in results), ["Conflict", "tuple"])
                ((fence, _),) = [result for result in results if isinstance(result, tuple)]
                expected = fence.sequence

        self.run_test(test)

    async def outcome(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except EngineError as error:
            return error

    # --- appends ---

    def test_several_lanes_as_one(self) -> None:
        """Records of several lanes are appended together, in order."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            batch = [record(self.lane, "1"), record(self.back, "2"), record(self.lane, "3")]
            sequences = await one.append(fence, batch, "a")
            self.assertEqual((len(sequences), list(sequences)), (3, sorted(set(sequences))))
            self.assertGreater(sequences[0], fence.sequence)
            self.assertEqual(await self.all_of(other, self.lane, sequences[2]), ["1", "3"])
            self.assertEqual(await self.all_of(other, self.back, sequences[1]), ["2"])

        self.run_test(test)

    def test_record_is_kept_as_it_is(self) -> None:
        """Headers and bytes are returned unchanged: no bytes, all bytes, and the largest record."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            large = bytes(range(256)) * ((one.max_record - 1024) // 256)
            batch = [LaneRecord(self.lane, {"kind": "A", "totals": "1 2;3=4"}, b""), LaneRecord(self.lane, {}, bytes(range(256)))]
            first, second = await one.append(fence, batch, "a")
            (third,) = await one.append(fence, [LaneRecord(self.lane, {"x": "y"}, large)], "b")
            expected = [
                Stored(first, batch[0].headers, b""), Stored(second, {}, batch[1].data), Stored(third, {"x": "y"}, large),
            ]
            self.assertEqual(list(await other.read(self.lane, self.peer, 0, third, one.max_record * 2)), expected)

        self.run_test(test)

    def test_same_identity_twice(self) -> None:
        """A call that is made again has no second effect and the same answer, alone and for several lanes."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            alone, several = [record(self.lane, "1")], [record(self.lane, "2"), record(self.back, "3")]
            first = [await one.append(fence, alone, "a"), await one.append(fence, several, "b")]
            again = [await one.append(fence, alone, "a"), await one.append(fence, several, "b")]
            self.assertEqual(list(map(list, again)), list(map(list, first)))
            stranger = await self.claimed(one, self.stranger)
            await one.append(stranger, [record(Pair(self.stranger, LOCAL), "4")], "a")
            (last,) = await one.append(fence, [record(self.lane, "5")], "c")
            self.assertEqual(await self.all_of(other, self.lane, last), ["1", "2", "5"])
            self.assertEqual(await self.all_of(other, self.back, last), ["3"])

        self.run_test(test)

    def test_many_at_once(self) -> None:
        """Calls that do not wait for each other have their effect in the order in which they were made, each once."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fences = [await self.claimed(one), await self.claimed(one, self.stranger)]
            lanes = [(self.lane, self.back), (Pair(self.stranger, LOCAL), Pair(LOCAL, self.stranger))]
            calls = []
            for number in range(60):
                fence, (lane, back) = fences[number % 2], lanes[number % 2]
                batch = [record(lane, f"{number}"), record(back, f"{number}")][: 1 + number % 3 % 2]
                calls.append(Deferred.fromCoroutine(one.append(fence, batch, f"id{number}")))
            answers: list[Sequence[int]] = await gatherResults(calls, consumeErrors=True)
            mine = [sequence for answer in answers[::2] for sequence in answer]
            self.assertEqual(mine, sorted(set(mine)))
            self.assertEqual(await self.all_of(other, self.lane, mine[-1]), [str(number) for number in range(0, 60, 2)])

        self.run_test(test)

    def test_full(self) -> None:
        """A full store refuses appends, claims and values, without effect. It is read, and takes more when it has room."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            (first,) = await one.append(fence, [record(self.lane, "1")], "a")
            async with self.filled():
                await self.fails(EngineFull, one.append(fence, [record(self.lane, "2" * 9000)], "b"))
                await self.fails(EngineFull, one.append(fence, [record(self.lane, "3"), record(self.back, "4" * 9000)], "c"))
                await self.fails(EngineFull, other.claim(self.stranger, b"b" * 9000, 0))
                await self.fails(EngineFull, other.put(f"{self.key}.a", b"b" * 9000, 0))
                self.assertEqual(texts(await one.read(self.lane, self.peer, 0, first, 1000)), ["1"])
            (last,) = await one.append(fence, [record(self.lane, "2")], "b")
            self.assertEqual(await self.all_of(other, self.lane, last), ["1", "2"])

        self.run_test(test)

    # --- reads ---

    def test_read_with_gaps(self) -> None:
        """Records between the bounds are returned in order, as many as asked for, at least one, and none of another lane."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            mine: list[int] = []
            for number in range(8):
                mine += await one.append(fence, [record(self.lane, f"{number}" * 100)], f"a{number}")
                await one.append(fence, [record(self.back, "other")], f"b{number}")
            await one.delete(self.peer, [mine[0], mine[3], mine[4]])
            for after, up_to, at_most, expected in (
                (0, mine[-1], 1, [1]), (mine[1], mine[-1], 1, [2]), (mine[2], mine[-1], 10_000, [5, 6, 7]), (mine[0], mine[5], 10_000, [1, 2, 5]),
                (mine[2], mine[4], 10_000, []), (mine[-1], mine[-1], 10_000, []),
            ):  # fmt: skip
                wanted = [f"{number}" * 100 for number in expected]
                while (found := texts(await other.read(self.lane, self.peer, after, up_to, at_most))) != wanted:
                    self.assertLess(len(found), 9, (after, up_to, at_most, found))
                    await self.pause()
            self.assertEqual(list(await other.read(Pair(self.stranger, LOCAL), self.stranger, 0, 0, 1000)), [])

        self.run_test(test)

    async def until_read(self, engine: ClusterEngine, up_to: int, expected: list[str]) -> None:
        while texts(await engine.read(self.lane, self.peer, 0, up_to, 1 << 20)) != expected:
            await self.pause()

    def test_read_right_after_an_append(self) -> None:
        """A record that was acknowledged to one node is read by another at once, also where its replica is behind."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            for number in range(60):
                (sequence,) = await one.append(fence, [record(self.lane, f"{number}")], f"{number}")
                for engine in (other, one):
                    self.assertEqual(texts(await engine.read(self.lane, self.peer, sequence - 1, sequence, 1000)), [f"{number}"])

        self.run_test(test)

    # --- removal ---

    def test_purge(self) -> None:
        """A lane is purged up to a sequence; what is behind it and the other lanes stay."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            mine: list[int] = []
            for number in range(5):
                mine += await one.append(fence, [record(self.lane, f"{number}"), record(self.back, f"{number}")], f"{number}")
            one.purge(self.lane, self.peer, mine[4])
            await self.until_read(other, mine[-1], ["3", "4"])
            self.assertEqual(await self.all_of(other, self.back, mine[-1]), ["0", "1", "2", "3", "4"])
            one.purge(self.lane, self.peer, mine[-1])
            await self.until_read(other, mine[-1], [])
            self.assertEqual(set((await other.claim(self.peer, b"b", fence.sequence))[1].lanes), {self.back})

        self.run_test(test)

    def test_removals_before_a_close(self) -> None:
        """A close waits a while for removals: what is not removed would come again."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            mine = await one.append(fence, [record(self.lane, f"{number}") for number in range(100)], "a")
            removal = one.delete(self.peer, mine[1:-1])
            await one.close()
            self.assertEqual(await removal, True)
            await self.until_read(other, mine[-1], ["0", "99"])

        self.run_test(test)

    def test_delete_is_no_claim(self) -> None:
        """Removing needs no fence, and removing what is not there is no fault."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            first, second = await one.append(fence, [record(self.lane, "1"), record(self.lane, "2")], "a")
            other.delete(self.peer, [first, first, 1 << 40])
            await self.until_read(one, second, ["2"])
            one.delete(self.peer, [first])
            self.assertEqual(len(await one.append(fence, [record(self.lane, "3")], "b")), 1)

        self.run_test(test)

    def test_removed(self) -> None:
        """The answer comes when the records are gone. A replica that is behind may still have them for a moment."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            mine = await one.append(fence, [record(self.lane, f"{number}") for number in range(5)], "a")
            self.assertEqual(await one.delete(self.peer, [mine[1], mine[3]]), True)
            await self.until_read(one, mine[-1], ["0", "2", "4"])
            self.assertEqual(await one.purge(self.lane, self.peer, mine[2]), True)
            await self.until_read(one, mine[-1], ["4"])
            await one.close()
            self.assertEqual((await one.delete(self.peer, [mine[4]]), await one.purge(self.lane, self.peer, mine[4])), (False, False))

        self.run_test(test)

    def test_kept(self) -> None:
        """Every node reads the kept records, in order. They need no home. The oldest is removed first."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            datas = [f"{number}".encode() for number in range(KEPT_RECORDS + 2)]
            await gatherResults([Deferred.fromCoroutine(one.keep(self.peer, data)) for data in datas])
            found = await other.kept(KEPT_RECORDS * 2)
            self.assertEqual(texts(found), [f"{number}" for number in range(2, KEPT_RECORDS + 2)])
            self.assertEqual(sorted(stored.sequence for stored in found), [stored.sequence for stored in found])
            self.assertEqual((texts(await other.kept(1)), list(await other.kept(0))), ([f"{KEPT_RECORDS + 1}"], []))
            large = b"." * (min(one.max_record, 1 << 20) // 2)
            number = KEPT_BYTES // len(large) + 1
            for _ in range(number):
                await one.keep(self.peer, large)
            self.assertLess(len(await other.kept(KEPT_RECORDS)), number)

        self.run_test(test)

    def test_old_homes(self) -> None:
        """Old home records are found in pages, oldest first, by their age. After one was deleted its peer is claimed as a new one.

        Its former home is refused then.
        """

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            (sequence,) = await one.append(fence, [record(self.lane)], "id1")
            released, _ = await one.claim(self.peer, b"none", fence.sequence)
            await self.claimed(one, self.stranger)
            while True:  # a replica may be behind
                found = await self.all_old(other, 0.0)
                if self.peer in found and self.stranger in found and found[self.peer].sequence == released.sequence:
                    break
                await self.pause()
            self.assertEqual((b"none", b"home"), (found[self.peer].data, found[self.stranger].data))
            self.assertEqual({}, await self.all_old(other, 3600.0))
            self.assertTrue(await other.delete(self.peer, [released.sequence]))
            await self.fails(Fenced, one.append(fence, [record(self.lane)], "id2"))
            await self.fails(Conflict, one.claim(self.peer, b"a", released.sequence))
            newer, logs = await one.claim(self.peer, b"a", 0)
            self.assertEqual([sequence], [stored.sequence for stored in logs.lanes.values()])
            self.assertTrue(await other.delete(self.peer, [released.sequence]))
            await one.append(newer, [record(self.lane)], "id3")
            await self.fails(Conflict, other.claim(self.peer, b"b", 0))

        self.run_test(test)

    async def all_old(self, engine: ClusterEngine, age: float) -> dict[Domain, Stored]:
        found: dict[Domain, Stored] = {}
        for part in range(engine.parts):
            after, before = 0, 0
            while True:
                page = await engine.old_homes(part, after, age)
                self.assertEqual(sorted(each.sequence for _, each in page.homes), [each.sequence for _, each in page.homes])
                found.update(page.homes)
                before, after = after, page.last
                if not after:
                    break
                self.assertGreater(after, before)
        return found

    def test_held_peers(self) -> None:
        """Each peer with records is listed with their number; one without is not. A claim removes the older home record."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            await one.append(fence, [record(self.lane, "1"), record(self.back, "2")], "a")
            stranger = await self.claimed(one, self.stranger)
            await other.claim(self.peer, b"b", fence.sequence)
            while [(await other.held_peers()).get(peer) for peer in (self.peer, self.stranger)] != [3, 1]:
                await self.pause()
            await one.delete(self.stranger, [stranger.sequence])
            while self.stranger in await other.held_peers():
                await self.pause()

        self.run_test(test)

    # --- the table ---

    def test_table(self) -> None:
        """A value is written where its sequence is the expected one, or in any case; it is read, and removed."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            key = f"{self.key}.pin-1_=.x"
            self.assertEqual(await one.get(key), None)
            first = await one.put(key, b"1", 0)
            await self.fails(Conflict, other.put(key, b"2", 0))
            self.assertEqual(await other.get(key), Entry(key, first, b"1"))
            second = await other.put(key, b"2", first)
            await self.fails(Conflict, one.put(key, b"3", first))
            third = await one.put(key, b"", None)
            self.assertEqual((await other.get(key), sorted({first, second, third})), (Entry(key, third, b""), [first, second, third]))
            removal = await one.put(key, None, third)
            self.assertEqual(await other.get(key), Entry(key, removal, None))
            await self.fails(Conflict, one.put(key, b"4", third))
            self.assertGreater(await one.put(key, b"4", removal), removal)

        self.run_test(test)

    def test_entries(self) -> None:
        """The values below a prefix of whole words."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            sequences = {name: await one.put(f"{self.key}.{name}", name.encode(), None) for name in ("a.1", "a.2", "ab.1", "a")}
            self.assertEqual(list(sequences.values()), sorted(sequences.values()))
            removed = await one.put(f"{self.key}.a.2", None, None)
            expected = [Entry(f"{self.key}.a.1", sequences["a.1"], b"a.1"), Entry(f"{self.key}.a.2", removed, None)]
            while sorted(await other.entries(f"{self.key}.a")) != expected:
                await self.pause()
            while len(await other.entries(self.key)) != 4:
                await self.pause()
            self.assertLess(3, len(await other.entries("")))

        self.run_test(test)

    def test_watch(self) -> None:
        """A watch tells each value that is there, each change, and nothing else."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            await one.put(f"{self.key}.a.1", b"1", None)
            await one.put(f"{self.key}.b.1", b"x", None)
            told: list[Entry] = []
            watch = other.watch(f"{self.key}.a", told.append)
            await self.until(lambda: [entry.data for entry in told] == [b"1"])
            await one.put(f"{self.key}.a.2", b"2", 0)
            await other.put(f"{self.key}.b.1", b"y", None)
            await other.put(f"{self.key}.a.1", None, None)
            await self.until(lambda: [(entry.key[-3:], entry.data) for entry in told] == [("a.1", b"1"), ("a.2", b"2"), ("a.1", None)])
            watch.stop()
            late: list[Entry] = []
            other.watch(f"{self.key}.a", late.append)
            await one.put(f"{self.key}.a.3", b"3", None)
            await self.until(lambda: [entry.key[-1] for entry in late][-1:] == ["3"])
            self.assertEqual((len(told), [entry.sequence for entry in told]), (3, sorted({entry.sequence for entry in told})))

        self.run_test(test)

    def test_watch_that_is_current(self) -> None:
        """A watch that is current has told all that any node wrote before, and a watch of nothing is current too."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            told: list[Entry] = []
            watch, empty = other.watch(f"{self.key}.a", told.append), other.watch(f"{self.key}.b", told.append)
            await empty.current()
            for number in range(30):
                sequence = await one.put(f"{self.key}.a.{number % 7}", b"%d" % number, None)
                await watch.current()
                self.assertEqual(Entry(f"{self.key}.a.{number % 7}", sequence, b"%d" % number), told[-1])
            self.assertEqual(sorted({entry.sequence for entry in told}), [entry.sequence for entry in told])
            calls = [Deferred.fromCoroutine(watch.current()) for _ in range(3)]
            await gatherResults(calls)
            self.assertEqual(30, len(told))
            await other.close()
            await self.fails(EngineGone, watch.current())

        self.run_test(test)

    # --- messages ---

    def test_pulses(self) -> None:
        """A pulse is heard by all nodes, its sender included."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            heard: list[tuple[str, bytes]] = []
            one.on_pulse(lambda data: heard.append(("one", data)))
            other.on_pulse(lambda data: heard.append(("other", data)))
            mine = f"{self.key} 1".encode()
            one.pulse(mine)
            while not {("one", mine), ("other", mine)} <= set(heard):
                await self.pause()
                one.pulse(mine)

        self.run_test(test)

    def test_questions(self) -> None:
        """A question is answered by the node that it is for. A node that is not there is `NoReceiver`, one that fails `EngineGone`."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            async def answers(question: bytes) -> bytes:
                if question == b"fail":
                    raise EngineFull("no")
                return b"answer to " + question

            other.answer(f"{self.key}-b", answers)
            while True:
                try:
                    self.assertEqual(await one.ask(f"{self.key}-b", b"x" * 9000), b"answer to " + b"x" * 9000)
                    break
                except EngineGone:
                    await self.pause()
            await self.fails(NoReceiver, one.ask(f"{self.key}-c", b"anybody"))
            await self.fails(EngineGone, one.ask(f"{self.key}-b", b"fail"))

        self.run_test(test)

    # --- the end ---

    def test_close(self) -> None:
        """A closed engine refuses every call; the other node goes on."""

        async def test(one: ClusterEngine, other: ClusterEngine) -> None:
            fence = await self.claimed(one)
            await one.close()
            for call in (
                one.append(fence, [record(self.lane)], "a"), one.claim(self.stranger, b"", 0), one.put(f"{self.key}.a", b"", None),
                one.home(self.peer), one.read(self.lane, self.peer, 0, 1, 1), one.held_peers(), one.get(f"{self.key}.a"),
                one.entries(self.key), one.ask(self.key, b""),
            ):  # fmt: skip
                await self.fails(EngineGone, call)
            one.delete(self.peer, [fence.sequence])
            one.purge(self.lane, self.peer, 1)
            one.pulse(b"")
            await one.close()
            self.assertEqual(len(await other.append((await self.claimed(other)), [record(self.lane)], "a")), 1)

        self.run_test(test)
