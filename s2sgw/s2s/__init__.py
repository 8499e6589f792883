"""Live server-to-server streams: accepted, initiated, shared among pairs, resumed, kept alive, limited per destination."""
