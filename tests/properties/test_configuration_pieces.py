"""Tests of a configuration that is read in pieces: it says what the whole file says."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.config import ConfigError, parse
from s2sgw.policy import peer_pieces
from tests.support.examples import EXAMPLES

#: Lines of a file: good and bad ones, and those that only look like headers.
LINES = (
    '[peers."a.example"]', '[peers."b.example"]', '[peers."B.example"]', "[peers.default]", '[peers."c.example"]  # three', "[peers.'d.example']",
    '[peers."a.example".limits]', '[peers."c.example".features]', '[peers."\\u0061.example"]', '[[peers."e.example"]]', '  [peers."f.example"]',
    "[peers]", "[[peers]]", "[queue]", "[log]", '[peers."a.example"', '[peers."g.example"]]', '"h.example" = {}', 'peers."i.example".allow = true',
    'hold = "1m"', 'hold = "5"', "allow = true", "streams = 2", "sm = false", "proofs = [", '"pkix",', "]", "[1]]", 'proofs = ["pkix"]', "# [peers]", "",
    'limits = { streams = 2 }', "limits = {", "}", 'deny_namespaces = ["""', '"""]', "'''", 'deny_namespaces = ["a', "peers = {}",
)


class PiecesTests(SynchronousTestCase):
    """Tests with any lines."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "certs").mkdir(parents=True)
        self.patch(peer_pieces, "LONG", 0)  # put back at the end

    def result(self, text: str, pieces: bool) -> object:
        """Return the peers of a file, or its errors. With `pieces` it is cut."""
        peer_pieces.LONG = 0 if pieces else 1 << 30
        try:
            config = parse(text, self.folder / "s2sgw.toml")
        except ConfigError as error:
            return error.complaints
        return dict(config.peers), config.queue, config.log

    @settings(max_examples=20 * EXAMPLES, deadline=None)
    @given(st.lists(st.sampled_from(LINES[:6]) | st.sampled_from(LINES), max_size=14))
    def test_same(self, lines: list[str]) -> None:
        """The pieces of a file say what the whole file says, and its errors are the same."""
        text = '[gateway]\ndomains = ["example.org"]\n' + "\n".join(lines)
        self.assertEqual(self.result(text, pieces=False), self.result(text, pieces=True))
