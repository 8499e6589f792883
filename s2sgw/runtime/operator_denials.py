"""The peers that an operator denied by hand (`s2sgw deny`). They are kept on disk, so that they stay denied after a restart.

In a cluster all nodes share them. Then the file is a copy, for a start without the engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from s2sgw.policy.denylist import MOST_BY_HAND, DenyList
from s2sgw.policy.values import parse_peer_name
from s2sgw.storage.atomic_file import set_aside, write_atomically

FILE = "denied.json"
MOST = MOST_BY_HAND
#: The name of this list in refusals and in `explain`.
SOURCE = "s2sgw deny"


class TooManyDenied(Exception):
    """There are `MOST` names already."""


class SharedNames(Protocol):
    """The names as all nodes of a cluster share them. A change raises `OSError` if it is not made, or is not known to be."""

    async def add(self, name: str) -> bool: ...

    async def remove(self, name: str) -> bool: ...


class OperatorDenials:
    """The names, in A-labels: a domain, or "*." and a domain. They also bind a peer whose own section has `allow = true`.

    `deny` puts deny lists into force; it is called at once, and with each change. A file that cannot be parsed is set aside, and
    `report` is called.
    """

    def __init__(self, state: Path, deny: Callable[[Sequence[DenyList]], None], report: Callable[[str], None]) -> None:
        """Read the file. Raises `OSError` if it cannot be read: without the list, denied peers would be let in."""
        self._path = state / FILE
        self._deny = deny
        self._report = report
        self._lists: Sequence[DenyList] = ()
        #: the names of a cluster; None: the gateway is alone
        self.shared: SharedNames | None = None
        #: names that were denied (true) or are denied no longer, until that is noted and streams are closed
        self.learnt: dict[str, bool] = {}
        #: called when there are such names
        self.heard: Callable[[], object] = lambda: None
        self.names: tuple[str, ...] = self._read(report)
        self._apply()

    def _read(self, report: Callable[[str], None]) -> tuple[str, ...]:
        if not self._path.exists():
            return ()
        text = self._path.read_bytes()
        try:
            names = json.loads(text)
            if not isinstance(names, list):
                raise ValueError("it is not a list")
            return tuple(parse_peer_name(name) for name in names)
        except (ValueError, TypeError) as error:
            aside = set_aside(self._path, "damaged")
            report(f"{self._path} is damaged ({error}). It was set aside as {aside}. No peer is denied by `s2sgw deny` now")
            return ()

    def use(self, lists: Sequence[DenyList]) -> None:
        """Apply the names together with the deny lists of the configuration."""
        self._lists = lists
        self._apply()

    async def add(self, name: str) -> bool:
        """Deny a name. Return whether that is new. Raises `TooManyDenied`, or `OSError` if it cannot be kept."""
        if self.shared is not None:
            return await self.shared.add(name)
        if name in self.names:
            return False
        if len(self.names) >= MOST:
            raise TooManyDenied(f"at most {MOST} names can be denied; use policy.deny_lists for more")
        self._change((*self.names, name))
        return True

    async def remove(self, name: str) -> bool:
        """Stop denying a name. Return whether it was denied. Raises `OSError` if that cannot be kept."""
        if self.shared is not None:
            return await self.shared.remove(name)
        if name not in self.names:
            return False
        self._change(tuple(each for each in self.names if each != name))
        return True

    def take(self, names: Collection[str]) -> None:
        """Apply the names that all nodes share.

        The verb takes its name out of `learnt`, also if this node wrote it. A name whose verb got no answer stays there.
        The names also apply if the file cannot be written: the next start reads them from the engine.
        """
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

    def _change(self, names: tuple[str, ...]) -> None:
        write_atomically(self._path, json.dumps(names).encode("ascii"))
        self.names = names
        self._apply()

    def _apply(self) -> None:
        own = (DenyList(SOURCE, frozenset(self.names), binding=True),) if self.names else ()
        self._deny((*own, *self._lists))
