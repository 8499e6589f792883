"""Tests of `s2sgw/reporting/`."""
