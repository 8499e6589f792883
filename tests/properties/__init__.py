"""Invariants under random input (Hypothesis)."""
