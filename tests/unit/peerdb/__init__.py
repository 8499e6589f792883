"""Tests of `s2sgw/peerdb/`."""
