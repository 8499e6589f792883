"""Names in the engine: streams, and the subjects of records and values (docs/cluster.md). Pure.

A domain is one word of a subject, with "/" for each dot. All records of a peer are in one stream, which its name decides.
"""

from __future__ import annotations

import re
from zlib import crc32

from s2sgw.xmpp.jid import Domain, InvalidJID, Pair

#: The streams of the spool, each with a leader of its own.
SHARDS = 8
SPOOL_STREAMS = tuple(f"S2SGW_SPOOL_{number}" for number in range(SHARDS))
NODES_STREAM, BOOK_STREAM, PEN_STREAM = "S2SGW_NODES", "S2SGW_BOOK", "S2SGW_PEN"
KEPT_SUBJECTS = "s2sgw.pen.>"
PULSES = "s2sgw.pulse"

_WORD = re.compile(r"[A-Za-z0-9_=-]+\Z")
#: In a word of a key "_" stands for a dot, and "=" with two hexadecimal digits for any other character.
_SPECIAL, _ESCAPE = re.compile(r"[^A-Za-z0-9-]"), re.compile(r"=([0-9a-f]{2})")
_NODE_WORDS = ("node", "cluster")


def shard_of(peer: Domain) -> int:
    """Return the number of the stream that has the records of `peer`."""
    return crc32(peer.ascii.encode()) % SHARDS


def spool_stream(peer: Domain) -> str:
    return SPOOL_STREAMS[shard_of(peer)]


def shard_subjects(shard: int) -> str:
    """Return the pattern of all subjects of a stream of the spool."""
    return f"s2sgw.spool.{shard}.>"


def homes_subjects(shard: int) -> str:
    """Return the pattern of the home records of a stream of the spool."""
    return f"s2sgw.spool.{shard}.*.home"


def peer_subjects(peer: Domain) -> str:
    """Return the pattern of all subjects of a peer."""
    return f"{_of_peer(peer)}.>"


def home_subject(peer: Domain) -> str:
    return f"{_of_peer(peer)}.home"


def lane_subject(pair: Pair, peer: Domain) -> str:
    """Return the subject of a lane. Raises `ValueError` if the lane is not of `peer`."""
    if pair.sender == peer:
        return f"{_of_peer(peer)}.in.{_word(pair.recipient)}"
    if pair.recipient == peer:
        return f"{_of_peer(peer)}.out.{_word(pair.sender)}"
    raise ValueError(f"{pair} is no lane of {peer}")


def kept_subject(peer: Domain) -> str:
    """Return the subject of what is kept of `peer` for inspection."""
    return f"s2sgw.pen.{_word(peer)}"


def peer_of(subject: str) -> Domain | None:
    """Return the peer of a subject of the spool; None if the subject is none of ours."""
    words = subject.split(".")
    return _domain(words[3]) if len(words) > 4 else None


def pair_of(subject: str) -> Pair | None:
    """Return the lane of a subject; None if the subject is of no lane."""
    words = subject.split(".")
    if len(words) != 6 or words[4] not in ("in", "out"):
        return None
    peer, local = _domain(words[3]), _domain(words[5])
    if peer is None or local is None:
        return None
    return Pair(peer, local) if words[4] == "in" else Pair(local, peer)


def key_stream(key: str) -> str:
    """Return the stream of a value of the table."""
    return NODES_STREAM if key.partition(".")[0] in _NODE_WORDS else BOOK_STREAM


def key_subject(key: str) -> str:
    """Return the subject of a value, or of the values below a prefix and ".>". Raises `ValueError` for what is no key."""
    if not all(map(_WORD.match, key.split("."))):
        raise ValueError(f"{key!r} is no key")
    return f"s2sgw.{key}" if key_stream(key) == NODES_STREAM else f"s2sgw.book.{key}"


def key_of(subject: str) -> str:
    """Return the key of a subject of the table."""
    key = subject.removeprefix("s2sgw.")
    return key.removeprefix("book.")


def subjects_below(prefix: str) -> dict[str, str]:
    """Return the pattern of the values below `prefix`, by stream. "" has all."""
    if prefix:
        return {key_stream(prefix): f"{key_subject(prefix)}.>"}
    return {NODES_STREAM: "s2sgw.>", BOOK_STREAM: "s2sgw.book.>"}


def key_word(domain: Domain) -> str:
    """Return a word of a key for a domain. `domain_of_word` is the inverse."""
    return _SPECIAL.sub(_escaped, domain.ascii)


def _escaped(found: re.Match[str]) -> str:
    return "_" if found[0] == "." else f"={ord(found[0]):02x}"


def _meant(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def domain_of_word(word: str) -> Domain | None:
    """Return the domain of a word of a key; None: it is none of ours."""
    try:
        return Domain.parse(_ESCAPE.sub(_meant, word.replace("_", ".")))
    except InvalidJID:
        return None


def table_subjects(stream: str) -> list[str]:
    """Return the subjects of a stream of the table."""
    return ["s2sgw.node.>", "s2sgw.cluster", "s2sgw.cluster.>"] if stream == NODES_STREAM else ["s2sgw.book.>"]


def question_subject(node: str) -> str:
    """Return the subject of questions to a node. Raises `ValueError` for what is no name."""
    if not _WORD.match(node):
        raise ValueError(f"{node!r} is no name of a node")
    return f"s2sgw.ask.{node}"


def _of_peer(peer: Domain) -> str:
    return f"s2sgw.spool.{shard_of(peer)}.{_word(peer)}"


def _word(domain: Domain) -> str:
    return domain.ascii.replace(".", "/")


def _domain(word: str) -> Domain | None:
    try:
        return Domain.parse(word.replace("/", "."))
    except InvalidJID:
        return None
