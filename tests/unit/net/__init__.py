"""Tests of `s2sgw/net/`."""
