"""Tests of `s2sgw/runtime/`."""
