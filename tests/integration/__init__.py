"""Several parts together, and the gateway on real sockets."""
