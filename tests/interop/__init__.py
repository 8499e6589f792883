"""The interoperability lab: the gateway between real servers on loopback (`make interop`).

The gateway imports nothing from here, and this package imports nothing of the gateway. The tested process is started by
`twistd s2sgw`, and is used over its sockets, by independent clients and peers.
"""
