"""The rows of `python -m benchmarks`, in order: name -> title and function."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import bulk, cluster, entries, growth, handshakes, idle, outbound, single, spooled, watching
from benchmarks.run import Run

ROWS: dict[str, tuple[str, Callable[[Run], None]]] = {
    "bulk-1": ("bulk, 1 stream", bulk.one_stream),
    "bulk-20": ("bulk, 20 streams", bulk.many_streams),
    "single-2000": ("single stanzas, 2,000 a second over 20 streams", single.moderate),
    "single-20000": ("single stanzas, 20,000 a second over 20 streams", single.high),
    "handshake": ("inbound handshake: TCP, STARTTLS, TLS 1.3, EXTERNAL", handshakes.inbound),
    "outbound": ("outbound stream: SRV to the first stanza", outbound.streams),
    "idle": ("idle inbound TLS streams", idle.streams),
    "command": ("s2sgw VERB, from the shell to the answer", entries.commands),
    "start": ("start with many peer entries", entries.starts),
    "reload": ("reload, every second entry changed", entries.reloads),
    "spooled": ("spooled stanzas, all due at once", spooled.million),
    "growth": ("what a stanza and a handshake cost a gateway that holds much", growth.costs),
    "cluster-bulk": ("bulk, 20 streams, through one gateway and through nodes of a cluster", cluster.bulk_load),
    "cluster-single": ("1,000 single stanzas a second for each gateway, alone and in a cluster", cluster.single_load),
    "cluster-port": ("bulk, 20 streams, through two nodes of one machine behind one port", cluster.one_port),
    "turn-watch": ("what the turn watch costs", watching.cost),
}
