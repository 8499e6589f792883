"""The steps of the documentation for an operator, run on a scratch machine."""
