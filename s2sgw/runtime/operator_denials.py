"""The peers that an operator denied by hand (`s2sgw deny`). They are kept on disk, so that they stay denied after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from s2sgw.policy.denylist import DenyList
from s2sgw.policy.values import parse_peer_name
from s2sgw.storage.atomic_file import set_aside, write_atomically

FILE = "denied.json"
#: The most names that can be denied by hand. Longer lists belong in a deny list of the configuration.
MOST = 1000
#: The name of this list in refusals and in `explain`.
SOURCE = "s2sgw deny"


class TooManyDenied(Exception):
    """There are `MOST` names already."""


class OperatorDenials:
    """The names, in A-labels: a domain, or "*." and a domain. They also bind a peer whose own section has `allow = true`.

    `deny` puts deny lists into force; it is called at once, and with each change. A file that cannot be parsed is set aside, and
    `report` is called.
    """

    def __init__(self, state: Path, deny: Callable[[Sequence[DenyList]], None], report: Callable[[str], None]) -> None:
        """Read the file. Raises `OSError` if it cannot be read: without the list, denied peers would be let in."""
        self._path = state / FILE
        self._deny = deny
        self._lists: Sequence[DenyList] = ()
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

    def add(self, name: str) -> bool:
        """Deny a name. Return whether that is new. Raises `TooManyDenied`, or `OSError` if the file cannot be written."""
        if name in self.names:
            return False
        if len(self.names) >= MOST:
            raise TooManyDenied(f"at most {MOST} names can be denied; use policy.deny_lists for more")
        self._change((*self.names, name))
        return True

    def remove(self, name: str) -> bool:
        """Stop denying a name. Return whether it was denied. Raises `OSError` if the file cannot be written."""
        if name not in self.names:
            return False
        self._change(tuple(each for each in self.names if each != name))
        return True

    def _change(self, names: tuple[str, ...]) -> None:
        write_atomically(self._path, json.dumps(names).encode("ascii"))
        self.names = names
        self._apply()

    def _apply(self) -> None:
        own = (DenyList(SOURCE, frozenset(self.names), binding=True),) if self.names else ()
        self._deny((*own, *self._lists))
