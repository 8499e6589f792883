"""Hostile scripts against a live gateway with honest traffic through it (`make attack`)."""
