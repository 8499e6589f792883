"""Floor 5: what an operator sees and does."""
