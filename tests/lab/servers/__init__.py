"""The real XMPP servers that the lab can start."""
