"""The receiving and the authoritative role of dialback on one stream: the requests, and their results.

A peer that has proven nothing can send any number of requests. So each costs the same after any number of others, only a few are
judged or verified at once, and their rate is limited.
"""

from __future__ import annotations

from s2sgw.stream import dialback
from s2sgw.stream.dialback import Request
from s2sgw.stream.events import (
    DialbackNeeded,
    DialbackOutcome,
    JudgementNeeded,
    LimitHit,
    Method,
    PairRefused,
    Permission,
)
from s2sgw.stream.negotiation import Stop, refuse, refused
from s2sgw.stream.receiving_context import Asserted, ReceivingContext
from s2sgw.xmpp.bounded_dict import BoundedDict
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.errors import LocalFault, StanzaCondition, StreamCondition
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.token_bucket import TokenBucket

#: Pairs that may be proven on one stream.
PAIRS = 4096
#: The burst of requests, in seconds of their rate.
BURST_SECONDS = 5
#: Peers that are judged at once, and keys that are verified at once.
JUDGED_AT_ONCE = 4
VERIFIED_AT_ONCE = 8
#: Answers on a stream to requests beyond a bound, and to requests for domains that are not served: this many at once, and one
#: more each minute. The next one ends the stream.
ANSWERED = 3
ANSWERED_AGAIN = 1 / 60
#: Refused peers that are remembered and not judged again when they ask again. Those refused longest ago are forgotten first.
REFUSED = 64
#: The number of times that a temporarily refused peer is judged again on one stream.
JUDGED_ANEW = 1000
#: Temporary refusals.
TEMPORARY = frozenset({StanzaCondition.REMOTE_SERVER_TIMEOUT, StanzaCondition.RESOURCE_CONSTRAINT})


class DialbackAuthorization:
    """The requests of one stream. Each peer domain is judged once, then each pair is proven by its key (R28).

    If the policy does not accept a key for the domain, its certificate is used, on a stream that has authenticated already
    (XEP-0220 §2.1.1 leaves the method to the implementation, XEP-0344 describes this one).
    """

    def __init__(self, stream: ReceivingContext, asserted: Asserted, permission: Permission | None) -> None:
        self._stream = stream
        self._asserted = asserted
        options, now = stream.options, stream.options.seconds()
        self._domains = options.domains
        self._permitted: dict[Domain, Permission] = {}
        self._refused: dict[Domain, Permission] = {}  # bounded as soon as it has an entry: most streams have none
        if permission is not None and asserted.peer is not None:
            self._permit(asserted.peer, permission)
        #: the pairs of all requests that are not answered yet
        self._asked: dict[Pair, None] = {}
        #: requests by their peer, which must be judged first, in the order of arrival of the peers
        self._unjudged: dict[Domain, list[Request]] = {}
        self._judging: dict[Domain, None] = {}
        #: requests whose keys are being verified, and those that wait
        self._verifying: dict[Pair, Request] = {}
        self._unverified: list[Request] = []
        self._judged_anew = 0
        rate = options.claims_per_second
        self._rate = TokenBucket(rate, now, burst=rate * BURST_SECONDS) if rate else None
        self._answered = TokenBucket(ANSWERED_AGAIN, now, burst=ANSWERED)

    @property
    def idle(self) -> bool:
        """Return whether no request is open."""
        return not self._asked

    # --- requests ---

    def result(self, request: Request) -> None:
        """Handle `<db:result/>`: the peer requests to send `request.pair` on this stream."""
        pair = request.pair
        if pair in self._stream.pairs:
            self._stream.send(request.answer(DialbackOutcome("valid")))
        elif pair not in self._asked:
            self._new(request)

    def _new(self, request: Request) -> None:
        sender, recipient = request.pair
        options = self._stream.options
        if not options.serves(recipient):
            self._few(request.error(StanzaCondition.ITEM_NOT_FOUND, f"{recipient} is not served here"))
            return
        bound = self._passed_bound()
        refusal = None if bound else self._stream.refusal_of(sender)
        if bound:
            self._stream.emit(LimitHit("claims_per_second"))
            self._few(request.error(StanzaCondition.RESOURCE_CONSTRAINT, bound))
        elif refusal is not None:
            self._refuse(request, refusal.ending.account.condition, refusal.text, refusal.ending)
        elif self._is_full_for(sender):
            self._stream.emit(LimitHit("domains_per_stream"))
            text = f"more than {self._domains} domains, or {PAIRS} pairs, on one stream: open another one"
            self._refuse(request, StanzaCondition.RESOURCE_CONSTRAINT, text, Ending(Cause.TOO_MANY_CLAIMS, text))
        else:
            self._forget_temporary(sender)
            self._asked[request.pair] = None
            self._unjudged.setdefault(sender, []).append(request)
            self._go_on()

    def _passed_bound(self) -> str:
        """Count one more request. Return which limit it exceeds, in words; "": none."""
        options = self._stream.options
        if len(self._asked) >= options.claims_waiting:
            return f"more than {options.claims_waiting} requests without waiting for an answer"
        if self._rate is not None and not self._rate.take(options.seconds()):
            return f"more than {self._rate.rate:g} requests a second"
        return ""

    def not_served(self, element: Element) -> None:
        """Refuse a request for a domain that is not served, without parsing it."""
        self._few(dialback.error(element, StanzaCondition.ITEM_NOT_FOUND, "the domain in `to` is not served here"))

    def _few(self, error: Element) -> None:
        """Send an error. After a few of them on one stream, the next one ends the stream."""
        self._stream.send(error)
        if not self._answered.take(self._stream.options.seconds()):
            text = "too many requests beyond the limits, or for domains that are not served"
            raise refuse(Cause.TOO_MANY_CLAIMS, StreamCondition.RESOURCE_CONSTRAINT, text)

    def _is_full_for(self, sender: Domain) -> bool:
        """Return whether the stream can carry no further domain or pair."""
        if len(self._stream.pairs) + len(self._asked) >= PAIRS:
            return True
        if sender in self._permitted or sender in self._unjudged:
            return False
        return len(self._permitted) + len(self._unjudged) >= self._domains

    def _permit(self, peer: Domain, permission: Permission) -> None:
        """Keep the permission of `peer`. A stream may have thousands of peers: most permissions are those of the one before."""
        last = next(reversed(self._permitted.values()), None)
        self._permitted[peer] = last if last is not None and last == permission else permission
        self._domains = max(self._domains, permission.domains)

    def _forget_temporary(self, peer: Domain) -> None:
        """Forget a temporary refusal: the DNS may answer now."""
        permission = self._refused.get(peer)
        if permission is None or permission.refusal is None or self._judged_anew >= JUDGED_ANEW:
            return
        if permission.refusal.ending.account.condition in TEMPORARY:
            self._judged_anew += 1
            del self._refused[peer]

    def verify(self, request: Request) -> None:
        """Answer `<db:verify/>`: say whether the gateway made the key (§2.2.2; R27)."""
        receiving, originating = request.pair
        options = self._stream.options
        if not options.answers_verify(originating):
            self._few(request.error(StanzaCondition.ITEM_NOT_FOUND, f"{originating} is not served here"))
            return
        valid = options.keys.verify(receiving, originating, request.stream_id, request.key)
        self._stream.send(request.answer(DialbackOutcome("valid" if valid else "invalid")))

    def _refuse(self, request: Request, condition: StanzaCondition, text: str, ending: Ending) -> None:
        self._stream.send(request.error(condition, text))
        self._stream.emit(PairRefused(request.pair, ending))

    # --- answers to the engine's questions ---

    def judged(self, permission: Permission, peer: Domain | None = None) -> None:
        """Handle the judgement of `peer`. None: of the only peer that is being judged."""
        if peer is None and len(self._judging) == 1:
            [peer] = self._judging
        if peer is None or peer not in self._judging:
            raise LocalFault(f"judged {peer or ''}, though no judgement was asked for")
        del self._judging[peer]
        if permission.refusal is not None and peer == self._asserted.peer:
            raise refused(permission.refusal)
        if permission.refusal is None:
            self._permit(peer, permission)
            self._stream.permit(peer, permission)
        else:
            if not self._refused:
                self._refused = BoundedDict(REFUSED)
            self._refused[peer] = permission
        for request in self._unjudged.pop(peer):
            self._permitted_by(permission, request)
        self._go_on()

    def answered(self, pair: Pair, outcome: DialbackOutcome) -> None:
        """Handle the result of the verification of the key for `pair`."""
        request = self._verifying.pop(pair, None)
        if request is None:
            raise LocalFault(f"dialback_answered for {pair}, which was not asked about")
        del self._asked[pair]
        if outcome.type == "valid":
            self._prove(request, "dialback")
        elif outcome.type == "invalid":
            self._invalid(request, outcome)
        else:
            self._refuse_key(request, outcome)
        self._go_on()

    def _prove(self, request: Request, method: Method) -> None:
        self._stream.send(request.answer(DialbackOutcome("valid")))
        self._stream.prove(request.pair, method)
        self._stream.reach(request.pair)

    def _invalid(self, request: Request, outcome: DialbackOutcome) -> None:
        """End the stream because of a forged sender (§2.2.1). If other pairs use the stream, send an error instead (§2.1.2)."""
        if self._stream.pairs or not self.idle:
            self._refuse_key(request, DialbackOutcome("error", outcome.ending))
            return
        self._stream.send(request.answer(outcome))
        raise Stop(outcome.ending or Ending(Cause.DIALBACK_INVALID))

    def _refuse_key(self, request: Request, outcome: DialbackOutcome) -> None:
        self._stream.send(request.answer(outcome))
        self._stream.emit(PairRefused(request.pair, outcome.ending or Ending(Cause.DIALBACK_ERROR)))

    # --- turns ---

    def _go_on(self) -> None:
        """Start judgements and verifications, as many as may run at once."""
        for peer in list(self._unjudged):
            permission = self._permitted.get(peer) or self._refused.get(peer)
            if permission is not None and peer not in self._judging:
                for request in self._unjudged.pop(peer):
                    self._permitted_by(permission, request)
            elif peer not in self._judging and len(self._judging) < JUDGED_AT_ONCE:
                self._judging[peer] = None
                local = self._unjudged[peer][0].pair.recipient
                self._stream.emit(JudgementNeeded(peer, local, self._stream.secured))
        while self._unverified and len(self._verifying) < VERIFIED_AT_ONCE:
            request = self._unverified.pop(0)
            self._verifying[request.pair] = request
            self._stream.emit(DialbackNeeded(request.pair, request.key, self._asserted.stream_id))

    def _permitted_by(self, permission: Permission, request: Request) -> None:
        """Continue with a request whose peer was judged."""
        if permission.dialback:
            self._unverified.append(request)
            return
        del self._asked[request.pair]
        if permission.external and self._stream.authenticated:
            self._prove(request, "certificate")
        elif permission.refusal is None:
            text = f"{request.pair.sender} may not authenticate by dialback here"
            self._refuse(request, StanzaCondition.POLICY_VIOLATION, text, Ending(Cause.NO_COMMON_METHOD, text))
        else:
            refusal = permission.refusal
            self._refuse(request, refusal.ending.account.condition, refusal.text, refusal.ending)
