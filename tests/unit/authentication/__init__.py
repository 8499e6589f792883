"""Tests of `s2sgw/authentication/`."""
