"""Protocol rules that are broken to check that their tests fail (`make mutants`)."""
