"""The embedded echo backend: answers messages and pings to the local domains, so that a gateway can be tried alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from s2sgw.delivery.next_hop import NextHopStatus
from s2sgw.delivery.queue_table import DeliveryQueues
from s2sgw.xmpp.element import Element, stanza_error
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.errors import RemoteFault, StanzaCondition
from s2sgw.xmpp.jid import Pair
from s2sgw.xmpp.namespaces import PING, SERVER
from s2sgw.xmpp.stanza import Kind, Stanza


class EchoNextHop:
    """The next hop of the queue of `pair`, which ends here: each stanza is answered through the queue back to the sender.

    An answer is a new stanza without a receipt. If that queue takes no more, no answer is made.
    """

    state = "idle"
    ready = True
    slow = False
    acknowledges = acks_arrive_elsewhere = False
    last_cause = Cause.CLOSED
    log = Logger()

    def __init__(self, pair: Pair, queues: DeliveryQueues) -> None:
        self._pair = pair
        self._queues = queues

    def dispose(self) -> None:
        """Do nothing: no object refers to the queue."""

    def status(self) -> NextHopStatus:
        """Return a status that is always ready, without a stream."""
        return NextHopStatus(self.state)

    def send(self, data: Sequence[bytes]) -> bool:
        """Answer the stanzas that can be answered."""
        back = self._queues.queue(self._pair.inverse)
        if back.pair_queue.crowded:
            return False
        answers = [answer for answer in map(self._answer_to, data) if answer is not None]
        if answers:
            back.accept([_stanza(answer) for answer in answers])
        return False

    def relieve_pressure(self) -> None:
        """Do nothing: no stanza is ever unacknowledged."""

    def request_delivery(self) -> None:
        """Do nothing: the hop is always ready, so no stanza waits."""

    def withdraw_request(self) -> None:
        """Do nothing: no attempt is ever under way."""

    def retry_now(self, urged: bool = False) -> None:
        """Do nothing: the hop is always ready."""

    def release_stream(self) -> None:
        """Do nothing: there is no stream."""

    def stop(self, cause: Cause) -> Deferred[None]:
        """Do nothing: there is no stream to close."""
        return succeed(None)

    def abandon(self) -> None:
        """Do nothing: there is no stream, and nothing is under way."""

    def _answer_to(self, data: bytes) -> Element | None:
        """Return the answer to a stanza; None: it has none, or is too large to be parsed as a whole."""
        try:
            stanza = Element.parse(data)
        except RemoteFault as fault:
            self.log.debug(event="echo", detail=fault.text, peer=str(self._pair.sender), local=str(self._pair.recipient))
            return None
        return self._answer(stanza)

    def _answer(self, stanza: Element) -> Element | None:
        kind, type = stanza.name, stanza.attributes.get("type")
        if kind == "message" and type not in ("error", "groupchat") and stanza.child(SERVER, "body"):
            return _reply(stanza, type, list(stanza.every(SERVER, "body")))
        if kind == "iq" and type == "get" and stanza.child(PING, "ping"):
            return _reply(stanza, "result", [])
        if kind == "iq" and type in ("get", "set"):
            return _reply(stanza, "error", [stanza_error(StanzaCondition.SERVICE_UNAVAILABLE, "This is only an echo.")])
        self.log.debug(event="echo", kind=kind, type=type, peer=str(self._pair.sender), local=str(self._pair.recipient))
        return None


def _reply(to: Element, type: str | None, children: list[Element]) -> Element:
    attributes = {"from": to.attributes["to"], "to": to.attributes["from"]}
    attributes |= {name: value for name, value in (("id", to.attributes.get("id")), ("type", type)) if value is not None}
    return Element(to.name, SERVER, attributes, children)


def _stanza(reply: Element) -> Stanza:
    get = reply.attributes.get
    payloads = tuple(f"{child.namespace}}}{child.name}" for child in reply.children)
    return Stanza(cast(Kind, reply.name), reply.to_xml(), get("to", ""), get("from", ""), get("type"), get("id"), payloads)
