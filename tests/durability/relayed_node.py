"""Run a node that tells the others another port than that of its listener for nodes: `python -m tests.durability.relayed_node PORT OPTIONS…`

OPTIONS are those of twistd. At PORT is a relay to the listener, so that a test can delay, drop or reset what nodes send each other.
"""

from __future__ import annotations

import sys
from functools import partial

from twisted.scripts import twistd

from s2sgw.composition import cluster, node_life
from s2sgw.xmpp.host_port import HostPort


def announced_place(port: int, endpoint: str) -> HostPort:
    """Return the address that other nodes connect to, for the endpoint string of `[cluster].listen`."""
    return HostPort(_listener_place(endpoint).host, port)


_listener_place = cluster.listener_place

if __name__ == "__main__":
    for module in (cluster, node_life):
        vars(module)["listener_place"] = partial(announced_place, int(sys.argv[1]))
    sys.argv = ["twistd", *sys.argv[2:]]
    twistd.run()
