"""The stanza of all measurements, and a counter of it in a byte stream."""

from __future__ import annotations

#: Bytes in one write: as many as a busy server passes to TLS at once.
CHUNK_BYTES = 65536
_END = b"</message>"
#: The id of a message, which may be replaced by one of the same length.
ID = b"ab7f-00012"


def message(sender: str, receiver: str) -> bytes:
    """Return a chat message with five children, about 400 bytes, from a user of one domain to a user of another."""
    return (
        f"<message to='romeo@{receiver}/orchard' from='juliet@{sender}/balcony' type='chat' id='ab7f-00012'>"
        "<body>Art thou not Romeo, and a Montague? Neither, fair saint.</body>"
        "<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/>"
        "<origin-id xmlns='urn:xmpp:sid:0' id='ab7f-00012'/><markable xmlns='urn:xmpp:chat-markers:0'/></message>"
    ).encode()


def chunk(stanza: bytes) -> tuple[bytes, int]:
    """Return as many copies of `stanza` as fit into one write, and their number."""
    count = max(CHUNK_BYTES // len(stanza), 1)
    return stanza * count, count


class Counter:
    """A counter of messages in a stream that arrives in pieces."""

    def __init__(self) -> None:
        self.count = 0
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """Return the number of messages that ended in this piece."""
        found = data.count(_END) + (self._tail + data[: len(_END) - 1]).count(_END)
        self._tail = data[1 - len(_END):] if len(data) >= len(_END) else (self._tail + data)[1 - len(_END):]
        self.count += found
        return found
