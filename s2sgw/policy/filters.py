"""Filters: which stanzas do not pass between us and a peer. They look at what the framer saw, and build no tree."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.policy.model import ALL_KINDS, PeerPolicy
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.stanza import Kind, Stanza

Refused = tuple[Stanza, Ending]


@dataclass(frozen=True, slots=True)
class Filter:
    """Refuses stanzas of some kinds, with a payload in some namespaces, or of more than `size` bytes (0: of none).

    A payload is a child of the stanza; what is inside of it is not looked at.
    """

    kinds: frozenset[Kind] = frozenset()
    namespaces: frozenset[str] = frozenset()
    size: int = 0

    @classmethod
    def of(cls, policy: PeerPolicy) -> Filter | None:
        """What `policy` asks for, or None: then no stanza need be looked at."""
        found = cls(frozenset(ALL_KINDS) - frozenset(policy.kinds), frozenset(policy.deny_namespaces), policy.deny_larger_than)
        return None if found == cls() else found

    def sift(self, stanzas: list[Stanza]) -> tuple[list[Stanza], list[Refused]]:
        """Those that pass, and those that do not, each with the reason; both in their order."""
        refused = [(stanza, ending) for stanza in stanzas if (ending := self.refusal(stanza)) is not None]
        if not refused:
            return stanzas, refused
        gone = {id(stanza) for stanza, _ in refused}
        return [stanza for stanza in stanzas if id(stanza) not in gone], refused

    def refusal(self, stanza: Stanza) -> Ending | None:
        """Why `stanza` does not pass."""
        if stanza.kind in self.kinds:
            return Ending(Cause.FILTERED, f"{stanza.kind} is not among the kinds that the policy for this peer lets pass")
        if self.size and len(stanza.data) > self.size:
            return Ending(Cause.TOO_LARGE, f"{len(stanza.data)} bytes; the policy for this peer denies more than {self.size}")
        for payload in stanza.payloads if self.namespaces else ():
            namespace = payload.rpartition("}")[0]
            if namespace in self.namespaces:
                return Ending(Cause.FILTERED, f"the policy for this peer denies payloads in {namespace}")
        return None
