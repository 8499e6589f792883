"""Several nodes that serve one federation: the engine, membership, homes and the spool that nodes share (docs/cluster.md)."""
