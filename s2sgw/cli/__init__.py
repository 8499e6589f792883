"""The `s2sgw` command: it sends a request to the admin socket and prints the response."""
