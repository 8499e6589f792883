"""The console as operators use it, in a real browser. Each scene continues from the one before."""

from __future__ import annotations

from collections.abc import Callable

from tests.browser.chromium import NARROW, WIDE, Browser, CommandFailed
from tests.browser.place import EVIL, GONE, PASSWORDS, PEER, Place

PATHS = ("/", "/peers", f"/peers/{PEER}", f"/peers/{PEER}?look_up=1", "/queue", "/refusals", "/approvals", "/certificates", "/probe", "/live", "/nonsense")
TAB, ENTER = "\ue004", "\ue007"


class Scenes:
    """The scenes, in their order."""

    def __init__(self, place: Place, browser: Browser) -> None:
        self._place = place
        self._browser = browser

    def all(self) -> list[Callable[[], None]]:
        """Return the scenes."""
        return [
            self.refused_log_in, self.log_in_with_the_keyboard, self.cookie, self.certificate_waits, self.approve_and_federate,
            self.hold_and_release, self.live_events, self.deny_and_undo, self.close_and_forget, self.probe, self.hostile_names, self.no_page_is_wider_than_a_phone, self.keyboard,
            self.read_only, self.token, self.brute_force,
        ]

    def _open(self, path: str) -> None:
        self._browser.open(self._place.address + path)

    def _log_in(self, name: str, password: str) -> None:
        self._open("/login")
        self._browser.type("[name=name]", name)
        self._browser.type("[name=password]", password)
        self._browser.click("button.primary")

    def _log_out(self) -> None:
        self._browser.click(".who button")
        self._see("User", ".login")

    def _see(self, words: str, where: str = "body") -> None:
        """Wait until an element has some text."""
        try:
            self._browser.wait(lambda: words in self._browser.text(where))
        except CommandFailed:
            raise CommandFailed(f"{words!r} is not in {self._browser.text(where)!r}") from None

    def _soon(self, path: str, words: str, where: str = "main") -> None:
        """Load a page until an element of it has some text."""
        def look() -> bool:
            self._open(path)
            return words in self._browser.text(where)

        self._browser.wait(look)

    # --- scenes ---

    def refused_log_in(self) -> None:
        """A wrong password is refused with a message, and no page is shown."""
        self._open("/queue")
        self._see("User", ".login")
        self._log_in("alice", "wrong horse")
        self._see("The user or the password is wrong.", "[role=alert]")
        self._open("/")
        self._see("User", ".login")
        assert self._browser.cookies() == [], self._browser.cookies()

    def log_in_with_the_keyboard(self) -> None:
        """A user logs in with the keyboard alone, and gets the requested page."""
        self._open("/approvals")
        self._see("User", ".login")
        self._browser.press(*"alice", TAB, *PASSWORDS["alice"], ENTER)
        self._see("No certificate waits", "main")

    def cookie(self) -> None:
        """Scripts and other sites cannot read the session's cookie."""
        (cookie,) = self._browser.cookies()
        assert cookie["httpOnly"], cookie
        assert cookie["sameSite"] == "Strict", cookie
        assert self._browser.run("return document.cookie") == ""

    def certificate_waits(self) -> None:
        """A peer with a self-signed certificate is refused, and its certificate waits with the whole chain."""
        assert not self._place.try_to_connect()
        self._soon("/", "1 certificate waits for approval")
        self._browser.click(".notice.warn a")
        for words in ("refused: ", PEER, "sha256:", "itself", "Certificate of the server"):
            self._see(words, ".pending")

    def approve_and_federate(self) -> None:
        """After the approval the peer federates, and its page shows the method."""
        self._browser.type("[name=note]", "compared by telephone")
        self._browser.type("[name=lasts]", "90d")
        self._browser.click(".approve .primary")
        self._see(f"The key of {PEER} is approved.", ".notice")
        assert '"by": "console: alice"' in self._place.audited()
        wait = self._place.converse()
        answer = wait()
        assert answer == "hello", answer
        self._soon(f"/peers/{PEER}", "EXTERNAL")
        self._see("compared by telephone")

    def hold_and_release(self) -> None:
        """Stanzas of a held peer wait, and are delivered after the release."""
        self._open(f"/peers/{PEER}")
        self._browser.click("button[value=hold]")
        self._see("held.", ".notice")
        wait = self._place.converse()
        self._soon("/queue", "held", "table")
        self._browser.click("button[value=release]")
        self._see("released.", ".notice")
        answer = wait()
        assert answer == "hello", answer
        self._soon("/queue", "Nothing waits.")

    def live_events(self) -> None:
        """The page of live events shows a connection when it happens."""
        self._open(f"/live?peer={PEER}")
        self._see("Watching.", "#live-state")
        assert self._place.try_to_connect()
        self._see(PEER, "#live tbody")

    def _confirm(self, action: str) -> None:
        """Open the confirmation of a form, and confirm."""
        self._browser.click(f"details:has(form[action='{action}']) > summary")
        self._browser.click(f"form[action='{action}'] .danger")

    def deny_and_undo(self) -> None:
        """A peer that is denied on its page is refused until the same page undoes that."""
        self._open(f"/peers/{PEER}")
        self._confirm("/peer/deny")
        self._see("is denied", ".notice.good")
        assert not self._place.try_to_connect()
        self._open(f"/peers/{PEER}")
        self._browser.click("form[action='/peer/deny'] button")
        self._see("denied no longer", ".notice.good")
        assert self._place.try_to_connect()

    def close_and_forget(self) -> None:
        """After a confirmation connections are closed, and records are forgotten. An approved key stays."""
        self._open(f"/peers/{PEER}")
        self._confirm("/peer/close")
        self._see(f"with {PEER} closed.", ".notice.good")
        self._confirm("/peer/forget")
        self._see(f"Forgotten of {PEER}", ".notice.good")
        assert self._place.try_to_connect()

    def probe(self) -> None:
        """A probe runs while its page reloads, and ends with the remedy and the side at fault."""
        self._open(f"/peers/{GONE}")
        self._browser.click("a[href^='/probe?']")
        self._browser.click("form[action='/probe/run'] button.primary")
        self._see("does not federate", "h1 + p")
        for words in ("TCP", "failed", "What to do"):
            self._see(words, "main")
        self._open("/probe")
        self._browser.click("form[action='/probe/check'] button")
        self._see("clock", ".steps")

    def hostile_names(self) -> None:
        """A certificate whose name is a script is text on every page, and never runs."""
        assert not self._place.try_to_connect(EVIL)
        self._soon("/approvals", "document.title")
        for path in (*PATHS, f"/peers/{EVIL}", f"/live?peer={EVIL}"):
            self._open(path)
            assert "owned" not in self._browser.run("return document.title"), path
        complaints = [each for each in self._browser.complaints() if "404 (Not Found)" not in each and "403 (Forbidden)" not in each]
        assert not complaints, complaints

    def no_page_is_wider_than_a_phone(self) -> None:
        """Every page fits on a phone and on a desktop, in light and dark colours."""
        try:
            for size in (NARROW, WIDE):
                self._browser.size(*size)
                for scheme in ("light", "dark"):
                    self._browser.colours(scheme)
                    for path in PATHS:
                        self._open(path)
                        width = self._browser.run("return document.documentElement.scrollWidth")
                        assert width <= size[0], (path, size, width)
        finally:
            self._browser.size(*WIDE)
            self._browser.colours("light")

    def keyboard(self) -> None:
        """The first key leads past the menu to the content."""
        self._open("/peers")
        self._browser.press(TAB)
        assert self._browser.run("return document.activeElement.className") == "skip"
        self._browser.press(ENTER)
        assert self._browser.run("return document.activeElement.id") == "main"

    def read_only(self) -> None:
        """A read-only user sees the pages, and no button for a change."""
        self._log_out()
        self._log_in("bob", PASSWORDS["bob"])
        self._see("read-only", ".who")
        for path in PATHS:
            self._open(path)
            found = self._browser.run("return document.querySelectorAll('main form[method=post]').length")
            assert found == 0, (path, found)
        self._log_out()

    def token(self) -> None:
        """A link of the command logs in once."""
        link = self._place.command("console", "token", "--user", "root")
        self._browser.open(link)
        self._browser.click("button.primary")
        self._see("root", ".who")
        self._see("Overview", "h1")
        self._log_out()
        self._browser.open(link)
        self._browser.click("button.primary")
        self._see("used already", "[role=alert]")

    def brute_force(self) -> None:
        """After a few wrong passwords the right one also has to wait."""
        for number in range(20):
            self._log_in("alice", f"guess {number}")
            if "too many attempts" in self._browser.text("[role=alert]"):
                break
        self._log_in("alice", PASSWORDS["alice"])
        self._see("too many attempts", "[role=alert]")
