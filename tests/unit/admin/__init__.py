"""Tests of `s2sgw/admin/`."""
