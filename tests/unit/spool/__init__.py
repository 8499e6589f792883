"""Tests of `s2sgw/spool/`."""
