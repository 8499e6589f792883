"""Random and mutated input at every door that a stranger can knock at: `make fuzz`.

`targets` says what is tried and what must hold, `__main__` runs each target for a while, `cases/` keeps what was found once.
"""
