"""Tests of `s2sgw/delivery/`."""
