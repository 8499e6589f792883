"""Tests of `s2sgw/queue/`."""
