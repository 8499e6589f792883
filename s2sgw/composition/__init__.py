"""Builds every object once, in a written order, and joins them."""
