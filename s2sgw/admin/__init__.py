"""The admin socket of a running gateway, and what each of its verbs answers."""
