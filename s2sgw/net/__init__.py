"""Sockets, TLS and DNS on Twisted. This package has no policy."""
