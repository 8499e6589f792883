"""The limits of one stream (R32). Each refusal tells its limit."""

from __future__ import annotations

from dataclasses import dataclass

from s2sgw.xmpp.errors import RemoteFault, StreamCondition


@dataclass(frozen=True, slots=True)
class FramingLimits:
    """Bounds of what a stream may hold, in bytes where no other unit is said."""

    stanza_bytes: int = 524288
    element_bytes: int = 65536  # of any other top-level element
    header_bytes: int = 8192  # everything up to the end of the stream header
    declared_bytes: int = 1024  # what the header's declarations may add to each slice
    tag_bytes: int = 8192  # a tag of so many passes, of twice as many never
    depth: int = 64  # elements open at once, the stream counted
    attributes: int = 64  # of one element
    children: int = 512  # of one stanza
    elements: int = 64  # that are not stanzas: so many are read at once, the rest after these were answered
    stream_bytes: int | None = None  # of the whole stream: for the time before authentication

    def check_stream(self, length: int) -> None:
        """Check the length of everything received on the stream, white space before its header included."""
        if self.stream_bytes is not None and length > self.stream_bytes:
            raise violation(f"more than {self.stream_bytes} bytes before authentication")

    def check_stanza(self, length: int, children: int) -> None:
        """Check the length of a stanza, or of the part of it that was received."""
        if length > self.stanza_bytes:
            raise too_long("stanza", self.stanza_bytes)
        if children > self.children:
            raise violation(f"a stanza with more than {self.children} children")

    def check_element(self, length: int) -> None:
        """Check the length of any other top-level element, or of the part of it that was received."""
        if length > self.element_bytes:
            raise too_long("element", self.element_bytes)

    def check_header(self, length: int) -> None:
        """Check the length of the stream header."""
        if length > self.header_bytes:
            raise too_long("stream header", self.header_bytes)

    def check_tag(self, length: int) -> None:
        """Check the length of a tag whose end was not received yet."""
        if length > self.tag_bytes:
            raise too_long("tag", self.tag_bytes)

    def check_declared(self, size: int) -> None:
        """Check how much the header's declarations add to each slice."""
        if size > self.declared_bytes:
            raise violation(f"the stream header declares more than {self.declared_bytes} bytes for each stanza")


def violation(text: str) -> RemoteFault:
    """Return the stream error for a limit that was exceeded."""
    return RemoteFault(StreamCondition.POLICY_VIOLATION, text)


def too_long(what: str, limit: int) -> RemoteFault:
    """Return the stream error for something that has too many bytes."""
    return violation(f"the {what} is longer than {limit} bytes")
