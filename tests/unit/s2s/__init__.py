"""Tests of `s2sgw/s2s/`."""
