"""The scenarios of `make custody`, by what goes wrong."""
