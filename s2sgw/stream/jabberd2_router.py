"""The stream of a component of jabberd2 to its router: authenticate, bind the default route, carry stanzas.

The protocol is not standardised. It is described by jabberd2's source (router/router.c, s2s/router.c) and was tested with 2.7.0.
jabberd2's own s2s binds the default route: the router sends it everything for names that are not bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from s2sgw.sasl.digest_md5 import MECHANISM, DigestClient, DigestRefused
from s2sgw.stream import sasl
from s2sgw.stream.events import DETAIL_CHARACTERS, Announced, Bound, Event, Routed
from s2sgw.stream.features import StreamFeatures
from s2sgw.stream.negotiation import ElementPhase, Negotiation, Stop
from s2sgw.xmpp.content_namespace import to_client
from s2sgw.xmpp.element import Element, escape_attribute
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.header import Header
from s2sgw.xmpp.jabberd2_routes import Route, RouteFramer
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair, domain_of
from s2sgw.xmpp.limits import FramingLimits
from s2sgw.xmpp.namespaces import COMPONENT, PING, SASL, STREAM
from s2sgw.xmpp.stanza import Stanza

#: The name that is bound: that of jabberd2's own s2s.
NAME = "s2s"
#: The realm, and the service, of the router's users.
REALM = "jabberd-router"

_HEADER = f"<?xml version='1.0'?><stream:stream xmlns:stream='{STREAM}' version='1.0'>".encode()
#: A route to ourselves. A working router sends it back.
_ECHO = f"<route xmlns='{COMPONENT}' to='{NAME}' from='{NAME}'><ping xmlns='{PING}'/></route>".encode()
#: Numbers with which the router refuses a bind, and the help for the operator.
_REFUSALS = {
    "403": "its router.xml does not let the user take the default route: <acl type='default-route'> must name it",
    "409": "another component has the default route already: jabberd2's own s2s must not run",
}


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """The options of the stream: the user, and a function that returns a new nonce for each exchange."""

    host: str
    user: str
    secret: str = field(repr=False)
    nonce: Callable[[], str] = field(repr=False)
    limits: FramingLimits = field(default=FramingLimits())


class RouterStream(Negotiation):
    """One stream to a router. The result of `wrapped` may be written after `Bound`."""

    phase: RouterPhase
    stop_at: ClassVar[frozenset[str]] = frozenset({sasl.SUCCESS})
    framer = RouteFramer
    lasting = True

    def __init__(self, options: RouterOptions) -> None:
        super().__init__(options.limits)
        self.options = options
        self.phase = Idle(self)

    @property
    def hears(self) -> bool:
        return isinstance(self.phase, Carrying)

    @property
    def probe(self) -> bytes:
        """Return an element that the router answers, to find out whether it is alive."""
        return _ECHO

    def begin(self) -> list[Event]:
        """Start: the transport is connected."""
        return self.step(self.phase.begin)

    def unbind(self) -> list[Event]:
        """Give up the default route. `Bound` follows, after everything that the router had for us."""
        return self.step(self.phase.unbind)

    @property
    def acknowledged_to_peer(self) -> int:
        """Return 0: nothing is acknowledged to a router."""
        return 0

    def handled(self, number: int) -> list[Event]:
        """Do nothing: the router expects no acknowledgement."""
        return []

    def open_anyhow(self) -> None:
        self.open_stream()

    def open_stream(self) -> None:
        self.open(_HEADER)


def wrapped(recipient: Domain, stanzas: Iterable[bytes]) -> bytes:
    """Return the stanzas wrapped in routes to the component that serves `recipient`. `content.is_fit` must hold for each."""
    head = f"<route xmlns='{COMPONENT}' to='{escape_attribute(recipient.text)}' from='{NAME}'>".encode()
    return b"".join([head + to_client(data) + b"</route>" for data in stanzas])


class RouterPhase(ElementPhase):
    """Refuses every element. Each element has a method of its own."""

    stream: RouterStream
    inputs = {
        (STREAM, "features"): "features",
        (SASL, "challenge"): "challenge",
        (SASL, "success"): "success",
        (SASL, "failure"): "failure",
        (COMPONENT, "bind"): "bind",
        (COMPONENT, "unbind"): "unbound",
        (COMPONENT, "presence"): "presence",
    }

    def begin(self) -> None:
        raise self.unasked("begin")

    def unbind(self) -> None:
        """Do nothing: no route is bound yet."""


class Idle(RouterPhase):
    """Before the header is sent."""

    mute = True

    def begin(self) -> None:
        self.stream.open_stream()
        self.stream.phase = AwaitHeader(self.stream, AwaitMechanisms)


class AwaitHeader(RouterPhase):
    """After our header is sent."""

    def __init__(self, stream: RouterStream, then: type[RouterPhase]) -> None:
        super().__init__(stream)
        self._then = then

    def header(self, header: Header) -> None:
        self.stream.phase = self._then(self.stream)


class AwaitMechanisms(RouterPhase):
    """Before the router sends its mechanisms."""

    def features(self, element: Element) -> None:
        if MECHANISM not in StreamFeatures.read(element).mechanisms:
            raise Stop(Ending(Cause.NO_COMMON_METHOD, f"it does not offer {MECHANISM}, as jabberd2's router does", "them"))
        self.stream.send(Element("auth", SASL, {"mechanism": MECHANISM}))
        self.stream.phase = Authenticating(self.stream)


class Authenticating(RouterPhase):
    """During DIGEST-MD5, in which both sides prove that they know the secret."""

    def __init__(self, stream: RouterStream) -> None:
        super().__init__(stream)
        options = stream.options
        self._exchange = DigestClient(options.user, options.secret, REALM, f"{REALM}/{options.host}", options.nonce())

    def challenge(self, element: Element) -> None:
        try:
            answer = self._exchange.respond(sasl.read_challenge(element) or b"")
        except DigestRefused as why:
            raise _refused(str(why)) from None
        self.stream.send(sasl.response(answer) if answer else Element("response", SASL))

    def success(self, element: Element) -> None:
        try:
            self._exchange.finish(sasl.read_challenge(element))
        except DigestRefused as why:
            raise _refused(str(why)) from None
        self.stream.restart()
        self.stream.open_stream()
        self.stream.phase = AwaitHeader(self.stream, AwaitFeatures)

    def failure(self, element: Element) -> None:
        text = f"{sasl.read_failure(element)}: the user or the secret is not as in its router-users.xml"
        raise Stop(Ending(Cause.SASL_FAILED, text[:DETAIL_CHARACTERS], "them"))


class AwaitFeatures(RouterPhase):
    """After SASL."""

    def features(self, element: Element) -> None:
        self.stream.send(Element("bind", COMPONENT, {"name": NAME}, [Element("default", COMPONENT)]))
        self.stream.phase = Binding(self.stream)


class Binding(RouterPhase):
    """After the request for the default route."""

    def bind(self, element: Element) -> None:
        number = element.attributes.get("error")
        if number is not None:
            why = _REFUSALS.get(number, f"error {number[:DETAIL_CHARACTERS]}")
            raise Stop(Ending(Cause.SASL_FAILED, f"the router refuses the default route: {why}", "them"))
        self.stream.phase = Carrying(self.stream)
        self.stream.emit(Bound(True))


class Carrying(RouterPhase):
    """After the default route is bound."""

    def __init__(self, stream: RouterStream) -> None:
        super().__init__(stream)
        self._unbinding = False
        self._last: Pair | None = None

    def route(self, route: Route) -> None:
        """Handle a route to one address. Broadcasts and copies for a log are ignored, as s2s/router.c does."""
        stanza = route.stanza
        if stanza is None or route.type is not None or (route.to == NAME and route.error is None):
            return
        pair = self._pair_of(stanza) if route.error is None else None
        if pair is None:
            self.stream.emit(Routed(stanza, route.error))
        else:
            self.stream.pass_on(pair, stanza)

    def _pair_of(self, stanza: Stanza) -> Pair | None:
        """Return the pair, as the same object for consecutive stanzas. None: the addresses are not valid."""
        try:
            pair = Pair(domain_of(stanza.from_), domain_of(stanza.to))
        except InvalidJID:
            return None
        if pair != self._last:
            self._last = pair
        return self._last

    def presence(self, element: Element) -> None:
        name = element.attributes.get("from")
        if name is not None:
            self.stream.emit(Announced(name, element.attributes.get("type") != "unavailable"))

    def element(self, element: Element) -> None:
        """Ignore an unknown element, as all components of jabberd2 do."""
        if (element.namespace, element.name) in self.inputs:
            super().element(element)

    def unbind(self) -> None:
        if not self._unbinding:
            self._unbinding = True
            self.stream.send(Element("unbind", COMPONENT, {"name": NAME}))

    def unbound(self, element: Element) -> None:
        self.stream.emit(Bound(False))


def _refused(text: str) -> Stop:
    return Stop(Ending(Cause.SASL_FAILED, f"{MECHANISM}: {text}"))
