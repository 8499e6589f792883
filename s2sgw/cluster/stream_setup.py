"""The streams of the engine: how they are made, and what an existing one must be like (docs/cluster.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s2sgw.cluster.engine import KEPT_BYTES, KEPT_RECORDS, EngineUnfit
from s2sgw.cluster.subjects import (
    BOOK_STREAM,
    KEPT_SUBJECTS,
    NODES_STREAM,
    PEN_STREAM,
    SPOOL_STREAMS,
    shard_subjects,
    table_subjects,
)

#: The oldest version of a server: the first that writes an atomic batch to the disk at once, and syncs its log once for each.
VERSION = (2, 15)
#: Copies of each record, on as many servers.
REPLICAS = 3
#: Seconds within which the engine knows that a record with the same id was stored.
DUPLICATE_WINDOW = 30
#: Bytes of the streams of the table. The table holds what operators decided and a record for each node.
_TABLE_BYTES = {NODES_STREAM: 16 * 1024 * 1024, BOOK_STREAM: 64 * 1024 * 1024}
#: The keys that must have the values that we set, with words for the operator.
_MUST_BE = {
    "retention": "retention", "discard": "discard policy", "max_msgs": "maximum of messages", "max_age": "maximum age",
    "max_msgs_per_subject": "maximum of messages for each subject", "subjects": "subjects", "allow_direct": "direct get",
    "allow_atomic": "atomic publish",
}  # fmt: skip


def wanted_streams(replicas: int, shard_bytes: int) -> list[dict[str, Any]]:
    """Return the configuration of every stream. `shard_bytes`: the most that each stream of the spool may hold."""
    streams = [
        _stream(name, [shard_subjects(number)], replicas, shard_bytes, per_subject=-1)
        for number, name in enumerate(SPOOL_STREAMS)
    ]
    tables = [_stream(name, table_subjects(name), replicas, size, per_subject=1) for name, size in _TABLE_BYTES.items()]
    pen = _stream(PEN_STREAM, [KEPT_SUBJECTS], replicas, KEPT_BYTES, per_subject=-1)
    return [*streams, *tables, {**pen, "discard": "old", "max_msgs": KEPT_RECORDS}]


def _stream(name: str, subjects: list[str], replicas: int, max_bytes: int, per_subject: int) -> dict[str, Any]:
    return {
        "name": name, "subjects": subjects, "retention": "limits", "storage": "file", "discard": "new", "num_replicas": replicas,
        "max_bytes": max_bytes, "max_msgs": -1, "max_age": 0, "max_msgs_per_subject": per_subject, "max_consumers": -1,
        "duplicate_window": DUPLICATE_WINDOW * 1_000_000_000, "allow_direct": True, "allow_atomic": True,
    }  # fmt: skip


def check_stream(wanted: Mapping[str, Any], found: Mapping[str, Any], clustered: bool) -> None:
    """Raise `EngineUnfit` if an existing stream cannot serve.

    `found`: its configuration. `clustered`: its server is in a cluster.
    """
    name = wanted["name"]
    if found.get("storage") != "file":
        raise EngineUnfit(f"the engine's stream {name} is in {found.get('storage')}, and must be on file")
    replicas = found.get("num_replicas", 1)
    if replicas < (REPLICAS if clustered else wanted["num_replicas"]):
        raise EngineUnfit(f"the engine's stream {name} has {replicas} replica(s), and must have {REPLICAS} on as many servers")
    for key, words in _MUST_BE.items():
        if found.get(key, False) != wanted[key]:
            raise EngineUnfit(f"the engine's stream {name} has another {words}: {found.get(key)} instead of {wanted[key]}")


def needs_update(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether a stream that can serve is smaller than it should be, or forgets the ids of records too early."""
    return bool(found["max_bytes"] < wanted["max_bytes"] or found.get("duplicate_window", 0) < wanted["duplicate_window"])


def room_words(stream: Mapping[str, Any], streams: Sequence[Mapping[str, Any]]) -> str:
    """Return how much room one of the streams needs, and all of them, for an operator."""
    total = sum(each["max_bytes"] for each in streams)
    return (
        f"it reserves {stream['max_bytes']} bytes on the disk of each server, and all streams {total} bytes. "
        "Give JetStream more room (max_file_store), or lower queue.disk on all nodes"
    )


def check_server(version: tuple[int, int], max_payload: int, needed: int) -> None:
    """Raise `EngineUnfit` if a server is too old, or takes no message as large as `needed`."""
    if version < VERSION:
        found = ".".join(map(str, version)) if any(version) else "of an unknown version"
        raise EngineUnfit(f"the engine is NATS {found}, and must be {VERSION[0]}.{VERSION[1]} or later")
    if max_payload < needed:
        raise EngineUnfit(f"the engine's max_payload is {max_payload} bytes, and must be {needed} or more for the largest stanza")
