"""Tests of `s2sgw/trust/`."""
