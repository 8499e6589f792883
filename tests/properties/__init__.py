"""Tests of invariants under random input (Hypothesis)."""
