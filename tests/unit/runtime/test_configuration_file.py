"""Tests of the search for the configuration file."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.runtime import configuration_file
from s2sgw.runtime.configuration_file import NoConfiguration, find_configuration


class SearchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.here, self.service = self.folder / "s2sgw.toml", self.folder / "etc.toml"
        self.patch(configuration_file, "PLACES", (self.here, self.service))

    def test_order(self) -> None:
        """The variable comes first, then the current folder, then the service's place."""
        self.service.touch()
        self.assertEqual(self.service, find_configuration({}))
        self.here.touch()
        self.assertEqual(self.here, find_configuration({}))
        self.assertEqual(Path("/elsewhere"), find_configuration({"S2SGW_CONFIG": "/elsewhere"}))
        self.assertEqual(self.here, find_configuration({"S2SGW_CONFIG": ""}))

    def test_nothing(self) -> None:
        """The error lists the places searched."""
        error = str(self.assertRaises(NoConfiguration, find_configuration, {}))
        for words in ("$S2SGW_CONFIG", str(self.here), str(self.service), "--config FILE"):
            self.assertIn(words, error)
