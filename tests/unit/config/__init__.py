"""Tests of `s2sgw/config/`."""
