"""`python -m tests.install.talk PORT JID PORT JID`: two users log in and send messages to each other. A room of the second one's server answers."""

from __future__ import annotations

import asyncio
import sys
import time

from tests.lab.client import Client
from tests.lab.servers.server import PASSWORD


async def main(port: int, jid: str, other_port: int, other_jid: str) -> None:
    """Fail unless a message arrives in each direction, and the room lets the first user in."""
    one = await Client.login(port, jid, PASSWORD)
    two = await Client.login(other_port, other_jid, PASSWORD)
    for sender, receiver in ((one, two), (two, one)):
        text = f"{sender.jid} at {time.time()}"
        await sender.message(receiver.jid, text)
        await receiver.wait_message(text, 30.0)
    room = f"evening@rooms.{other_jid.partition('@')[2].partition('/')[0]}"
    await two.presence(f"{room}/host", children="<x xmlns='http://jabber.org/protocol/muc'/>")
    await two.wait_presence(f"{room}/host", seconds=30.0)
    await two.iq(room, "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>", "set")
    await one.presence(f"{room}/guest", children="<x xmlns='http://jabber.org/protocol/muc'/>")
    await one.wait_presence(f"{room}/guest", seconds=30.0)
    for client in (one, two):
        await client.presence(f"{room}/x", "unavailable")
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    sys.stdout.write("both arrived\n")
