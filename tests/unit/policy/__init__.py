"""Tests of `s2sgw/policy/`."""
