"""Bytes, names, stanzas and errors of XMPP. Pure; every other package may import it."""
