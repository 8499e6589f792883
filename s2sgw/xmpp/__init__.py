"""Floor 1: bytes, names, stanzas and errors of XMPP. Pure, known to all."""
