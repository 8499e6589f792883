"""Tests of the project itself: its structure, its conformance table."""
