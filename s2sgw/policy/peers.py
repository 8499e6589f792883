"""One policy object for each peer: the most specific name applies, and each inherits from the next (docs/decisions.md#policy).

There may be very many objects, so a policy is resolved at its first use, and then kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from s2sgw.policy.denylist import DenyList
from s2sgw.policy.model import PeerObject, PeerPolicy
from s2sgw.xmpp.jid import Domain

DEFAULT = "default"
#: Peers whose policy is kept by name: a handshake uses it some twenty times.
RECENT = 256


class PeerPolicies:
    """The policies of all peers.

    The keys of `objects` are "default", a domain or "*." and a domain, in A-labels. The object "default" itself inherits from
    `base`, whose TLS minimum is the gateway's own: no peer goes below it. `listed_only`: a peer is allowed only if an object
    other than the default names it. The order of objects does not matter. There is one policy for each object (and deny list), so
    names chosen by strangers take only the room of `RECENT`.

    The policies may change while the gateway runs: `adopt` and `deny`.
    """

    def __init__(
        self, objects: Mapping[str, PeerObject] | None = None, base: PeerPolicy | None = None, listed_only: bool = False,
    ) -> None:
        self._objects = {} if objects is None else objects
        self._base = base or PeerPolicy()
        self._listed_only = listed_only
        #: the policies that were resolved
        self._policies: dict[str, PeerPolicy] = {}
        #: recent answers by the names of peers; cleared when it is full, and by each change
        self._recent: dict[str, PeerPolicy] = {}
        #: the peers with whom a zero handshake is agreed; None: not searched yet
        self._agreed: tuple[Domain, ...] | None = None
        self._deny_lists: tuple[DenyList, ...] = ()
        self._denied: dict[tuple[str, str], PeerPolicy] = {}

    def policy(self, peer: Domain) -> PeerPolicy:
        """Return the policy for `peer`: by its own name, else by its longest suffix, else the default."""
        found = self._recent.get(peer.ascii)
        if found is None:
            name = self._name_of(peer)
            source = self._denier(peer) if self._deny_lists else None
            found = self._resolved(name) if source is None else self._denied_by(name, source)
            if (peer.is_single_label or peer.is_address) and not self.lists(peer):
                found = replace(found, unnamed=True)
            if len(self._recent) >= RECENT:
                self._recent.clear()
            self._recent[peer.ascii] = found
        return found

    def _name_of(self, peer: Domain) -> str:
        """Return the name of the object that applies to `peer`."""
        objects, name = self._objects, peer.ascii
        if name in objects:
            return name
        parent = "" if peer.is_address else name.partition(".")[2]
        while parent:
            if "*." + parent in objects:
                return "*." + parent
            parent = parent.partition(".")[2]
        return DEFAULT

    def agreed(self, key: str) -> tuple[Domain, ...]:
        """Return the peers with whom a zero handshake is agreed, and for whom the configuration pins `key` (XEP-0361)."""
        if self._agreed is None:
            self._agreed = tuple(Domain.parse(name) for name, each in self._objects.items() if each.zero_handshake)
        return tuple(peer for peer in self._agreed if key in self.policy(peer).pins)

    # --- change ---

    def adopt(self, other: PeerPolicies) -> dict[str, PeerPolicy]:
        """Take over the objects of `other`, at once. The deny lists stay. Return the policies that were replaced."""
        old = self._policies
        self._objects, self._base, self._policies = other._objects, other._base, other._policies
        self._listed_only, self._agreed = other._listed_only, None
        self._denied = {}
        self._recent.clear()
        return old

    def deny(self, lists: Iterable[DenyList]) -> None:
        """Replace the deny lists by `lists`. A peer whose own section has `allow = true` is exempt.

        A list that is `binding` exempts no peer.
        """
        self._deny_lists = tuple(lists)
        self._denied.clear()
        self._recent.clear()

    @property
    def deny_lists(self) -> tuple[DenyList, ...]:
        """Return the deny lists in force."""
        return self._deny_lists

    def _denier(self, peer: Domain) -> str | None:
        own = self._objects.get(peer.ascii)
        spared = own is not None and own.allow and peer.ascii != DEFAULT
        lists = (each for each in self._deny_lists if each.binding or not spared)
        return next((each.source for each in lists if each.names_peer(peer)), None)

    def _denied_by(self, name: str, source: str) -> PeerPolicy:
        if (name, source) not in self._denied:
            self._denied[name, source] = replace(self._resolved(name), deny_list=source)
        return self._denied[name, source]

    # --- objects ---

    @property
    def written(self) -> Mapping[str, PeerObject]:
        """Return the objects as written, by name."""
        return self._objects

    def named(self, name: str) -> PeerPolicy:
        """Return the policy of the object called `name`, with everything that it inherits. Raises `KeyError`."""
        if name != DEFAULT and name not in self._objects:
            raise KeyError(name)
        return self._resolved(name)

    def value(self, name: str, key: str) -> Any:
        """Return the own or inherited value of the object called `name` for a key that is no table.

        Nothing is resolved for it.
        """
        for each in _names(name):
            if each in self._objects and key in self._objects[each].model_fields_set:
                return getattr(self._objects[each], key)
        return getattr(self._base, key)

    def lists(self, peer: Domain) -> bool:
        """Return whether an object has exactly this name (R14 requires it for an address or a single label)."""
        return peer.ascii != DEFAULT and peer.ascii in self._objects

    def _resolved(self, name: str) -> PeerPolicy:
        policy = self._policies.get(name)
        if policy is None:
            policy = self._policies[name] = self._resolve(name)
        return policy

    def _resolve(self, name: str) -> PeerPolicy:
        applying = [each for each in dict.fromkeys(_names(name)) if each in self._objects]
        policy = self._base
        for each in reversed(applying):
            policy = self._objects[each].refine(policy, each)
        listed = not self._listed_only or any(each != DEFAULT for each in applying)
        return replace(policy, minimum=max(policy.minimum, self._base.minimum), listed=listed)


def _names(name: str) -> Iterator[str]:
    """Return the possible names of an object for `name`, the most specific first."""
    yield name
    parent = name.partition(".")[2]
    while parent:
        yield "*." + parent
        parent = parent.partition(".")[2]
    yield DEFAULT
