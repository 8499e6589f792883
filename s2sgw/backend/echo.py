"""The embedded echo backend: answers messages and pings for the local domains, so that a gateway can be tried alone."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

from twisted.logger import Logger

from s2sgw.queue.bounce import bounce
from s2sgw.xmpp.element import Element
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.namespaces import PING, SERVER
from s2sgw.xmpp.stanza import Stanza


class EchoHop:
    """The hop of a lane that ends here: what arrives is answered through `deliver(pair, stanzas)`."""

    state = "idle"
    ready = True
    slow = False
    last_cause = Cause.CLOSED
    log = Logger()

    def __init__(self, pair: Pair, deliver: Callable[[Pair, list[Stanza]], None]) -> None:
        self._pair = pair
        self._deliver = deliver

    def send(self, stanzas: list[Stanza]) -> None:
        """Answer what can be answered."""
        answers = [answer for answer in map(self._answer, stanzas) if answer is not None]
        if answers:
            self._deliver(self._pair.inverse, answers)

    def wanted(self) -> None:
        """Always ready: nothing ever waits."""

    def contact(self) -> None:
        """Always here."""

    def stop(self, cause: Cause) -> None:
        """Nothing to close."""

    def _answer(self, stanza: Stanza) -> Stanza | None:
        if stanza.kind == "message" and stanza.type not in ("error", "groupchat"):
            return _echo(stanza)
        if stanza.kind == "iq" and stanza.type == "get" and f"{PING}}}ping" in stanza.payloads:
            return _stanza(stanza, "result", [])
        if stanza.kind == "iq" and stanza.type in ("get", "set"):
            error = bounce(stanza, Cause.NOT_ALLOWED)
            return None if error is None else Stanza("iq", error, stanza.from_, stanza.to, "error", stanza.id)
        self.log.info("echo: {stanza}", stanza=repr(stanza), event="echo")
        return None


def _echo(stanza: Stanza) -> Stanza | None:
    tree = ElementTree.fromstring(b'<x xmlns="%s">%s</x>' % (SERVER.encode(), stanza.data))
    body = tree.findtext(f"{{{SERVER}}}message/{{{SERVER}}}body")
    if body is None:
        return None
    return _stanza(stanza, stanza.type, [Element("body", SERVER, {}, [], body)])


def _stanza(to: Stanza, type: str | None, children: list[Element]) -> Stanza:
    attributes = {"from": to.to, "to": to.from_}
    attributes |= {name: value for name, value in (("id", to.id), ("type", type)) if value is not None}
    data = Element(to.kind, SERVER, attributes, children, "").to_xml()
    payloads = tuple(f"{child.namespace}}}{child.name}" for child in children)
    return Stanza(to.kind, data, to.from_, to.to, type, to.id, payloads)
