"""One policy object per peer: the most specific name wins, each inheriting from the next (decision 12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from s2sgw.policy.model import PeerObject, PeerPolicy
from s2sgw.xmpp.jid import Domain

DEFAULT = "default"


class Peers:
    """The policies of all peers, made once.

    `objects` go by "default", by a domain or by "*." and a domain, in A-labels. `base` is what the object "default" itself
    inherits; its TLS minimum is the gateway's own, which no peer goes below. Their order never matters, and there is one
    policy per object, so that names chosen by strangers fill no cache.
    """

    def __init__(self, objects: Mapping[str, PeerObject] | None = None, base: PeerPolicy | None = None) -> None:
        self._objects = dict(objects or {})
        self._base = base or PeerPolicy()
        self._policies = {name: self._resolved(name) for name in (DEFAULT, *self._objects)}

    def policy(self, peer: Domain) -> PeerPolicy:
        """The policy for `peer`: by its own name, else by its longest suffix, else the default one."""
        return next(self._policies[name] for name in _names(peer.ascii, peer.is_address) if name in self._policies)

    def named(self, name: str) -> PeerPolicy:
        """The policy that the object called `name` comes to with all that it inherits; raises `KeyError`."""
        return self._policies[name]

    def lists(self, peer: Domain) -> bool:
        """Whether an object goes by exactly this name: what R14 asks of an address or a single label."""
        return peer.ascii != DEFAULT and peer.ascii in self._objects

    def _resolved(self, name: str) -> PeerPolicy:
        applying = [each for each in dict.fromkeys(_names(name)) if each in self._objects]
        policy = self._base
        for each in reversed(applying):
            policy = self._objects[each].refine(policy, each)
        return replace(policy, minimum=max(policy.minimum, self._base.minimum))


def _names(name: str, is_address: bool = False) -> Iterator[str]:
    """What an object for `name` may be called, the most specific first."""
    yield name
    parent = "" if is_address else name.partition(".")[2]
    while parent:
        yield "*." + parent
        parent = parent.partition(".")[2]
    yield DEFAULT
