"""One policy object for each peer, and the verdict. Pure: no network, no files."""
