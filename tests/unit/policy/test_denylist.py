"""Tests of deny lists: one domain per line, with anything else ignored."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.denylist import DenyList
from s2sgw.xmpp.jid import Domain


class ParseTests(SynchronousTestCase):
    """Tests of reading a text."""

    def test_lines(self) -> None:
        """Comments, blank lines, any spelling of a domain, a byte order mark and both line ends are accepted."""
        text = "\ufeff# spam\r\nBad.Example.\r\n\r\n  worse.example  # since 2024\n*.evil.example\nb\u00fccher.example\n192.0.2.1\nlocalhost\n"
        found = DenyList.parse("x", text)
        self.assertEqual(
            ["bad.example", "worse.example", "*.evil.example", "xn--bcher-kva.example", "192.0.2.1", "localhost"], list(found.names),
        )
        self.assertEqual(("x", 0), (found.source, found.unread))

    def test_unread(self) -> None:
        """A line that names nothing is counted, and affects no other."""
        found = DenyList.parse("x", "good.example\nnot a domain\nbad_.-example..\nother.example\n")
        self.assertEqual((["good.example", "other.example"], 2), (list(found.names), found.unread))

    def test_no_list(self) -> None:
        """A text with mostly other lines than domains, for example a web page, is not a list. An empty text is an empty list."""
        page = "<html>\n<head><title>404 not found</title></head>\n<body>gone</body>\n</html>\n"
        with self.assertRaises(ValueError) as caught:
            DenyList.parse("x", page)
        self.assertIn("4 of its 4 lines", str(caught.exception))
        self.assertEqual({}, DenyList.parse("x", "# nobody yet\n").names)

    def test_long_lines(self) -> None:
        """A line as long as a file is not a name."""
        self.assertEqual(1, DenyList.parse("x", "a.example\n" + "a" * 100_000 + ".example\n").unread)


class NamesTests(SynchronousTestCase):
    """Tests of the names in a list."""

    def test_names(self) -> None:
        """A name means only itself. With "*." it means everything under it, and not itself."""
        found = DenyList("x", dict.fromkeys({"bad.example", "*.evil.example", "192.0.2.1", "*.0.2.1"}))
        for name, named in (
            ("bad.example", True), ("BAD.example.", True), ("a.bad.example", False), ("notbad.example", False), ("evil.example", False),
            ("a.evil.example", True), ("a.b.evil.example", True), ("192.0.2.1", True), ("127.0.2.1", False), ("example", False),
        ):
            self.assertEqual(named, found.names_peer(Domain.parse(name)), name)
