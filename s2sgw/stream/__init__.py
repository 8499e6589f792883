"""The negotiation of a jabber:server stream, both roles, without I/O. Pure."""
