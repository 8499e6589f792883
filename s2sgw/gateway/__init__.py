"""Floor 4: where streams, trust, policy and queue meet."""
