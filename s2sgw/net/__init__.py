"""Floor 3: sockets, TLS and DNS on Twisted; knows no policy."""
