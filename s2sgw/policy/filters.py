"""Filters: the stanzas that may not pass between us and a peer. They use the framer's facts, and build no tree."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.policy.model import ALL_KINDS, PeerPolicy
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.stanza import Kind, Stanza

Refused = tuple[Stanza, Ending]


@dataclass(frozen=True, slots=True)
class Filter:
    """Refuses stanzas of some kinds, with a payload in some namespaces, or of more than `size` bytes (0: no limit).

    A payload is a child of the stanza. Its content is not examined.
    """

    kinds: frozenset[Kind] = frozenset()
    namespaces: frozenset[str] = frozenset()
    size: int = 0

    @classmethod
    def of(cls, policy: PeerPolicy) -> Filter | None:
        """Return the filter of `policy`; None: no stanza need be examined."""
        found = cls(frozenset(ALL_KINDS) - frozenset(policy.kinds), frozenset(policy.deny_namespaces), policy.deny_larger_than)
        return None if found == cls() else found

    def sift(self, stanzas: list[Stanza]) -> tuple[list[Stanza], list[Refused]]:
        """Return the stanzas that pass, and the others with the reason, both in their order."""
        refused = [(stanza, ending) for stanza in stanzas if (ending := self.refusal(stanza)) is not None]
        if not refused:
            return stanzas, refused
        gone = {id(stanza) for stanza, _ in refused}
        return [stanza for stanza in stanzas if id(stanza) not in gone], refused

    def refusal(self, stanza: Stanza) -> Ending | None:
        """Return why `stanza` does not pass; None: it does."""
        if stanza.kind in self.kinds:
            return Ending(Cause.FILTERED, f"{stanza.kind} is not among the kinds that the policy for this peer lets pass")
        if self.size and len(stanza.data) > self.size:
            return Ending(Cause.TOO_LARGE, f"{len(stanza.data)} bytes; the policy for this peer denies more than {self.size}")
        for payload in stanza.payloads if self.namespaces else ():
            namespace = payload.rpartition("}")[0]
            if namespace in self.namespaces:
                return Ending(Cause.FILTERED, f"the policy for this peer denies payloads in {namespace}")
        return None
