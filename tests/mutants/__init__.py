"""Rules of the wire broken on purpose, to see that the tests which claim them notice (`make mutants`)."""
