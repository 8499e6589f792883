"""The context of all phases of a stream that we open: its options, the answers on it, and the proven pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from s2sgw.sasl.scram_secret import StreamSecret
from s2sgw.stream import management, sasl
from s2sgw.stream.events import ManagementEnabled, ManagementRefused, Method, NotResumed, PairProven, Permission, Resumed
from s2sgw.stream.features import MANAGEMENT_FEATURE, StreamFeatures
from s2sgw.stream.management import Managed, ManagedPhase, Resumption
from s2sgw.stream.options import InitiatingOptions
from s2sgw.stream.proven_pairs import ProvenPairs
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Ending
from s2sgw.xmpp.errors import RemoteFault, StreamCondition
from s2sgw.xmpp.header import stream_header
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.mechanisms import MECHANISMS, Mechanism
from s2sgw.xmpp.namespaces import DIALBACK, MANAGEMENT, SASL, STREAM, TLS
from s2sgw.xmpp.stanza import Stanza

PROCEED = f"{TLS}}}proceed"


@dataclass(frozen=True, slots=True)
class Answered:
    """The facts of the answering header. They are forgotten with their stream (R8).

    `other_from` and `other_to` are the header's addresses if they differ from the domains of the stream, else "".
    """

    stream_id: str
    dialback: bool
    other_from: str = ""
    other_to: str = ""


class InitiatingContext(Managed):
    """The phase-independent part of the initiating role."""

    stop_at: ClassVar[frozenset[str]] = frozenset({PROCEED, sasl.SUCCESS})

    def __init__(self, options: InitiatingOptions) -> None:
        super().__init__(options.limits)
        self.options = options
        self.pair = Pair(options.local, options.peer)
        #: the features that the other side offers now
        self.features = StreamFeatures()
        #: the features that it offered after TLS, before authentication; None: there were none yet
        self.offered: StreamFeatures | None = None
        #: why SASL failed, if it did
        self.sasl_failure: Ending | None = None
        #: the SASL mechanism that has authenticated us
        self.method: Method = "EXTERNAL"
        #: the pairs that may be sent
        self.proven: dict[Pair, Method] = {}
        self.enabling = False
        #: the lost stream that this one must resume; set before the stream begins
        self.previous: Resumption | None = None
        #: the proven pair that waits for the answer to `<resume/>`, and the `h` of that answer
        self._waiting: PairProven | None = None
        self._told = 0
        self._extensible = False
        #: whether the judgement allows stanzas on this stream; whether the other side was asked for them, and for which pairs
        #: (XEP-0288)
        self.reachable = False
        #: our secret for authentication besides the certificate, and whether the mechanism must prove the peer too (R26)
        self.secret: StreamSecret | None = None
        self.mutual = False
        self.mechanisms: tuple[Mechanism, ...] = MECHANISMS
        self.bidi = False
        self.carried = ProvenPairs()
        #: whether TLS has proven that the other end is the domain asked for
        self.peer_proven = False
        #: the other end's own name, if it is not the domain asked for, else ""
        self.answered_as = ""
        #: whether the answering header had no version
        self.pre_1_0 = False

    def open_stream(self) -> None:
        """Send our header (R1)."""
        self.features = StreamFeatures()
        self.open(stream_header(to=self.options.peer.text, from_=self.options.local.text))

    @property
    def extensible(self) -> bool:
        """Whether further pairs may be requested (XEP-0220 §2.6.1)."""
        return self._extensible and not self.closing

    def extend(self, answered: Answered) -> None:
        """End the negotiation. Dialback is offered by a feature; on a pre-1.0 stream by its namespace in the header (§2.4).

        A server that offers it as Prosody does is asked for no further pair. Prosody sends its own answers to a request (ping,
        disco, version) to the domain with which the stream began, on a stream on which they are not accepted (R29).
        """
        offered = (self.features.dialback and not self.features.dialback_plain) or (self.pre_1_0 and answered.dialback)
        self._extensible = offered and bool(answered.stream_id)

    @property
    def hears(self) -> bool:
        return bool(self.carried)

    @property
    def means(self) -> sasl.Means:
        """Return the means by which we can authenticate now."""
        options, features = self.options, self.features
        return sasl.Means(
            options.local, options.external, self.secret, self.mutual, features.mechanisms, features.bindings, self.mechanisms,
            options.peer,
        )

    def serves(self, domain: Domain) -> bool:
        """Return whether stanzas for `domain` may come: it is a domain that sends on this stream."""
        return any(domain == pair.sender for pair in self.proven)

    def open_anyhow(self) -> None:
        self.open_stream()

    def prove(self, pair: Pair, method: Method) -> None:
        """Allow `pair` to be sent from now on. With the first pair, request acknowledgements if they are offered."""
        first = not self.proven and self.options.management and MANAGEMENT_FEATURE in self.features.names
        self.proven[pair] = method
        proven = PairProven(pair, method)
        if first and self.previous is not None:
            self._waiting, self._told = proven, self.previous.counters.handled
            self.send(management.resume(self.previous))
        else:
            self._ready(proven, first)
        if self.bidi:
            self.carried.prove(pair.inverse, "bidi")
            self.emit(PairProven(pair.inverse, "bidi"))

    def _ready(self, proven: PairProven, manageable: bool) -> None:
        if manageable:
            self.send(management.enable(bool(self.options.resume)))
            self.manage()
            self.enabling = True
        self.emit(proven)

    @property
    def resuming(self) -> bool:
        """Note that `<resume/>` was sent."""
        return self._waiting is not None

    def resumed(self, element: Element) -> bool:
        """Take `<resumed/>`, or `<failed/>`, whose `h` counts too (XEP-0198 §5). Return whether `<resume/>` was outstanding."""
        waiting, previous = self._waiting, self.previous
        if waiting is None or previous is None:
            return False
        if element.name == "resumed":
            if element.attributes.get("previd") != previous.id:
                raise RemoteFault(StreamCondition.UNDEFINED_CONDITION, "<resumed/> names another stream")
            self.emit(Resumed(self.go_on(previous, self._told, element)))
        else:
            self.emit(NotResumed(previous.counters.acknowledge(element) if "h" in element.attributes else 0))
        self._waiting = self.previous = None
        self._ready(waiting, element.name != "resumed")
        return True

    def enabled(self, element: Element) -> bool:
        """Take the answer to `<enable/>`. Return whether one was outstanding."""
        asked, self.enabling = self.enabling, False
        if asked and element.name != "enabled":
            self.counters = None
            self.emit(ManagementRefused())
        elif asked:
            self.manage_back(element)
        return asked

    def manage_back(self, element: Element) -> None:
        """Take `<enabled/>`: later stanzas on a bidirectional stream are counted (XEP-0198 §4).

        Some servers offer resumption without an id. Then the stream cannot be resumed.
        """
        assert self.counters is not None
        self.counters.began = self.received
        seconds, id = management.within(element, self.options.resume), element.attributes.get("id")
        if seconds and id and management.may_resume(element):
            self.resumption = Resumption(id, seconds, self.counters)
        if self.bidi:
            self.emit(ManagementEnabled())


class InitiatingPhase(ManagedPhase):
    """Refuses every element and every answer. Each element of negotiation has a method of its own."""

    stream: InitiatingContext
    inputs = {
        (STREAM, "features"): "features",
        (TLS, "proceed"): "proceed",
        (TLS, "failure"): "tls_failure",
        (SASL, "challenge"): "challenge",
        (SASL, "success"): "success",
        (SASL, "failure"): "failure",
        (DIALBACK, "result"): "result",
        (DIALBACK, "verify"): "verify",
        (MANAGEMENT, "enabled"): "enabled",
        (MANAGEMENT, "failed"): "not_enabled",
        (MANAGEMENT, "resumed"): "resumed",
        (MANAGEMENT, "r"): "requested",
        (MANAGEMENT, "a"): "acknowledged",
    }

    def pair_of(self, stanza: Stanza) -> Pair:
        """Return the pair, if it may come this way (XEP-0288)."""
        carried = self.stream.carried
        if not carried:
            return super().pair_of(stanza)
        return carried.routes.get((stanza.from_, stanza.to)) or carried.admit(stanza, self.stream.serves)

    def enabled(self, element: Element) -> None:
        """Refuse `<enabled/>`."""
        if not self.stream.enabled(element):
            self.unexpected(element)

    def not_enabled(self, element: Element) -> None:
        """Refuse `<failed/>`, the answer to `<resume/>` or `<enable/>`."""
        if not (self.stream.resumed(element) or self.stream.enabled(element)):
            self.unexpected(element)

    def resumed(self, element: Element) -> None:
        """Refuse `<resumed/>`."""
        if not self.stream.resumed(element):
            self.unexpected(element)

    def begin(self) -> None:
        raise self.unasked("begin")

    def judged(self, permission: Permission) -> None:
        raise self.unasked("judged")

    def authorize(self, pair: Pair) -> None:
        raise self.unasked("authorize")

    def ask_verify(self, pair: Pair, stream_id: str, key: str) -> None:
        raise self.unasked("verify")
