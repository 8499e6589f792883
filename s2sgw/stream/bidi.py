"""Bidirectional streams (XEP-0288): stanzas of the inverse of each authenticated pair come back on the same stream (R36)."""

from __future__ import annotations

from s2sgw.xmpp.element import Element
from s2sgw.xmpp.namespaces import BIDI, BIDI_FEATURE

#: `namespace}name` of the feature
FEATURE = f"{BIDI_FEATURE}}}bidi"


def feature() -> Element:
    """Receiving: what announces it among the features behind TLS."""
    return Element("bidi", BIDI_FEATURE)


def request() -> Element:
    """Initiating: ask for it, before SASL or dialback; there is no answer."""
    return Element("bidi", BIDI)
