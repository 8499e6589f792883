"""Floor 3: one policy object per peer, and the verdict. Pure, knows no network."""
