"""Delay stamps: the time since when a stanza has waited (XEP-0203, R39)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.jid import Domain
from s2sgw.xmpp.namespaces import DELAY
from s2sgw.xmpp.stanza import Stanza

#: Stamps that are kept. All stanzas of one turn have the same.
STAMPS = 256
_EPOCH = datetime.fromtimestamp(0, UTC)
_PAYLOAD = f"{DELAY}}}delay"


def stamped(stanza: Stanza, sender: Domain, accepted_at: float) -> bytes:
    """Return the stanza's bytes with a stamp of `accepted_at` (seconds since the epoch) by `sender`; unchanged if none is due."""
    if stanza.kind == "iq" or stanza.type == "error" or _PAYLOAD in stanza.payloads:
        return stanza.data
    data, delay = stanza.data, _delay(sender.text, round(accepted_at * 1000))
    if data.endswith(b"/>"):
        return b"%b>%b</%b>" % (data[:-2], delay, stanza.kind.encode())
    end = data.rindex(b"</")
    return b"%b%b%b" % (data[:end], delay, data[end:])


@lru_cache(maxsize=STAMPS)
def _delay(sender: str, at: int) -> bytes:
    """Return the stamp. `at` is in milliseconds since the epoch."""
    stamp = (_EPOCH + timedelta(milliseconds=at)).isoformat(timespec="milliseconds").removesuffix("+00:00")
    return Element("delay", DELAY, {"from": sender, "stamp": f"{stamp}Z"}).to_xml()
