"""The admin socket of a running gateway, and the answers of its verbs."""
