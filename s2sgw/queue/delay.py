"""Delay stamps: a stanza that had to wait says since when (XEP-0203, R39)."""

from __future__ import annotations

from datetime import UTC, datetime

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.namespaces import DELAY
from s2sgw.xmpp.stanza import Stanza

_PAYLOAD = f"{DELAY}}}delay"


def stamped(stanza: Stanza, sender: Domain, accepted_at: float) -> bytes:
    """The stanza's bytes with a stamp of `accepted_at` (seconds since the epoch) by `sender`; as they are where none is due."""
    if stanza.kind == "iq" or stanza.type == "error" or _PAYLOAD in stanza.payloads:
        return stanza.data
    at = datetime.fromtimestamp(accepted_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    delay = Element("delay", DELAY, {"from": sender.text, "stamp": at}).to_xml()
    if stanza.data.endswith(b"/>"):
        return stanza.data[:-2] + b">" + delay + b"</" + stanza.kind.encode() + b">"
    end = stanza.data.rindex(b"</")
    return stanza.data[:end] + delay + stanza.data[end:]
