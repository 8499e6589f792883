"""The limits of one stream (R32). Each refusal names its limit."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.xmpp.errors import RemoteFault, StreamCondition

#: The names of a stanza's children, each `namespace}name`, may be so many characters longer than the stanza up to the last of
#: them. So 512 children in the namespace of the stream pass, and a long namespace is not multiplied by many children.
NAMES_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class FramingLimits:
    """The bounds of a stream's elements, in bytes unless another unit is given."""

    stanza_bytes: int = 524288
    element_bytes: int = 65536  # of any other top-level element
    header_bytes: int = 8192  # everything up to the end of the stream header
    declared_bytes: int = 1024  # added to each slice by the header's declarations
    tag_bytes: int = 8192  # a tag of this length passes, one of twice the length never
    depth: int = 64  # elements open at once, the stream counted
    attributes: int = 64  # of one element
    children: int = 512  # of one stanza
    elements: int = 64  # that are not stanzas: read at once, before their answers are sent
    stream_bytes: int | None = None  # of the whole stream: for the time before authentication


def violation(text: str) -> RemoteFault:
    """Return the stream error for a limit that was exceeded."""
    return RemoteFault(StreamCondition.POLICY_VIOLATION, text)


def too_long(what: str, limit: int) -> RemoteFault:
    """Return the stream error for something with too many bytes."""
    return violation(f"the {what} is longer than {limit} bytes")
