"""Random and mutated input for every interface that a stranger can reach: `make fuzz`.

`targets` has the targets and their conditions, `__main__` runs each target for a while, `cases/` keeps earlier findings.
"""
