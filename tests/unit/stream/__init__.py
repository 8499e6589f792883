"""Tests of `s2sgw/stream/`."""
