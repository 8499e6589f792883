"""Tests of `s2sgw/cli/`."""
