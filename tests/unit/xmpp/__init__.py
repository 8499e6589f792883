"""Tests of `s2sgw/xmpp/`."""
