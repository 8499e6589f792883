"""Tests of `s2sgw/backend/`."""
