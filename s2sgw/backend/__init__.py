"""Floor 4: the leg to the existing server."""
