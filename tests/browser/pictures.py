"""`make pictures`: the pictures in docs/images, taken of a gateway that has run for MINUTES with a peer that talks."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from tests.browser.chromium import NARROW, WIDE, Browser, chromium
from tests.browser.place import GONE, PASSWORDS, PEER, ROOT, Place
from tests.lab.lab import Lab

IMAGES = ROOT / "docs" / "images"


class TalkingPeer:
    """A peer that sends messages, reads their echoes, and answers pings."""

    def __init__(self, place: Place) -> None:
        peer = place._peer(PEER)
        with contextlib.redirect_stdout(io.StringIO()):
            self._outgoing: Any = peer.send_message(("127.0.0.1", place.federation), "example.org", "hello")
            self._incoming, _ = peer.receive_message(place.listener, "example.org")
        self._incoming.connection.settimeout(None)
        threading.Thread(target=self._answer, daemon=True).start()

    def say(self, number: int) -> None:
        """Send some messages."""
        body = f"<message from='hello@{PEER}' to='echo@example.org' type='chat'><body>hello</body></message>"
        self._outgoing.connection.sendall(body.encode() * number)

    def _answer(self) -> None:
        with contextlib.suppress(Exception):
            for element in self._incoming._read:
                if element.tag == "{jabber:server}iq" and element.get("type") == "get":
                    asked_by, asked, number = (quoteattr(element.get(key, "")) for key in ("from", "to", "id"))
                    answer = f"<iq type='result' from={asked} to={asked_by} id={number}/>"
                    self._outgoing.connection.sendall(answer.encode())


class Pictures:
    """Takes them."""

    def __init__(self, place: Place, browser: Browser) -> None:
        self._place = place
        self._browser = browser

    def _take(self, name: str, path: str, size: tuple[int, int], scheme: str = "light") -> None:
        self._browser.size(*size)
        self._browser.colours(scheme)
        self._browser.open(self._place.address + path)
        self._browser.picture(IMAGES / f"{name}.webp")

    def _submit(self, path: str, button: str) -> None:
        self._browser.open(self._place.address + path)
        self._browser.click(button)

    def take(self, minutes: float) -> None:
        """Have a peer that waits for approval, approve it, have it talk, hold what it sends, and probe one that is gone."""
        self._browser.open(self._place.address + "/login")
        self._browser.type("[name=name]", "alice")
        self._browser.type("[name=password]", PASSWORDS["alice"])
        self._browser.click("button.primary")
        self._place.try_to_connect()
        self._take("approvals", "/approvals", (1280, 720))
        self._submit("/approvals", ".approve .primary")
        peer, chance = TalkingPeer(self._place), random.Random(1)
        for second in range(int(60 * minutes)):
            peer.say(chance.randrange(3 + 4 * (second // 120 % 3)))
            time.sleep(1)
        self._browser.open(self._place.address + "/login")
        self._browser.type("[name=name]", "alice")
        self._browser.type("[name=password]", PASSWORDS["alice"])
        self._browser.click("button.primary")
        self._submit(f"/peers/{PEER}", "button[value=hold]")
        self._place.converse()
        self._submit(f"/probe?domain={GONE}", "form[action='/probe/run'] .primary")
        time.sleep(30)
        self._take("probe", "/probe/1", (1280, 560))
        self._take("overview", "/", WIDE)
        self._take("queue-phone", "/queue", (NARROW[0], 640), "dark")


def main() -> int:
    """Take the pictures; the argument is the number of minutes."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    IMAGES.mkdir(exist_ok=True)
    with Lab() as lab:
        place = Place(lab)
        place.start()
        with chromium(lab.port(), Path(lab.directory("browser"))) as browser:
            Pictures(place, browser).take(minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
