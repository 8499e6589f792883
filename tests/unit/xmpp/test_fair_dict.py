"""Tests of the dict whose entries have owners."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.fair_dict import FairDict

#: Keys like "a3": the letter is the owner.
KEYS = st.tuples(st.sampled_from("abc"), st.integers(0, 5)).map(lambda each: f"{each[0]}{each[1]}")


def entries(limit: int) -> FairDict[str, int]:
    return FairDict(limit, lambda key, value: key[0])


class FairDictTests(SynchronousTestCase):
    def test_an_owner_with_many(self) -> None:
        """The owner with the most entries loses its oldest, and others lose none."""
        held = entries(10)
        held["b1"] = held["c1"] = 0
        for number in range(1000):
            held[f"a{number}"] = number
        self.assertEqual(list(held), ["b1", "c1", *(f"a{number}" for number in range(992, 1000))])
        held["b2"] = 0
        self.assertEqual(list(held)[:3], ["b1", "c1", "a993"])

    def test_equals(self) -> None:
        """Of owners with equally many entries, the one that has had so many for longest loses its oldest.

        Setting an entry again makes it the newest.
        """
        held = entries(3)
        for key in ("a1", "b1", "c1", "a1", "d1"):
            held[key] = 0
        self.assertEqual(list(held), ["c1", "a1", "d1"])

    def test_another_owner(self) -> None:
        """An entry that is set again counts for its new owner. A deleted one counts no more."""
        held: FairDict[str, str] = FairDict(4, lambda key, value: value)
        for number in range(4):
            held[str(number)] = "x"
        for number in range(3):
            held[str(number)] = "y"
        held["4"] = "z"
        self.assertEqual(held, {"3": "x", "1": "y", "2": "y", "4": "z"})
        del held["1"], held["2"]
        held["5"] = held["6"] = "z"
        held["7"] = "x"
        self.assertEqual(held, {"3": "x", "5": "z", "6": "z", "7": "x"})

    @given(st.lists(st.tuples(st.booleans(), KEYS), max_size=60))
    def test_any_life(self, steps: list[tuple[bool, str]]) -> None:
        """The limit holds, the new entry is there unless its owner has the most, and no owner keeps more than another could have."""
        held = entries(5)
        for sets, key in steps:
            if sets:
                before = dict(held)
                held[key] = 1
                gone = {*before, key} - set(held)
                numbers = [sum(each[0] == owner for each in {*before, key}) for owner in "abc"]
                self.assertEqual(len(gone), int(len({*before, key}) > 5))
                self.assertTrue(all(numbers["abc".index(each[0])] == max(numbers) for each in gone))
            elif key in held:
                del held[key]
            keys = [key for key in held if key in held._keys.get(key[0], ())]
            numbers_of = {owner: number for number, owners in held._owners.items() for owner in owners}
            self.assertEqual((len(held) <= 5, keys, set(held._owner_of)), (True, list(held), set(held)))
            self.assertEqual((numbers_of, held._most), ({owner: len(keys) for owner, keys in held._keys.items()}, max(held._owners, default=0)))
        held.clear()
        self.assertEqual((held._keys, held._owners, held._owner_of, held._most), ({}, {}, {}, 0))
        held["a0"] = 1
        self.assertEqual("a0", held.least_wanted())
