"""The common parts of programs with real servers and processes: folders, ports, processes, peers, certificates."""
