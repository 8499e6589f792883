"""`python -m tests.attack.backend PORT`: a server behind the gateway that accepts everything, and reports its connections.

It has no TLS and believes every dialback key, so that a stream costs it little. It writes one JSON line to standard output for each
message that arrives, and one when the number of streams has changed: how many are open, by the last two labels of the peer's
domain, and the maximum so far.
"""

from __future__ import annotations

import asyncio
import json
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import count
from typing import Any

from tests.lab.peer import DIALBACK, SERVER, header

_FEATURES = "<stream:features><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>"
_CLOSE = b"</stream:stream>"
#: Seconds between two lines about the number of streams.
EVERY = 0.1


class Backend:
    """The server with all of its streams."""

    def __init__(self) -> None:
        self._ids = count()
        self._open: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._changed = False

    async def serve(self, port: int) -> None:
        """Serve forever."""
        await asyncio.start_server(self._converse, "127.0.0.1", port, backlog=4096)
        while True:
            await asyncio.sleep(EVERY)
            if self._changed:
                self._changed = False
                _say({"open": dict(+self._open), "most": dict(self._most)})

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser: Any = ET.XMLPullParser(("start", "end"))
        peer, depth = "", 0
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                for kind, element in parser.read_events():
                    depth += 1 if kind == "start" else -1
                    if kind == "start" and depth == 1:
                        peer = self._opened(element, writer)
                    elif kind == "end" and depth == 1:
                        self._heard(element, writer)
                    elif kind == "end" and depth == 0:
                        return
                await writer.drain()
        except (OSError, ET.ParseError):
            pass
        finally:
            self._counted(peer, -1)
            writer.write(_CLOSE)
            writer.close()

    def _opened(self, root: ET.Element, writer: asyncio.StreamWriter) -> str:
        peer = ".".join(root.get("from", "").split(".")[-2:])
        self._counted(peer, 1)
        opening = header(root.get("from"), root.get("to")).decode().removesuffix(">")
        writer.write(f"{opening} id='b{next(self._ids)}'>{_FEATURES}".encode())
        return peer

    def _heard(self, element: ET.Element, writer: asyncio.StreamWriter) -> None:
        to, from_ = element.get("to"), element.get("from")
        if element.tag == f"{DIALBACK}result":
            writer.write(f"<db:result type='valid' from='{to}' to='{from_}'/>".encode())
        elif element.tag == f"{SERVER}message":
            _say({"message": element.findtext(f"{SERVER}body"), "from": from_})

    def _counted(self, peer: str, change: int) -> None:
        if peer:
            self._open[peer] += change
            self._most[peer] = max(self._most[peer], self._open[peer])
            self._changed = True


def _say(row: dict[str, object]) -> None:
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    asyncio.run(Backend().serve(int(sys.argv[1])))
