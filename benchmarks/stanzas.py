"""The stanza that all measurements send, and counting it in a byte stream."""

from __future__ import annotations

#: Bytes in one write: what a busy server hands to TLS at once.
CHUNK_BYTES = 65536
_END = b"</message>"
#: The id of a message, which may be replaced by one as long.
ID = b"ab7f-00012"


def message(sender: str, receiver: str) -> bytes:
    """A chat message with five children, about 400 bytes, from a user of one domain to a user of another."""
    return (
        f"<message to='romeo@{receiver}/orchard' from='juliet@{sender}/balcony' type='chat' id='ab7f-00012'>"
        "<body>Art thou not Romeo, and a Montague? Neither, fair saint.</body>"
        "<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/>"
        "<origin-id xmlns='urn:xmpp:sid:0' id='ab7f-00012'/><markable xmlns='urn:xmpp:chat-markers:0'/></message>"
    ).encode()


def chunk(stanza: bytes) -> tuple[bytes, int]:
    """As many of `stanza` as fit into one write, and how many those are."""
    count = max(CHUNK_BYTES // len(stanza), 1)
    return stanza * count, count


class Counter:
    """Counts messages in a stream that comes in pieces."""

    def __init__(self) -> None:
        self.count = 0
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """How many messages ended in this piece."""
        found = data.count(_END) + (self._tail + data[: len(_END) - 1]).count(_END)
        self._tail = data[1 - len(_END):] if len(data) >= len(_END) else (self._tail + data)[1 - len(_END):]
        self.count += found
        return found
