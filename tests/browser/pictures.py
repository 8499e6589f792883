"""`make pictures`: take the pictures in docs/images, of a gateway that has run for MINUTES, with a peer that sends and receives."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.browser.chromium import NARROW, WIDE, Browser, chromium
from tests.browser.place import GONE, PASSWORDS, ROOT, Place
from tests.lab.lab import Lab

IMAGES = ROOT / "docs" / "images"
#: Seconds between two messages of the peer.
EACH_SECONDS = 5


class Pictures:
    """The steps to take the pictures."""

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

    def _log_in(self) -> None:
        self._browser.open(self._place.address + "/login")
        self._browser.type("[name=name]", "alice")
        self._browser.type("[name=password]", PASSWORDS["alice"])
        self._browser.click("button.primary")

    def take(self, minutes: float) -> None:
        """Let a peer wait for approval, approve it, let it send, and probe a peer that is gone."""
        self._log_in()
        self._place.try_to_connect()
        self._take("approvals", "/approvals", (1280, 720))
        self._submit("/approvals", ".approve .primary")
        for _ in range(int(60 * minutes / EACH_SECONDS)):
            self._place.try_to_connect()
            time.sleep(EACH_SECONDS)
        self._log_in()
        self._submit(f"/probe?domain={GONE}", "form[action='/probe/run'] .primary")
        time.sleep(15)
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
