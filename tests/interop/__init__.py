"""The interoperability lab: the gateway between real servers on loopback (`make interop`).

Nothing here is imported by the gateway, and nothing here imports it: what is tested is the process that `twistd s2sgw`
starts, over its sockets, by clients and peers written on their own.
"""
