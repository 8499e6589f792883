"""Chromium, driven over the WebDriver protocol (W3C) through chromedriver."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

#: The key of an element in WebDriver.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
#: Seconds for one command, and for a page to show an element.
COMMAND_SECONDS = 60
PATIENCE_SECONDS = 45
WIDE, NARROW = (1280, 800), (390, 844)
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip


class CommandFailed(AssertionError):
    """Raised when the browser could not do a command."""


def is_installed() -> bool:
    """Return whether Chromium and its driver are installed."""
    return shutil.which("chromedriver") is not None and shutil.which("chromium") is not None


class Browser:
    """One window. `driver` is the address of a chromedriver."""

    def __init__(self, driver: str, profile: Path) -> None:
        self._driver = driver
        chrome = {"binary": shutil.which("chromium"), "args": [*OPTIONS, f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "acceptInsecureCerts": True, "goog:chromeOptions": chrome,
                                                   "goog:loggingPrefs": {"browser": "ALL"}}}}
        self._session = ""
        self._session = f"/session/{self.command('POST', '/session', wanted)['sessionId']}"
        self.size(*WIDE)

    def command(self, method: str, path: str, body: object = None) -> Any:
        """Send a command of the protocol, and return its value. Raise `CommandFailed` if it fails."""
        data = None if method in ("GET", "DELETE") else json.dumps(body if body is not None else {}).encode()
        request = Request(f"{self._driver}{self._session}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=COMMAND_SECONDS) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise CommandFailed(json.load(error)["value"]["message"].partition("\n")[0]) from None

    def close(self) -> None:
        """Close the window."""
        self.command("DELETE", "")

    # --- pages ---

    def open(self, address: str) -> None:
        """Load a page."""
        self.command("POST", "/url", {"url": address})

    @property
    def address(self) -> str:
        """Return the address of the page."""
        return str(self.command("GET", "/url"))

    def size(self, width: int, height: int) -> None:
        """Set the size of the page in pixels, as on a phone or a desktop."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def colours(self, scheme: str) -> None:
        """Prefer "light" or "dark"."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def devtools(self, name: str, **parameters: object) -> Any:
        """Send a command of the DevTools protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page, and return its value."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page."""
        if whole:
            size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            data = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        else:
            data = self.command("GET", "/screenshot")
        path.write_bytes(base64.b64decode(data))

    def picture(self, path: Path) -> None:
        """Write the window as a WebP."""
        data = self.devtools("Page.captureScreenshot", format="webp", quality=90)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Return the messages of the browser's console since the last call: errors of scripts and of the content policy."""
        rows = self.command("POST", "/se/log", {"type": "browser"})
        return [row["message"] for row in rows if row["level"] in ("SEVERE", "WARNING")]

    def cookies(self) -> list[dict[str, Any]]:
        """Return the cookies of the page's host."""
        found: list[dict[str, Any]] = self.command("GET", "/cookie")
        return found

    # --- elements ---

    def find(self, selector: str) -> str:
        """Return the element of a CSS selector, once it exists. Raise `CommandFailed` if it does not."""
        return str(self.wait(lambda: self.command("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]))

    def text(self, selector: str = "body") -> str:
        """Return the visible text of an element."""
        return str(self.command("GET", f"/element/{self.find(selector)}/text"))

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.command("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.command("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys, as a user without a mouse."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def wait(self, look: Callable[[], Any]) -> Any:
        """Return the value of `look` once it is true. Raise its last error after the time limit."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if found := look():
                    return found
                problem = CommandFailed(f"it did not come true within {PATIENCE_SECONDS} seconds, on {self.address}")
            except CommandFailed as error:
                problem = error
            if time.monotonic() > end:
                raise problem
            time.sleep(0.1)


@contextlib.contextmanager
def chromium(port: int, folder: Path) -> Iterator[Browser]:
    """Run a browser with a fresh profile, through a driver on a port of loopback."""
    driver = subprocess.Popen(["chromedriver", f"--port={port}", "--log-level=SEVERE"], stdout=subprocess.DEVNULL)
    try:
        _await_driver(port)
        browser = Browser(f"http://127.0.0.1:{port}", folder / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(10)


def _await_driver(port: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as answer:
                if json.load(answer)["value"]["ready"]:
                    return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)
