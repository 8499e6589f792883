"""The receiving side of a stream without handshake, by agreement between two servers (XEP-0361).

TLS is the whole negotiation. The other side is identified by its key, which must be pinned for a peer that has agreed on a zero
handshake. Then stanzas come as on a stream that was opened and authenticated.
"""

from __future__ import annotations

from s2sgw.stream.events import IdentityNeeded, JudgementNeeded, Permission
from s2sgw.stream.negotiation import refuse, refused
from s2sgw.stream.receiving_context import ReceivingContext, ReceivingPhase
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.errors import StreamCondition
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair, domain_of
from s2sgw.xmpp.stanza import Stanza

UNKNOWN = "no zero handshake is agreed with the owner of this key"


class Identifying(ReceivingPhase):
    """TLS is established. The shell finds the owner of the key. Input is kept meanwhile."""

    waits = True

    def begin(self) -> None:
        """Ask for the peers."""
        self.stream.presume_header()
        self.stream.phase = self
        self.stream.emit(IdentityNeeded())

    def identified(self, peers: tuple[Domain, ...]) -> None:
        if not peers:
            raise refuse(Cause.NOT_PROVEN, StreamCondition.NOT_AUTHORIZED, UNKNOWN)
        Agreeing(self.stream, peers).begin()


class Agreeing(ReceivingPhase):
    """The peers are judged. Each one that its key proves may send."""

    waits = True

    def __init__(self, stream: ReceivingContext, peers: tuple[Domain, ...]) -> None:
        super().__init__(stream)
        self._peers = peers
        self._answers: dict[Domain, Permission] = {}

    def begin(self) -> None:
        """Ask for the judgement of each peer."""
        self.stream.phase = self
        for peer in self._peers:
            self.stream.emit(JudgementNeeded(peer, self.stream.options.zero_handshake[0], True))

    def judged(self, permission: Permission, peer: Domain | None) -> None:
        if peer is None or peer not in self._peers or peer in self._answers:
            raise self.unasked(f"judged for {peer}")
        self._answers[peer] = permission
        if len(self._answers) == len(self._peers):
            self._decide()

    def _decide(self) -> None:
        """Let the peers send that a pinned key has proven. If there is none, the first refusal ends the stream."""
        proven = {peer: each for peer, each in self._answers.items() if each.refusal is None and each.pinned}
        if not proven:
            refusal = next((each.refusal for each in self._answers.values() if each.refusal is not None), None)
            raise refused(refusal) if refusal else refuse(Cause.NOT_PROVEN, StreamCondition.NOT_AUTHORIZED, UNKNOWN)
        self.stream.phase = Agreed(self.stream, frozenset(proven))
        for peer, permission in proven.items():
            self.stream.permit(peer, permission)
            self.stream.prove(Pair(peer, self.stream.options.zero_handshake[0]), "zero-handshake")


class Agreed(ReceivingPhase):
    """Stanzas of the agreed pairs pass, and nothing else is negotiated.

    The peers may send to every served domain. Each pair is proven with its first stanza, since there may be many.
    """

    def __init__(self, stream: ReceivingContext, peers: frozenset[Domain]) -> None:
        super().__init__(stream)
        self._peers = peers
        self._local = frozenset(stream.options.zero_handshake)

    def pair_of(self, stanza: Stanza) -> Pair:
        if (stanza.from_, stanza.to) not in self.stream.pairs.routes:
            self._prove(stanza)
        return super().pair_of(stanza)

    def _prove(self, stanza: Stanza) -> None:
        """Prove the pair of a stanza if it is agreed."""
        try:
            pair = Pair(domain_of(stanza.from_), domain_of(stanza.to))
        except InvalidJID:
            return
        if pair.sender in self._peers and pair.recipient in self._local and pair not in self.stream.pairs:
            self.stream.prove(pair, "zero-handshake")
