"""s2sgw: the front door for XMPP federation, in front of an existing server."""

__version__ = "0.1.0"
