"""Tests of `s2sgw/sasl/`."""
