"""The peers that an operator denied by hand (`s2sgw deny`). They are kept on disk, so that they stay denied after a restart.

In a cluster all nodes share them. Then the file is a copy, for a start without the engine. What is denied while a gateway is
alone has its time in a second file, until the gateway joins a cluster, where the name may have been undone before or later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Protocol, TypeVar

from s2sgw.policy.denylist import MOST_BY_HAND, DenyList
from s2sgw.policy.values import parse_peer_name
from s2sgw.storage.atomic_file import set_aside, write_atomically
from s2sgw.xmpp.wall_clock import WallClock

FILE, TIMES_FILE = "denied.json", "denied-times.json"
MOST = MOST_BY_HAND
#: The name of this list in refusals and in `explain`.
SOURCE = "s2sgw deny"

Parsed = TypeVar("Parsed")


class TooManyDenied(Exception):
    """There are `MOST` names already."""


class SharedNames(Protocol):
    """The names as all nodes of a cluster share them. A change raises `OSError` if it is not made, or is not known to be."""

    async def add(self, name: str) -> bool: ...

    async def remove(self, name: str) -> bool: ...


class OperatorDenials:
    """The names, in A-labels: a domain, or "*." and a domain. They also bind a peer whose own section has `allow = true`.

    `deny` puts deny lists into force; it is called at once, and with each change. A file that cannot be parsed is set aside, and
    `report` is called. `wall` is the clock for the times of denials.
    """

    def __init__(
        self, state: Path, deny: Callable[[Sequence[DenyList]], None], report: Callable[[str], None], wall: WallClock,
    ) -> None:
        """Read the files. Raises `OSError` if one cannot be read: without the list, denied peers would be let in."""
        self._path, self._times_path = state / FILE, state / TIMES_FILE
        self._deny = deny
        self._report = report
        self._lists: Sequence[DenyList] = ()
        #: the names of a cluster; None: the gateway is alone
        self.shared: SharedNames | None = None
        #: names that were denied (true) or are denied no longer, until that is noted and streams are closed
        self.learnt: dict[str, bool] = {}
        #: called when there are such names
        self.heard: Callable[[], object] = lambda: None
        self._wall = wall
        self.names: tuple[str, ...] = self._read(self._path, _names, "No peer is denied by `s2sgw deny` now") or ()
        lost = "A denied name that a cluster has undone is not restored there by its time"
        #: names that were denied while this gateway was alone -> the time (seconds since the epoch)
        self._times: Mapping[str, float] = self._read(self._times_path, _times, lost) or {}
        self._apply()

    def _read(self, path: Path, parse: Callable[[object], Parsed], lost: str) -> Parsed | None:
        """Return what a file has, or None. A file that cannot be parsed is set aside, and the report says what is `lost`."""
        if not path.exists():
            return None
        text = path.read_bytes()
        try:
            return parse(json.loads(text))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            aside = set_aside(path, "damaged")
            self._report(f"{path} is damaged ({error}). It was set aside as {aside}. {lost}")
            return None

    @property
    def kept(self) -> dict[str, float]:
        """Return the names, with the time of those that were denied while this gateway was alone; 0: the name has no time."""
        return {name: self._times.get(name, 0.0) for name in self.names}

    def use(self, lists: Sequence[DenyList]) -> None:
        """Apply the names together with the deny lists of the configuration."""
        self._lists = lists
        self._apply()

    async def add(self, name: str) -> bool:
        """Deny a name. Return whether that is new. Raises `TooManyDenied`, or `OSError` if it cannot be kept."""
        if self.shared is not None:
            return await self.shared.add(name)
        is_new = name not in self.names
        if is_new and len(self.names) >= MOST:
            raise TooManyDenied(f"at most {MOST} names can be denied; use policy.deny_lists for more")
        self._write_times({**self._times, name: self._wall.seconds()})
        if is_new:
            self._change((*self.names, name))
        return is_new

    async def remove(self, name: str) -> bool:
        """Stop denying a name. Return whether it was denied. Raises `OSError` if that cannot be kept."""
        if self.shared is not None:
            return await self.shared.remove(name)
        if name not in self.names:
            return False
        self._write_times({each: at for each, at in self._times.items() if each != name})
        self._change(tuple(each for each in self.names if each != name))
        return True

    def take(self, names: Collection[str]) -> None:
        """Apply the names that all nodes share.

        The verb takes its name out of `learnt`, also if this node wrote it. A name whose verb got no answer stays there.
        The names also apply if the file cannot be written: the next start reads them from the engine.
        """
        self._forget_times()
        before = set(self.names)
        if before == set(names):
            return
        self.learnt.update({name: True for name in names if name not in before})
        self.learnt.update(dict.fromkeys(before.difference(names), False))
        try:
            write_atomically(self._path, json.dumps(sorted(names)).encode("ascii"))
        except OSError as error:
            text = "The names apply until the next start, which reads them from the engine"
            self._report(f"{self._path} cannot be written ({error}). {text}")
        self.names = tuple(names)
        self._apply()
        self.heard()

    def _forget_times(self) -> None:
        """Forget the times: the names are shared now, or were undone later. A file that stays does no harm."""
        self._times = {}
        with suppress(OSError):
            self._times_path.unlink(missing_ok=True)

    def _write_times(self, times: Mapping[str, float]) -> None:
        """Keep times on disk, before the names: a time without its name has no effect."""
        if times != self._times:
            write_atomically(self._times_path, json.dumps(times).encode("ascii"))
            self._times = times

    def _change(self, names: tuple[str, ...]) -> None:
        write_atomically(self._path, json.dumps(names).encode("ascii"))
        self.names = names
        self._apply()

    def _apply(self) -> None:
        own = (DenyList(SOURCE, dict.fromkeys(self.names), binding=True),) if self.names else ()
        self._deny((*own, *self._lists))


def _names(words: object) -> tuple[str, ...]:
    if not isinstance(words, list):
        raise ValueError("it is not a list")
    return tuple(parse_peer_name(name) for name in words)


def _times(words: object) -> dict[str, float]:
    if not isinstance(words, dict):
        raise ValueError("it is not an object")
    times = {parse_peer_name(name): float(at) for name, at in words.items()}
    if not all(map(isfinite, times.values())):
        raise ValueError("a time is no number")
    return times
