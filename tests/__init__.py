"""The tests of s2sgw: `make test`."""
