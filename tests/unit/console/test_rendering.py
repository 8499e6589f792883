"""Tests of how values are shown."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.console import rendering
from s2sgw.console.rendering import environment


class FilterTests(SynchronousTestCase):
    def test_hostile_text(self) -> None:
        """Strangers' text is escaped, and without characters that hide or reverse the text beside them."""
        made = environment().from_string('<b title="{{ text }}">{{ text }}</b>{{ text | several_lines }}')
        text = "<script>\"'&\u202e\x00\n</b>"
        shown = made.render(text=text)
        self.assertEqual(1, shown.count("</b>"))
        for piece in ("<script>", "\u202e", "\x00", "\"'"):
            self.assertNotIn(piece, shown)
        self.assertIn("&lt;script&gt;", shown)
        self.assertLess(len(made.render(text="x" * 100_000)), 250_000)

    def test_times(self) -> None:
        """Times are in UTC, durations in the largest unit that they fill. Times beyond the calendar raise no error."""
        self.assertEqual(("1970-01-01 00:01", "1970-01-01", "–"), (rendering.moment(60), rendering.day(60), rendering.day(None)))
        self.assertEqual(["0 s", "59 s", "2 min", "3 h", "90 d", "–"], [rendering.duration(each) for each in (0.2, 59, 120, 10800, 7776000, None)])
        self.assertEqual(("9999-12-31", "1970-01-01"), (rendering.day(1e18), rendering.day(-1e18)))

    def test_sizes(self) -> None:
        """Bytes are shown in the usual units, with numbers of things."""
        self.assertEqual(["0 B", "1023 B", "1.5 KiB", "2.0 MiB", "3.0 GiB"], [rendering.size(each) for each in (0, 1023, 1536, 2**21, 3 * 2**30)])
        self.assertEqual(["1 stanza", "1,200 stanzas"], [rendering.plural(each, "stanza") for each in (1, 1200)])

    def test_peer_paths(self) -> None:
        """The path of a peer's page has its A-labels. A name that is not a domain has none."""
        self.assertEqual("/peers/xn--mnchen-3ya.example", rendering.peer_path("MÜNCHEN.example"))
        for name in ("", "a b", "<script>", "../x", "a/b", "\u202e", "x" * 5000):
            self.assertEqual("", rendering.peer_path(name))

    def test_settings(self) -> None:
        """Values are shown as the configuration has them."""
        values: tuple[object, ...] = (True, None, [], ["a", "b"], 7200.0, 2592000.0, 0.02, 90.0, 5, "x")
        self.assertEqual(["true", "none", "none", "a, b", "2h", "30d", "20ms", "90s", "5", "x"], [rendering.setting(each) for each in values])

    def test_names(self) -> None:
        """The usual kind of name is shown without a label."""
        self.assertEqual([("a.example", ""), ("a.example", "XMPP address")], [rendering.certificate_name(f"{kind} a.example") for kind in ("dNSName", "xmppAddr")])
