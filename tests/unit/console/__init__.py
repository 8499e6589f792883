"""Tests of `s2sgw/console/`."""
