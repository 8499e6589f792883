"""The receiving and the authoritative part of dialback on one stream: who has asked to send, and what became of it."""

from __future__ import annotations

from collections import deque

from s2sgw.stream.dialback import Request
from s2sgw.stream.events import DialbackNeeded, DialbackOutcome, JudgementNeeded, Method, Permission
from s2sgw.stream.negotiation import Stop, refused
from s2sgw.stream.receiving_context import Asserted, ReceivingContext
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, StanzaCondition
from s2sgw.xmpp.jid import Domain, Pair

#: So many pairs, proven or asked for, and so many peer domains may be on one stream; more get a `<resource-constraint/>`.
PAIRS = 4096
#: So often on one stream a domain that was refused for a while is judged anew; then the last word stands.
JUDGED_ANEW = 1000
#: What tells a domain to come again.
TEMPORARY = frozenset({StanzaCondition.REMOTE_SERVER_TIMEOUT, StanzaCondition.RESOURCE_CONSTRAINT})


class DialbackAuthorization:
    """The requests of one stream. Each peer domain is judged once, one at a time; then each pair by its key (R28).

    Where the policy lets nobody prove the domain by a key, its certificate does on a stream that has authenticated already
    (XEP-0220 §2.1.1 leaves the method to us, XEP-0344 describes this one).
    """

    def __init__(self, stream: ReceivingContext, asserted: Asserted, permission: Permission | None) -> None:
        self._stream = stream
        self._asserted = asserted
        self._permissions: dict[Domain, Permission] = {}
        if permission is not None and asserted.peer is not None:
            self._permissions[asserted.peer] = permission
        self._asking: Domain | None = None
        self._unjudged: deque[Request] = deque()
        self._unverified: dict[Pair, Request] = {}
        self._judged_anew = 0

    @property
    def idle(self) -> bool:
        """No request waits for anything."""
        return not self._unjudged and not self._unverified

    # --- requests ---

    def result(self, request: Request) -> None:
        """`<db:result/>`: may `request.pair` be sent on this stream?"""
        pair = request.pair
        if pair in self._stream.pairs:
            self._stream.send(request.answer(DialbackOutcome("valid")))
        elif pair not in self._unverified and not any(pair == other.pair for other in self._unjudged):
            self._new(request)

    def _new(self, request: Request) -> None:
        options = self._stream.options
        refusal = self._stream.refusal_of(request.pair.sender)
        if not options.serves(request.pair.recipient):
            self._refuse(request, StanzaCondition.ITEM_NOT_FOUND, f"{request.pair.recipient} is not served here")
        elif refusal is not None:
            self._refuse(request, refusal.ending.account.condition, refusal.text)
        elif self._crowded:
            self._refuse(request, StanzaCondition.RESOURCE_CONSTRAINT, f"more than {PAIRS} pairs or domains on one stream")
        else:
            self._forget_temporary(request.pair.sender)
            self._unjudged.append(request)
            self._go_on()

    def _forget_temporary(self, peer: Domain) -> None:
        """Who was told to wait and comes again is judged anew: the DNS may answer by now."""
        refusal = self._permissions[peer].refusal if peer in self._permissions else None
        if refusal is None or refusal.ending.account.condition not in TEMPORARY or self._judged_anew >= JUDGED_ANEW:
            return
        self._judged_anew += 1
        del self._permissions[peer]

    @property
    def _crowded(self) -> bool:
        pairs = len(self._stream.pairs) + len(self._unverified) + len(self._unjudged)
        return pairs >= PAIRS or len(self._permissions) >= PAIRS

    def verify(self, request: Request) -> None:
        """`<db:verify/>`: is the key one of ours? (§2.2.2; R27)"""
        receiving, originating = request.pair
        options = self._stream.options
        if not options.answers_verify(originating):
            self._refuse(request, StanzaCondition.ITEM_NOT_FOUND, f"{originating} is not served here")
            return
        valid = options.keys.verify(receiving, originating, request.stream_id, request.key)
        self._stream.send(request.answer(DialbackOutcome("valid" if valid else "invalid")))

    def _refuse(self, request: Request, condition: StanzaCondition, text: str) -> None:
        self._stream.send(request.error(condition, text))

    # --- answers of the shell ---

    def judged(self, permission: Permission) -> None:
        """What the peer domain last asked about may do."""
        if self._asking is None:
            raise LocalFault("judged, though no judgement was asked for")
        peer, self._asking = self._asking, None
        if permission.refusal is not None and peer == self._asserted.peer:
            raise refused(permission.refusal)
        self._permissions[peer] = permission
        if permission.refusal is None:
            self._stream.permit(peer, permission)
        self._go_on()

    def answered(self, pair: Pair, outcome: DialbackOutcome) -> None:
        """What became of the key for `pair`."""
        request = self._unverified.pop(pair, None)
        if request is None:
            raise LocalFault(f"dialback_answered for {pair}, which was not asked about")
        if outcome.type == "valid":
            self._prove(request, "dialback")
        elif outcome.type == "invalid":
            self._invalid(request, outcome)
        else:
            self._stream.send(request.answer(outcome))

    def _prove(self, request: Request, method: Method) -> None:
        self._stream.send(request.answer(DialbackOutcome("valid")))
        self._stream.prove(request.pair, method)
        self._stream.reach(request.pair)

    def _invalid(self, request: Request, outcome: DialbackOutcome) -> None:
        """A forged sender ends the stream (§2.2.1), but not for the pairs beside it: then it is an error (§2.1.2)."""
        if self._stream.pairs or not self.idle:
            self._stream.send(request.answer(DialbackOutcome("error", outcome.ending)))
            return
        self._stream.send(request.answer(outcome))
        raise Stop(outcome.ending or Ending(Cause.DIALBACK_INVALID))

    def _go_on(self) -> None:
        """Bring the requests whose peer is judged to their question, and ask about the first whose peer is not."""
        while self._unjudged and self._asking is None:
            request = self._unjudged[0]
            permission = self._permissions.get(request.pair.sender)
            if permission is None:
                self._ask(request.pair)
            else:
                self._unjudged.popleft()
                self._permitted(request, permission)

    def _ask(self, pair: Pair) -> None:
        self._asking = pair.sender
        self._stream.emit(JudgementNeeded(pair.sender, pair.recipient, self._stream.secured))

    def _permitted(self, request: Request, permission: Permission) -> None:
        refusal = permission.refusal
        if permission.dialback:
            self._unverified[request.pair] = request
            self._stream.emit(DialbackNeeded(request.pair, request.key, self._asserted.stream_id))
        elif permission.external and self._stream.authenticated:
            self._prove(request, "certificate")
        elif refusal is None:
            text = f"{request.pair.sender} may not authenticate by dialback here"
            self._refuse(request, StanzaCondition.POLICY_VIOLATION, text)
        else:
            self._refuse(request, refusal.ending.account.condition, refusal.text)
