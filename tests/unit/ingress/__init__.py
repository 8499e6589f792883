"""Tests of `s2sgw/ingress/`."""
