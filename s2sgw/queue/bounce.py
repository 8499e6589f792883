"""The bounce: the stanza error that ends the custody of a stanza which could not be passed on (R33, R34)."""

from __future__ import annotations

from s2sgw.xmpp.element import Element, stanza_error
from s2sgw.xmpp.ending import ACCOUNTS, Cause
from s2sgw.xmpp.namespaces import SERVER
from s2sgw.xmpp.stanza import Stanza

#: The number of stanzas that are bounced in one step: a few milliseconds of work.
BOUNCED_AT_ONCE = 40


def bounce(stanza: Stanza, cause: Cause, said: str = "") -> bytes | None:
    """Return the error for the sender of `stanza`; None: no error may answer it.

    The id is kept and the addresses are swapped. The text is from the table of endings. It has the layer and the cause, and
    `said`, a word from a fixed list. It has no domain, no address, no text of a peer and nothing of the payload.
    """
    if not may_bounce(stanza):
        return None
    attributes = {"type": "error", "to": stanza.from_, "from": stanza.to}
    if stanza.id is not None:
        attributes["id"] = stanza.id
    account = ACCOUNTS[cause]
    text = f"{account.bounce} ({account.layer}: {cause}{'; ' if said else ''}{said})"
    return Element(stanza.kind, SERVER, attributes, [stanza_error(account.condition, text)]).to_xml()


def may_bounce(stanza: Stanza) -> bool:
    """Return whether an error may answer `stanza` (RFC 6120 §8.3.1, R33): never an error, nor a stanza that expects no answer."""
    if not stanza.from_:
        return False
    if stanza.kind == "iq":
        return stanza.is_request
    if stanza.kind == "presence":
        return stanza.type in (None, "subscribe")
    return stanza.type not in ("error", "result")
