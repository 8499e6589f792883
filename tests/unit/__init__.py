"""The tests of each module, laid out as `s2sgw/` is."""
