"""Tests of `s2sgw/storage/`."""
