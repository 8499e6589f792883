"""The steps that the documentation tells an operator to take, typed into a scratch machine."""
