"""The common ground of the programs that run real servers: places, processes, peers, certificates."""
