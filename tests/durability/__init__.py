"""`make crash` (python -m tests.durability): the gateway under load is killed again and again, and every stanza is accounted for."""
