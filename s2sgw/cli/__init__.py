"""The `s2sgw` command: it asks the admin socket and prints the answer."""
