"""Does the gateway lose stanzas? `make crash`, `make custody` and `make soak` (docs/durability.md)."""
