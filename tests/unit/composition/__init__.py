"""Tests of `s2sgw/composition/`."""
