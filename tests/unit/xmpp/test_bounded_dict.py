"""Tests of a dict with a limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.xmpp.bounded_dict import BoundedDict


class BoundedDictTests(SynchronousTestCase):
    """Tests of which entry is removed, and when."""

    def test_oldest_goes(self) -> None:
        """The entry that was set longest ago is removed first. Setting it again makes it the newest."""
        found: BoundedDict[str, int] = BoundedDict(2)
        for key in "aba":
            found[key] = 1
        found["c"] = 1
        self.assertEqual(["a", "c"], list(found))

    def test_use(self) -> None:
        """A use makes an entry the newest, a look-up does not."""
        found: BoundedDict[str, int] = BoundedDict(2)
        found["a"], found["b"] = 1, 2
        self.assertEqual((1, 1, None), (found.use("a"), found["a"], found.use("z")))
        found["c"] = 3
        self.assertEqual(["a", "c"], list(found))
        self.assertEqual(1, found.get("a"))
        found["d"] = 4
        self.assertEqual(["c", "d"], list(found))

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 20))), st.integers(1, 8))
    def test_bound(self, steps: list[tuple[bool, int]], limit: int) -> None:
        """In any order of operations it has at most its limit, and the newest entry is always there."""
        found: BoundedDict[int, int] = BoundedDict(limit)
        for is_set, key in steps:
            if is_set:
                found[key] = key
                self.assertEqual(key, next(reversed(found)))
            else:
                found.use(key)
            self.assertLessEqual(len(found), limit)
