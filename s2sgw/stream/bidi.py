"""Bidirectional streams (XEP-0288): stanzas of the inverse of each authenticated pair come back on the same stream (R36)."""

from __future__ import annotations

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.namespaces import BIDI, BIDI_FEATURE

#: `namespace}name` of the feature
FEATURE = f"{BIDI_FEATURE}}}bidi"


def feature() -> Element:
    """Return the feature for use after TLS. For the receiving side."""
    return Element("bidi", BIDI_FEATURE)


def request() -> Element:
    """Return `<bidi/>`, which is sent before SASL or dialback and is not answered. For the initiating side."""
    return Element("bidi", BIDI)
