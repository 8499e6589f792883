"""Server dialback: its keys (XEP-0185) and its elements (XEP-0220)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from s2sgw.stream.events import DETAIL_CHARACTERS, DialbackOutcome
from s2sgw.xmpp.element import Element, stanza_error
from s2sgw.xmpp.ending import ACCOUNTS, Cause, Ending
from s2sgw.xmpp.errors import RemoteFault, StanzaCondition, StreamCondition
from s2sgw.xmpp.jid import Domain, InvalidJID, Pair
from s2sgw.xmpp.namespaces import DIALBACK, SERVER, STANZA_ERRORS

#: Characters of an `id` that is repeated in an answer.
ID_CHARACTERS = 1024

_CONDITIONS = {Cause.HOST_UNKNOWN: StanzaCondition.ITEM_NOT_FOUND, Cause.DIALBACK_INVALID: StanzaCondition.FORBIDDEN}


def derive(secret: bytes, purpose: str) -> bytes:
    """Return a secret for `purpose`, so that a key that was made for one leg is not valid on the other (R27)."""
    return hmac.digest(secret, f"s2sgw dialback: {purpose}".encode(), "sha256")


class DialbackKeys:
    """Dialback keys that can be checked with the secret alone, without remembering them (XEP-0185 §3)."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hashlib.sha256(secret).hexdigest().encode()

    def key(self, receiving: Domain, originating: Domain, stream_id: str) -> str:
        """Return the key for stanzas from `originating` to `receiving`, on the stream with the id `stream_id` of `receiving`."""
        text = f"{receiving.ascii} {originating.ascii} {stream_id}"
        return hmac.new(self._secret, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()

    def verify(self, receiving: Domain, originating: Domain, stream_id: str, key: str) -> bool:
        """Return whether `key` is ours, in constant time."""
        expected = self.key(receiving, originating, stream_id)
        return hmac.compare_digest(expected.encode(), key.encode("utf-8", "surrogatepass"))


# --- elements --------------------------------------------------------------------------------------------------------


def result(pair: Pair, key: str) -> Element:
    """Return `<db:result/>`: the initiating side requests `pair` (XEP-0220 §2.1.1)."""
    return Element("result", DIALBACK, _addresses(pair), text=key)


def verify(pair: Pair, stream_id: str, key: str) -> Element:
    """Return `<db:verify/>`: ask the authoritative server of `pair.sender` whether the key for `pair` is its own (§2.1.2)."""
    return Element("verify", DIALBACK, {**_addresses(pair.inverse), "id": stream_id}, text=key)


def unsolicited(element: Element) -> RemoteFault:
    """Return the refusal of an answer to a question that was not asked on this stream (XEP-0220 §3.1, R27)."""
    return RemoteFault(StreamCondition.INVALID_FROM, f"<db:{element.name}/> answers a request that was not made on this stream")


@dataclass(frozen=True, slots=True)
class Request:
    """A `<db:result/>` or `<db:verify/>` without `type`, which must be answered (§2.2)."""

    name: str
    pair: Pair  # as addressed: from, to
    key: str
    stream_id: str  # of a verify; "" of a result
    attributes: dict[str, str]  # from, to and id as they were spelled

    @classmethod
    def read(cls, element: Element) -> Request:
        """Return the request in `element`. Raises `RemoteFault` if it is not valid."""
        if "type" in element.attributes:
            raise unsolicited(element)
        if len(element.attributes.get("id", "")) > ID_CHARACTERS:
            text = f"`id` of <db:{element.name}/> is longer than {ID_CHARACTERS} characters"
            raise RemoteFault(StreamCondition.IMPROPER_ADDRESSING, text)
        stream_id = _stream_id(element) if element.name == "verify" else ""
        return cls(element.name, addresses(element), _key(element), stream_id, _spelled(element))

    def answer(self, outcome: DialbackOutcome) -> Element:
        """Return the answer. An error gives the reason by its condition and text."""
        if outcome.type == "error":
            return self.error(*_said_of(outcome.ending))
        return self._swapped(outcome.type)

    def error(self, condition: StanzaCondition, text: str) -> Element:
        """Return the error for a request that cannot be served (§2.5)."""
        return self._swapped("error", stanza_error(condition, text))

    def _swapped(self, type: str, *children: Element) -> Element:
        return _swapped(self.name, self.attributes, type, *children)


def error(element: Element, condition: StanzaCondition, text: str) -> Element:
    """Return the error for a request that was not parsed."""
    return _swapped(element.name, _spelled(element), "error", stanza_error(condition, text))


def _spelled(element: Element) -> dict[str, str]:
    return {name: value for name, value in element.attributes.items() if name in ("from", "to", "id")}


def _swapped(name: str, attributes: dict[str, str], type: str, *children: Element) -> Element:
    swapped = {"from": attributes.get("to", ""), "to": attributes.get("from", ""), "type": type}
    return Element(name, DIALBACK, {**attributes, **swapped}, list(children))


def _said_of(ending: Ending | None) -> tuple[StanzaCondition, str]:
    """Return condition and text for a cause, without internal details. XEP-0220 §2.5 has conditions for two causes."""
    cause = Cause.DIALBACK_ERROR if ending is None else ending.cause
    account = ACCOUNTS[cause]
    return _CONDITIONS.get(cause, account.condition), account.bounce


def addresses(element: Element) -> Pair:
    """Return `from` and `to` of a dialback element. Raises `<improper-addressing/>` if one is not a domain."""
    return Pair(_domain(element, "from"), _domain(element, "to"))


def _stream_id(element: Element) -> str:
    """Return the `id` of a `<db:verify/>`."""
    if not element.attributes.get("id"):
        raise RemoteFault(StreamCondition.BAD_FORMAT, "<db:verify/> without `id`")
    return element.attributes["id"]


def _key(element: Element) -> str:
    """Return the key in a request, without surrounding white space."""
    text = element.text.strip()
    if not text:
        raise RemoteFault(StreamCondition.BAD_FORMAT, f"<db:{element.name}/> without a key")
    return text


def outcome(element: Element) -> DialbackOutcome:
    """Return the result in an answer: valid, invalid, or an error."""
    match element.attributes.get("type"):
        case "valid":
            return DialbackOutcome("valid")
        case "invalid":
            return DialbackOutcome("invalid", Ending(Cause.DIALBACK_INVALID, "the key was found invalid", "them"))
        case "error":
            return DialbackOutcome("error", _read_error(element))
    raise RemoteFault(StreamCondition.BAD_FORMAT, f"<db:{element.name}/> with a `type` that is neither valid, invalid nor error")


def _read_error(element: Element) -> Ending:
    error = element.child(SERVER, "error") or Element("error", SERVER)
    names = [child.name for child in error.children if child.namespace == STANZA_ERRORS and child.name != "text"]
    condition = names[0] if names else str(StanzaCondition.UNDEFINED_CONDITION)
    text = error.child(STANZA_ERRORS, "text")
    detail = condition if text is None else f"{condition}: {text.text}"
    cause = Cause.HOST_UNKNOWN if condition == StanzaCondition.ITEM_NOT_FOUND else Cause.DIALBACK_ERROR
    return Ending(cause, detail[:DETAIL_CHARACTERS], "them")


def _addresses(pair: Pair) -> dict[str, str]:
    return {"from": pair.sender.text, "to": pair.recipient.text}


def _domain(element: Element, attribute: str) -> Domain:
    try:
        return Domain.claimed(element.attributes.get(attribute, ""))
    except InvalidJID as error:
        raise error.fault(f"`{attribute}` of <db:{element.name}/>") from None
