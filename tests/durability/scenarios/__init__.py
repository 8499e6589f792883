"""The scenarios of `make custody`, by kind of failure."""
