"""What the programs with real servers and processes share: folders, ports, processes, peers, certificates."""
