"""`make crash` (python -m crash): the gateway under load is killed again and again, and every stanza is accounted for."""
